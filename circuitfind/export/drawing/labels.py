"""What stands under a node's name: the label that the user gave it, or its role in a published circuit.

A role is what a paper says that a head does, such as "name mover". It is taken from a published
circuit of the same task in the same model: a model of the same shape has other heads.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.compare import describe_shape
from circuitfind.circuits.graph import Graph, Node
from circuitfind.errors import UsageError
from circuitfind.export.drawing.collapse import at_layer
from circuitfind.export.drawing.subject import Collapse
from circuitfind.files.json_file import decode_json, read_text
from circuitfind.known import published_for

LONGEST = 1000
Label = Annotated[str, Meta(max_length=LONGEST)]
NEXT = re.compile(r",(?=\s*[^\s,=]+\s*=)")
"""A comma before another NODE=; any other is part of a label."""


def published_roles(circuit: Circuit) -> dict[Node, str]:
    """The role of each node in the published circuit of the same task and model; none where there
    is no such.
    """
    known = published_for(circuit)
    return {} if known is None else {node: role for role, nodes in known.nodes.items() for node in nodes}


def read_labels(given: Iterable[str], graph: Graph, collapse: Collapse | None = None) -> dict[Node, str]:
    """The labels in texts like ``a9.h9=Name mover, m0=early`` and in JSON files that have them; of
    two the last.

    Raises UsageError for a node that the graph (or the picture, where layers are collapsed) does
    not have, for what is neither a label nor a file, and for a file that holds anything else.
    """
    shown = (
        at_layer(node) if collapse == "layers" else node for node in graph.senders if node.kind != "input"
    )
    nodes, labels = {node.name: node for node in shown}, {}
    for name, label in (pair for text in given for pair in _pairs(text)):
        if name not in nodes:
            raise UsageError(_unknown(name, nodes, graph, collapse))
        if len(label) > LONGEST:
            raise UsageError(
                f"--labels: the label of {name} has {len(label):,} characters; it may have {LONGEST:,}."
            )
        labels[nodes[name]] = label
    return labels


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """Nodes' names and their labels, as they are given."""
    if "=" not in text:
        yield from _read_file(text)
        return
    for part in NEXT.split(text):
        name, _, label = part.partition("=")
        yield name.strip(), label


def _read_file(path: str) -> Iterator[tuple[str, str]]:
    try:
        text = read_text(Path(path), UsageError)
    except UsageError:
        raise UsageError(
            f"--labels '{path}' is no label and no file of labels. Give NODE=LABEL, such as \"a9.h9=Name"
            ' mover".'
        ) from None
    yield from decode_json(text, dict[str, Label], f"--labels {path}", UsageError).items()


def _unknown(name: str, names: Iterable[str], graph: Graph, collapse: Collapse | None) -> str:
    if collapse == "layers" and name in map(str, graph.senders):
        layer = name.partition(".")[0]
        return (
            f"--labels names '{name}', which --collapse layers draws as a part of '{layer}'. Label"
            f" '{layer}'."
        )
    nearest = difflib.get_close_matches(name.lower(), list(names), n=1, cutoff=0.5)
    hint = f"Did you mean '{nearest[0]}'?" if nearest else "They are named like a0.h1 and m0."
    return f"--labels names '{name}'; a model of {describe_shape(graph)} has no such head or MLP. {hint}"
