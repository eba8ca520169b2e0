"""``circuitfind show``: a circuit in the terminal."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: circuitfind show results/my-run --node a9.h9"


def show(
    circuit: Annotated[Path, typer.Argument(metavar="CIRCUIT", help="A circuit.json or a run folder.")],
    edges: Annotated[
        int, typer.Option("--edges", "-n", metavar="N", help="How many edges to list.")
    ] = 20,
    node: Annotated[
        str | None,
        typer.Option(
            "--node",
            metavar="NODE",
            help="The edges into and out of this node alone.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show a circuit in the terminal: heads and MLPs by layer, and the strongest edges.

    The fuller a cell, the more its node sends. Plain text in a pipe, or where NO_COLOR is set.
    """
    from circuitfind.circuits.circuit import Circuit
    from circuitfind.circuits.graph import Node
    from circuitfind.cli.terminal import make_console
    from circuitfind.errors import UsageError
    from circuitfind.export.formats import terminal
    from circuitfind.export.formats.textlayers import ASCII, UNICODE

    if edges < 0:
        raise UsageError(f"--edges is {edges}; it must be 0 or more.")
    of_node, shown = Node.parse(node) if node else None, Circuit.load(circuit)
    if as_json:
        said = terminal.node_to_dict(shown, of_node, edges) if of_node else terminal.to_dict(shown, edges)
        print(json.dumps(said, indent=2, ensure_ascii=False, allow_nan=False))
        return
    console = make_console()
    view = terminal.View(console.width, edges, UNICODE if can_print(UNICODE.levels) else ASCII)
    for line in terminal.show_node(shown, of_node, view) if of_node else terminal.show(shown, view):
        line.rstrip()
        console.print(line, soft_wrap=True)


def can_print(letters: str) -> bool:
    """Whether stdout has these letters: an old terminal's encoding may not."""
    try:
        letters.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
