"""``circuitfind methods``: how a circuit can be found, what each way costs and what it can't do."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from circuitfind.methods.catalogue import CATALOGUE, DEFAULT_SCORES, DEFAULT_SEARCH, MethodInfo
from circuitfind.options import Setting

EXAMPLE = "Example: circuitfind methods --json"
_NOTE = (
    "Costs are passes of the whole model over all prompts. Methods that score edges need the circuit's size:"
    f" --edges, --nodes, --neurons, --fraction or --threshold. Without --method: {DEFAULT_SEARCH}; with a"
    f" number or a share of edges, nodes or neurons: {DEFAULT_SCORES}."
)


def methods(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """List the methods: what each does, where it was published, what it costs and what it can't do."""
    if as_json:
        defaults = {"search": DEFAULT_SEARCH, "scores": DEFAULT_SCORES}
        print(
            json.dumps(
                {"defaults": defaults, "methods": [asdict(info) for info in CATALOGUE.values()]}, indent=2
            )
        )
    elif sys.stdout.isatty():
        _print_table()
        print(_NOTE, file=sys.stderr)
    else:
        print("\n".join("\t".join(_row(info)) for info in CATALOGUE.values()))


def _row(info: MethodInfo) -> tuple[str, ...]:
    options = " ".join(
        [f"--level {level}" for level in info.levels[1:]]
        + [f"--kv {kv}" for kv in info.kv[1:]]
        + ["--positions"] * info.positions
        + [f"--{option.replace('_', '-')}" for option in info.takes]
        + [f"--set {name}={_spell(value)}" for name, value in info.settings.items()]
    )
    return info.name, info.about, info.paper, info.cost, options, info.limits


def _spell(value: Setting) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _print_table() -> None:
    from rich import box
    from rich.table import Table

    from circuitfind.cli.terminal import make_console

    table = Table(box=box.SIMPLE)
    for title in ("method", "what it does", "paper", "cost", "options", "limits"):
        table.add_column(title, no_wrap=title in ("method", "paper"), overflow="fold")
    for info in CATALOGUE.values():
        table.add_row(*_row(info))
    make_console().print(table)
