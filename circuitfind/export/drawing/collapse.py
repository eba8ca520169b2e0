"""Several edges drawn as one: those into a head's q, k and v, or those between all heads of one
layer and of another.

The one has the sum of their |scores|, with the sign of the sum of their scores: it is as thick as
all of them together, and edges of different signs do not hide each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from circuitfind.circuits.graph import Edge, Graph, Node, Receiver
from circuitfind.export.drawing.subject import Collapse

Parts = Mapping[Edge, Mapping[Edge, float]]
"""Of each edge that is drawn the circuit's edges that it stands for, with their scores."""


def collapse_edges(graph: Graph, edges: Mapping[Edge, float], collapse: Collapse | None) -> Parts:
    """What is drawn, in graph order, and what each stands for."""
    parts: dict[Edge, dict[Edge, float]] = {}
    for edge in sorted(edges, key=graph.order):
        parts.setdefault(stand_in(edge, collapse), {})[edge] = edges[edge]
    return dict(sorted(parts.items(), key=lambda item: graph.order(first_of(item[0]))))


def combine(scores: Iterable[float]) -> float:
    """The score of an edge that stands for several; of one its own."""
    numbers = list(scores)
    return (
        math.copysign(math.fsum(map(abs, numbers)), math.fsum(numbers) or 1.0)
        if len(numbers) > 1
        else numbers[0]
    )


def stand_in(edge: Edge, collapse: Collapse | None) -> Edge:
    """The edge that is drawn for this one."""
    if collapse is None:
        return edge
    sender, node = (at_layer(n) if collapse == "layers" else n for n in (edge.sender, edge.receiver.node))
    return Edge(sender, Receiver(node, None, edge.receiver.role))


def at_layer(node: Node) -> Node:
    """The node that stands for all heads of its layer; what is no head stands for itself."""
    return replace(node, head=-1) if node.of_kind.is_several else node


def first_of(edge: Edge) -> Edge:
    """The first edge of a graph that is drawn as this one: where it stands in order."""
    ends = (edge.sender, edge.receiver.node)
    sender, node = (
        replace(end, head=max(end.head, 0)) if end.of_kind.is_several else end for end in ends
    )
    slot = edge.receiver.slot or node.of_kind.slots[0]
    return Edge(sender, Receiver(node, slot, edge.receiver.role))
