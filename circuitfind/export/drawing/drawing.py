"""What a picture of a circuit shows, where, and in which colours: all that a format needs to know.
No format yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Node
from circuitfind.export.drawing.collapse import Parts, at_layer, first_of
from circuitfind.export.drawing.content import Content, choose, ends
from circuitfind.export.drawing.layout import (
    BAR,
    MARGIN,
    NUMBERS,
    OF_NEURONS,
    PADDING,
    Box,
    Layout,
    Sizes,
    choose_sizes,
    lay_out,
)
from circuitfind.export.drawing.route import Curve, Obstacles, route
from circuitfind.export.drawing.style import (
    Paint,
    Palette,
    Stroke,
    Widths,
    find_palette,
    kind_of,
    reference,
)
from circuitfind.export.drawing.subject import Look
from circuitfind.export.drawing.text import wrap

LANE = 0.4  # how far from a node curves pass it, in columns
GOLDEN = (
    0.6180339887498949  # multiples of it modulo 1 never bunch: edges near in graph order get places apart
)
ONE_LINE, LONGEST_LINE = 7.0, 9.5  # of a label, in font sizes: up to the first it is not broken
MOST_LINES = 2  # of a label
ROOM_BETWEEN_LAYERS = 1.8  # how many times as wide columns are where layers are collapsed


@dataclass(frozen=True)
class Drawing:
    """A circuit, what is drawn of it, and the geometry. ``notes``: the lines under names, by node
    without role.
    """

    circuit: Circuit
    look: Look
    content: Content
    sizes: Sizes
    layout: Layout
    widths: Widths
    rows: tuple[Obstacles, ...]
    notes: Mapping[Node, tuple[str, ...]]

    @property
    def edges(self) -> Mapping[Edge, float]:
        """The edges drawn, in graph order. An edge that stands for several (``parts``) has a
        receiver without a slot, and where layers are collapsed heads without a number."""
        return self.content.edges

    @property
    def parts(self) -> Parts:
        """The circuit's edges that each edge stands for."""
        return self.content.parts

    @property
    def strengths(self) -> Mapping[Node, float]:
        """Of a circuit of neurons, in which no edge is drawn: the sum of each node's |scores|,
        which ``widths`` measure."""
        return self.content.strengths

    @property
    def marks(self) -> Mapping[Edge | Node, str]:
        """Names of ``style.MARKS`` for edges, or for nodes, that are drawn as one of them."""
        return self.content.marks

    @property
    def palette(self) -> Palette:
        """The colours."""
        return find_palette(self.look.style)

    @cached_property
    def colours(self) -> Mapping[str, str]:
        """The colour of each label; those beyond the palette's have none."""
        return dict(zip(dict.fromkeys(self.content.labels.values()), self.palette.roles, strict=False))

    def paint(self, node: Node) -> Paint:
        """How the node is drawn: in its label's colour, which at neuron level is its border's; as
        its mark says.
        """
        base = node.at(None)
        paint = self.palette.paint(node.kind)
        if base in self.strengths:
            paint = replace(
                paint, fill=self.palette.tint(self.sizes.opacity, self.widths.share(self.strengths[base]))
            )
        if colour := self.colours.get(self.content.labels.get(base, "")):
            paint = self._coloured(paint, colour)
        return self.palette.marked(paint, self.marks[base]) if base in self.marks else paint

    def swatch(self, colour: str) -> Paint:
        """How the legend shows the colour of a label."""
        return self._coloured(self.palette.head, colour)

    def _coloured(self, paint: Paint, colour: str) -> Paint:
        if self.strengths:
            return replace(paint, line=colour, width=2.4)
        return replace(paint, fill=colour, ink=self.palette.role_ink)

    def stroke(self, edge: Edge) -> Stroke:
        """How the edge is drawn."""
        stroke = self.palette.strokes[kind_of(edge)]
        return (
            replace(self.palette.marks[self.marks[edge]], port=stroke.port)
            if edge in self.marks
            else stroke
        )

    def curve(self, edge: Edge, gap: float) -> Curve:
        """The edge's curve, ending ``gap`` points below its receiver."""
        graph, boxes = self.circuit.graph, self.layout.boxes
        sender, receiver = (boxes[node] for node in ends(graph, edge))
        place, column = graph.order(first_of(edge))
        share = (place * len(graph.senders) + column) * GOLDEN % 1
        end = (self._arrival(edge, sender, receiver, share), receiver.bottom - gap)
        if edge.sender.kind == "input":
            start = sender.x + self._along(sender, end[0])
        else:
            start = sender.x + 0.6 * _clamp((end[0] - sender.x) / (2 * sender.width)) * sender.width
        return route((start, sender.top), end, self.rows, share)

    def _arrival(self, edge: Edge, sender: Box, receiver: Box, share: float) -> float:
        """The x at which the edge arrives: at its slot's port, else nearer to where it comes from."""
        if edge.receiver.node.kind == "logits":
            return receiver.x + self._along(receiver, sender.x + (share - 0.5) * self.sizes.node_width)
        port = self.palette.strokes[kind_of(edge)].port
        if port is None:
            port = _clamp((sender.x - receiver.x) / self.layout.width) + 0.4 * (share - 0.5)
        return receiver.x + port * receiver.width / 2

    def _along(self, bar: Box, x: float) -> float:
        """Where on a bar, from its middle, an edge from or to ``x`` stands: edges keep their order."""
        return 0.94 * bar.width * _clamp(BAR * (x - bar.x) / bar.width)

    @property
    def crossings(self) -> tuple[tuple[Node, ...], ...]:
        """Of each head that reads keys or values at one role and writes at another: the head at all
        of these roles.
        """
        graph = self.circuit.graph
        reads = {
            ends(graph, e)[1]
            for e in self.edges
            if any(p.receiver.slot in ("k", "v") for p in self.parts[e])
        }
        writes = {ends(graph, edge)[0] for edge in self.edges}
        found = []
        for head in dict.fromkeys(node.at(None) for node in self.content.nodes if node.kind == "head"):
            sources, targets = (
                {head.at(role) for role in graph.roles} & some for some in (reads, writes)
            )
            if sources and targets and len(sources | targets) > 1:
                found.append(
                    tuple(head.at(role) for role in graph.roles if head.at(role) in sources | targets)
                )
        return tuple(found)


