"""The shape of a model whose edges are listed by name alone: told by the user, or by the list where
it has all.
"""

from __future__ import annotations

import re

from circuitfind.circuits.graph import Graph
from circuitfind.errors import CircuitError, UsageError
from circuitfind.exchange.edges import make_graph

HOW = (
    "Say the model's layers and heads, for instance --shape 12x12 (12x12-parallel for Pythia's kind of"
    " blocks)."
)


def parse_shape(text: str) -> Graph:
    """The graph of ``12x12`` or ``12x12-parallel``. Raises UsageError for anything else.

    >>> parse_shape("2x4-parallel")
    Graph(n_layers=2, n_heads=4, parallel=True, roles=())
    """
    match = re.fullmatch(r"(\d{1,9})x(\d{1,9})(-parallel)?", text, re.ASCII)
    if match is None:
        raise UsageError(f"--shape is '{text}'. {HOW}")
    return make_graph(int(match[1]), int(match[2]), bool(match[3]), f"--shape {text}")


def settle_shape(asked: Graph | None, told: Graph | None, source: str) -> Graph:
    """The shape that is asked for, or the one that the file tells. Raises CircuitError where there
    is neither, or where they differ."""
    if asked is None and told is None:
        raise CircuitError(f"{source} lists edges, which don't tell the shape of their model.\n{HOW}")
    if asked is not None and told is not None and asked != told:
        shapes = [f"{g.n_layers}x{g.n_heads}{'-parallel' * g.parallel}" for g in (told, asked)]
        raise CircuitError(
            f"{source} is of a model of the shape {shapes[0]}, not {shapes[1]}. Leave --shape out."
        )
    shape = asked or told
    assert shape is not None
    return shape
