"""``circuitfind bench``: how well the methods do where the answer is known."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from circuitfind.methods.catalogue import CATALOGUE

EXAMPLE = "Example: circuitfind bench truth --methods acdc,eap-ig"
app = typer.Typer(no_args_is_help=True, help="Measure methods where the answer is known.", epilog=EXAMPLE)


@app.callback()
def bench() -> None:
    """Measure methods where the answer is known."""


@app.command("truth", epilog=EXAMPLE)
def truth(
    methods: Annotated[
        str,
        typer.Option(metavar="METHOD,METHOD...", help="Which methods. Default: all.", show_default=False),
    ] = "",
    models: Annotated[
        str,
        typer.Option(metavar="MODEL,MODEL...", help="Which models. Default: all.", show_default=False),
    ] = "",
    seed: Annotated[int, typer.Option(help="Of methods that draw: masks and random.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress; warnings only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Run methods on small models whose circuit is known, and print how well each ranks the true
    edges above the rest.

    Edge AUROC: 1 is perfect, 0.5 is chance. Seconds are those of scoring, for ACDC those of a sweep
    of thresholds.
    """
    from circuitfind.cli.run import parse_names
    from circuitfind.cli.terminal import TerminalProgress
    from circuitfind.methods.options import find_info
    from circuitfind.truth.known import choose_models

    chosen = [find_info(name).name for name in parse_names(methods) or CATALOGUE]
    known = choose_models(parse_names(models))
    with TerminalProgress(quiet) as progress:
        progress.stage("loading")
        from circuitfind.truth.bench import bench_truth

        result = bench_truth(known, chosen, seed, progress)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        print_table(result)


def print_table(result: dict[str, Any]) -> None:
    """Methods by models; aligned in a terminal, else with tabs."""
    names = [model["name"] for model in result["models"]]
    titles = ("method", *names, "median", "seconds")
    rows = [row_of(method, names) for method in result["methods"]]
    sizes = (
        "true edges",
        *(f"{model['n_true']}/{model['n_edges']}" for model in result["models"]),
        "",
        "",
    )
    if not sys.stdout.isatty():
        print("\n".join("\t".join(row) for row in (titles, sizes, *rows)))
        return
    from rich import box
    from rich.table import Table

    from circuitfind.cli.terminal import make_console

    table = Table(box=box.SIMPLE)
    for title in titles:
        table.add_column(title, no_wrap=True, justify="left" if title == "method" else "right")
    table.add_row(*sizes, style="dim")
    for row in rows:
        table.add_row(*row)
    make_console().print(table)


def row_of(method: dict[str, Any], names: list[str]) -> tuple[str, ...]:
    scores = (f"{method['models'][name]['auroc']:.3f}" for name in names)
    return method["name"], *scores, f"{method['median_auroc']:.3f}", f"{method['seconds']:.1f}"