def _clamp(value: float) -> float:
    return max(-0.5, min(0.5, value))


def draw(circuit: Circuit, look: Look = Look()) -> Drawing:  # noqa: B008 - frozen
    """The picture of ``circuit``; of more than ``look.most_edges`` edges, the strongest.

    Raises UsageError where the look does not go with a circuit of neurons.
    """
    content = choose(circuit, look)
    plain = choose_sizes(len(content.edges)) if circuit.neurons is None else OF_NEURONS
    if look.collapse == "layers":
        plain = replace(
            plain, column=ROOM_BETWEEN_LAYERS * plain.column
        )  # few columns, and all edges between them
    sizes = plain.fit(_notes(circuit, look, content, plain))
    notes = _notes(circuit, look, content, sizes)
    layout = lay_out(circuit.graph, content.nodes, sizes, notes)
    measured = content.edges if circuit.neurons is None else content.strengths
    widths = Widths(reference(measured.values()), sizes.thinnest, sizes.thickest)
    lane = max(LANE * plain.column, 0.8 * (sizes.column - sizes.node_width))
    rows = tuple(
        Obstacles(layout.row_boxes(row), lane, NUMBERS, layout.width - (MARGIN - NUMBERS))
        for row in layout.rows
    )
    return Drawing(circuit, look, content, sizes, layout, widths, rows, notes)


def _notes(circuit: Circuit, look: Look, content: Content, sizes: Sizes) -> dict[Node, tuple[str, ...]]:
    """The lines under the name of each node that has some: how much of it there is, then its label."""
    size, notes = sizes.small_font, dict[Node, tuple[str, ...]]()
    least = max(sizes.node_width - 2 * PADDING, ONE_LINE * size)
    for node in dict.fromkeys(node.at(None) for node in content.nodes):
        label = wrap(
            content.labels.get(node, ""), least, max(least, LONGEST_LINE * size), size, MOST_LINES
        )
        lines = (_count(circuit, look, node), *label)
        if any(lines):
            notes[node] = tuple(filter(None, lines))
    return notes


def _count(circuit: Circuit, look: Look, node: Node) -> str:
    """How many neurons or heads the node stands for."""
    if circuit.neurons is not None and node.is_inner:
        n_kept = sum(neuron.node == node for neuron in circuit.neurons)
        return f"{n_kept:,} of {circuit.all_neurons.width(node):,}"
    if look.collapse == "layers" and node.of_kind.is_several:
        n_kept = sum(at_layer(kept) == node for kept in circuit.nodes)
        return f"{n_kept:,} {node.of_kind.noun}" + "s" * (n_kept != 1)
    return ""
