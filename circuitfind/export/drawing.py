"""What a picture of a circuit shows, and where: the edges drawn, their widths, the nodes' places. No format yet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from circuitfind.circuit import Circuit
from circuitfind.export.layout import OF_NEURONS, Layout, Sizes, choose_sizes, lay_out
from circuitfind.export.route import Curve, Obstacles, route
from circuitfind.export.style import MARKS, Stroke, Widths, reference, stroke_of
from circuitfind.export.subject import Look
from circuitfind.graph import Edge, Graph, Node
from circuitfind.neurons import Neuron, by_node

LANE = 0.4  # how far from a node curves pass it, in columns
GOLDEN = 0.6180339887498949  # multiples of it modulo 1 never bunch: edges near in graph order get places apart


@dataclass(frozen=True)
class Drawing:
    """A circuit, the edges of it that are drawn (in graph order), and their geometry.

    Of a circuit of neurons, in which all edges are kept, none is drawn: ``strengths`` has for each node with kept
    neurons the sum of their |scores|, which ``widths`` measure.
    """

    circuit: Circuit
    edges: Mapping[Edge, float]
    sizes: Sizes
    layout: Layout
    widths: Widths
    rows: tuple[Obstacles, ...]
    strengths: Mapping[Node, float] = field(default_factory=dict)
    marks: Mapping[Edge, str] = field(default_factory=dict)
    """Names of ``style.MARKS`` for edges that are drawn as one of them."""

    def stroke(self, edge: Edge) -> Stroke:
        """How the edge is drawn."""
        stroke = stroke_of(edge)
        return replace(MARKS[self.marks[edge]], port=stroke.port) if edge in self.marks else stroke

    def curve(self, edge: Edge, gap: float) -> Curve:
        """The edge's curve, ending ``gap`` points below its receiver."""
        graph, boxes = self.circuit.graph, self.layout.boxes
        sender, receiver = (boxes[node] for node in ends(graph, edge))
        place, column = graph.order(edge)
        share = (place * len(graph.senders) + column) * GOLDEN % 1
        port = stroke_of(edge).port
        if port is None:
            port = _clamp((sender.x - receiver.x) / self.layout.width) + 0.4 * (share - 0.5)
        end = (receiver.x + port * receiver.width / 2, receiver.bottom - gap)
        start = (sender.x + 0.6 * _clamp((end[0] - sender.x) / (2 * sender.width)) * sender.width, sender.top)
        return route(start, end, self.rows, share)

    @property
    def crossings(self) -> tuple[tuple[Node, ...], ...]:
        """Of each head that reads keys or values at one role and writes at another: the head at all of these roles."""
        graph = self.circuit.graph
        reads = {ends(graph, edge)[1] for edge in self.edges if edge.receiver.slot in ("k", "v")}
        writes = {ends(graph, edge)[0] for edge in self.edges}
        found = []
        for head in graph.senders:
            sources, targets = ({head.at(role) for role in graph.roles} & some for some in (reads, writes))
            if sources and targets and len(sources | targets) > 1:
                found.append(tuple(head.at(role) for role in graph.roles if head.at(role) in sources | targets))
        return tuple(found)


def ends(graph: Graph, edge: Edge) -> tuple[Node, Node]:
    """The two nodes that an edge is drawn between, in a circuit of positions at the receiver's role; the logits stand
    there once."""
    role, receiver = graph.role_of(edge.receiver), edge.receiver.node
    return edge.sender.at(role), receiver if receiver.kind == "logits" else receiver.at(role)


def _clamp(value: float) -> float:
    return max(-0.5, min(0.5, value))


def draw(circuit: Circuit, look: Look = Look()) -> Drawing:  # noqa: B008 - frozen
    """The picture of ``circuit``; of more than ``look.most_edges`` edges, the strongest."""
    if circuit.neurons is not None:
        return _draw_nodes(circuit, circuit.neurons)
    edges = strongest(circuit.edges, look.most_edges)
    sizes = choose_sizes(len(edges))
    layout = lay_out(circuit.graph, _touched(circuit.graph, edges), sizes)
    widths = Widths(reference(edges.values()), sizes.thinnest, sizes.thickest)
    rows = tuple(
        Obstacles(tuple(sorted((layout.boxes[node] for node in row), key=lambda box: box.x)), LANE * sizes.column)
        for row in layout.rows
    )
    return Drawing(circuit, edges, sizes, layout, widths, rows, marks=look.marks)


def _draw_nodes(circuit: Circuit, neurons: Mapping[Neuron, float]) -> Drawing:
    strengths = {node: math.fsum(map(abs, scores)) for node, scores in by_node(neurons).items()}
    layout = lay_out(circuit.graph, [node for node in circuit.graph.senders if node in strengths], OF_NEURONS)
    widths = Widths(reference(strengths.values()), OF_NEURONS.thinnest, OF_NEURONS.thickest)
    return Drawing(circuit, {}, OF_NEURONS, layout, widths, (), strengths)


def strongest(edges: Mapping[Edge, float], most: int) -> dict[Edge, float]:
    """The ``most`` edges of largest |score| (of equals the first in graph order), in graph order."""
    kept = set(sorted(edges, key=lambda edge: -abs(edges[edge]))[:most])
    return {edge: score for edge, score in edges.items() if edge in kept}


def _touched(graph: Graph, edges: Iterable[Edge]) -> list[Node]:
    nodes = {node for edge in edges for node in ends(graph, edge)}
    return [at for node in graph.senders for role in graph.roles or (None,) if (at := node.at(role)) in nodes]
