"""circuitfind models: the models that have a name, and fetching one ahead of a run."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
import typer.core

from circuitfind.models.loading.catalogue import CATALOGUE, DEFAULT_MODEL, NamedModel


class ListByDefault(typer.core.TyperGroup):
    """The group of commands that lists when no command is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["list"])


app = typer.Typer(
    cls=ListByDefault,
    help="List and fetch models.",
    epilog="Example: circuitfind models pull smollm2-135m",
)

_OTHERS = (
    "Any name TransformerLens knows (gpt2, pythia-160m, ...), any hub name (organisation/model), a local"
    " folder in the hub's layout and a .gguf file work as well."
)


@app.command("list", epilog="Example: circuitfind models list --json")
def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show the models that have a name: what each is, its size, licence and origin, and whether it
    is here already.
    """
    if as_json:
        print(
            json.dumps(
                {"default": DEFAULT_MODEL, "models": [_record(model) for model in CATALOGUE.values()]},
                indent=2,
            )
        )
        return
    rows = [_row(model) for model in CATALOGUE.values()]
    if sys.stdout.isatty():
        _print_table(rows)
    else:
        print("\n".join("\t".join(row) for row in rows))
    print(_OTHERS, file=sys.stderr)


@app.command("pull", epilog="Example: circuitfind models pull smollm2-135m")
def pull(
    name: Annotated[
        str, typer.Argument(help="A model of the list, a TransformerLens or hub name, or a .gguf file.")
    ],
) -> None:
    """Fetch a model now, so that a run finds it here; print its folder. Of one that can't be run
    nothing is fetched.
    """
    from circuitfind.cli.terminal import TerminalProgress
    from circuitfind.models.loading.config import judge, read_config
    from circuitfind.models.loading.locate import locate

    with TerminalProgress() as progress:
        folder = locate(name, progress)
    judge(read_config(folder), str(folder / "config.json"))
    print(folder)


def _record(model: NamedModel) -> dict[str, str | bool]:
    return {
        "name": model.name,
        "about": model.about,
        "size": model.size,
        "licence": model.licence,
        "origin": model.origin,
        "here": model.is_here,
    }


def _row(model: NamedModel) -> tuple[str, ...]:
    about = f"{model.about} (default)" if model.name == DEFAULT_MODEL else model.about
    return model.name, about, model.size, model.licence, model.origin, "yes" if model.is_here else "no"


def _print_table(rows: list[tuple[str, ...]]) -> None:
    from rich import box
    from rich.table import Table

    from circuitfind.cli.terminal import make_console

    table = Table(box=box.SIMPLE)
    for title in ("model", "what it is", "size", "licence", "comes from", "here"):
        table.add_column(title, no_wrap=title in ("model", "licence", "here"), overflow="fold")
    for row in rows:
        table.add_row(*row)
    make_console().print(table)
