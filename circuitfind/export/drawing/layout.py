"""Where each node of a picture stands: columns are heads, rows are layers, from the input below to
the logits above.

A place means something: heads of one number stand above each other, so that two circuits of one
model can be laid side by side, and a circuit that gains an edge keeps its picture. Only heads and
layers that are drawn take room. MLPs stand on a spine of their own in the middle, one row above the
heads whose output they read (beside them in a parallel block).

In a circuit of positions each role has columns, a spine and an input of its own, side by side in
the roles' order, and a node stands at every role at which an edge enters or leaves it.

Input and logits are bars across most of the columns, so that edges from and to them run beside each
other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

from circuitfind.circuits.graph import Graph, Node
from circuitfind.export.drawing.text import measure

NUMBERS = 22.0  # at the left edge, in points: the layers' numbers stand there
MARGIN = 30.0  # left and right of the columns: the numbers, and edges that pass the outermost nodes
MOST_COLUMNS = 16  # wider models share columns, so that labels stay readable on a page
LEAST_WIDTH = 400.0  # room for the legend
BETWEEN = 20.0  # between the columns of two roles, in points
BAR = 0.6  # the length of the input's and the logits' bars, in widths of all columns
PADDING = 5.0  # between a label and the sides of its box
LEADING = 1.2  # from line to line, in font sizes


@dataclass(frozen=True)
class Sizes:
    """Lengths of a picture in points: small when there is much to show."""

    font: float
    node_width: float
    node_height: float
    column: float
    row: float
    thinnest: float
    thickest: float
    opacity: float
    arrow: float

    @property
    def small_font(self) -> float:
        """Of legend, caption, layer numbers, and of what stands under a node's name."""
        return 0.85 * self.font

    @property
    def bar_height(self) -> float:
        """Of input and logits."""
        return 1.8 * self.font

    def fit(self, notes: Mapping[Node, tuple[str, ...]]) -> Sizes:
        """Boxes wide enough for the lines that stand in them, and columns as far apart as before."""
        widest = max(
            (measure(line, self.small_font) for lines in notes.values() for line in lines), default=0.0
        )
        wider = max(0.0, widest + 2 * PADDING - self.node_width)
        return replace(self, node_width=self.node_width + wider, column=self.column + wider)


ROOMY = Sizes(11, 48, 20, column=66, row=42, thinnest=0.7, thickest=4.5, opacity=0.9, arrow=0.6)
MEDIUM = Sizes(10, 42, 16, column=62, row=34, thinnest=0.5, thickest=3.5, opacity=0.8, arrow=0.45)
DENSE = Sizes(9, 36, 13, column=76, row=28, thinnest=0.2, thickest=1.8, opacity=0.3, arrow=0.0)
OF_NEURONS = Sizes(10, 62, 18, column=70, row=34, thinnest=0.7, thickest=4.5, opacity=0.12, arrow=0.6)
"""Of a circuit at neuron level, whose nodes say how many neurons they keep."""


def choose_sizes(n_edges: int) -> Sizes:
    """Sizes that suit a picture of so many edges."""
    if n_edges <= 60:
        return ROOMY
    return MEDIUM if n_edges <= 600 else DENSE


@dataclass(frozen=True)
class Box:
    """A node's place: its centre and its size, in points, y upwards."""

    x: float
    y: float
    width: float
    height: float

    @property
    def left(self) -> float:
        return self.x - self.width / 2

    @property
    def right(self) -> float:
        return self.x + self.width / 2

    @property
    def bottom(self) -> float:
        return self.y - self.height / 2

    @property
    def top(self) -> float:
        return self.y + self.height / 2


@dataclass(frozen=True)
class Band:
    """The strip of the picture that one layer takes."""

    layer: int
    bottom: float
    top: float


@dataclass(frozen=True)
class Layout:
    """Every node's box, the rows they form from input to logits, the strips of the layers, and
    where (x) the columns of one role end and those of the next begin."""

    boxes: dict[Node, Box]
    rows: tuple[tuple[Node, ...], ...]
    bands: tuple[Band, ...]
    width: float
    height: float
    borders: tuple[float, ...] = ()

    def row_boxes(self, row: Iterable[Node]) -> tuple[Box, ...]:
        """The boxes of a row from left to right."""
        return tuple(sorted((self.boxes[node] for node in row), key=lambda box: box.x))


@dataclass(frozen=True)
class Group:
    """What stands at one role: the column of each head, whether there are MLPs, and the least
    length of the bars.
    """

    role: str | None
    columns: dict[Node, int]
    mlps: tuple[Node, ...]
    least_bar: float

    def spine(self, sizes: Sizes) -> float:
        """The room that the MLPs take in the middle."""
        return sizes.column if self.mlps else 0.0

    def width(self, sizes: Sizes) -> float:
        """Of all columns and the spine, or of the input's bar where that is wider."""
        return max(self._n_columns * sizes.column + self.spine(sizes), self.least_bar)

    def bar(self, sizes: Sizes) -> float:
        """The length of the bars of input and logits."""
        return max(self.least_bar, BAR * self.width(sizes))

    def places(self, left: float, sizes: Sizes) -> dict[Node, float]:
        """The x of each node, and of the input, if the group begins at ``left``."""
        spine, n_left = self.spine(sizes), (self._n_columns + 1) // 2  # columns left of the spine
        start = left + (self.width(sizes) - self._n_columns * sizes.column - spine) / 2
        middle = left + self.width(sizes) / 2
        places = dict.fromkeys(self.mlps, start + n_left * sizes.column + spine / 2)
        places[Node("input").at(self.role)] = middle
        for node, column in self.columns.items():
            places[node] = start + (column + 0.5) * sizes.column + (spine if column >= n_left else 0.0)
        return places

    @property
    def _n_columns(self) -> int:
        return max(self.columns.values(), default=-1) + 1


def lay_out(
    graph: Graph, nodes: Iterable[Node], sizes: Sizes, notes: Mapping[Node, tuple[str, ...]]
) -> Layout:
    """Places for ``nodes``, which stand in forward order, ``notes`` lines under some of their names.

    Logits always have a place, and the input at every role that there is.
    """
    inner = [node for node in nodes if node.is_inner]
    groups = _groups(graph, inner, {node.role for node in nodes}, sizes)
    rows = (
        tuple(Node("input").at(group.role) for group in groups),
        *_rows(inner, graph.parallel),
        (Node("logits"),),
    )
    needed = sum(group.width(sizes) + BETWEEN for group in groups) - BETWEEN
    width = max(needed + 2 * MARGIN, LEAST_WIDTH)
    left, places, bars, borders = (width - needed) / 2, dict[Node, float](), dict[Node, float](), []
    for group in groups:
        places |= group.places(left, sizes)
        bars[Node("input").at(group.role)] = bars[Node("logits")] = group.bar(sizes)
        left += group.width(sizes) + BETWEEN
        borders.append(left - BETWEEN / 2)
    places[Node("logits")] = places[rows[0][-1]]
    heights = [_height(row, sizes, notes) for row in rows]
    boxes = dict[Node, Box]()
    for y, row, height in zip(
        _ys(heights, _pitch(len(rows), width, sizes), sizes), rows, heights, strict=True
    ):
        boxes |= {node: Box(places[node], y, bars.get(node, sizes.node_width), height) for node in row}
    return Layout(boxes, rows, _bands(rows, boxes), width, boxes[Node("logits")].top, tuple(borders[:-1]))


def _groups(graph: Graph, nodes: list[Node], roles: set[str | None], sizes: Sizes) -> list[Group]:
    """What stands at each role that there is something at, and at the last, where the logits stand."""
    shown = [
        role for role in graph.roles or (None,) if role in roles or role in (None, *graph.roles[-1:])
    ]
    longest = max(measure(str(Node("input").at(role)), sizes.font) for role in shown)
    least_bar = max(1.8 * sizes.node_width, longest + 2 * PADDING)
    groups = []
    for role in shown:
        here = [node for node in nodes if node.role == role]
        mlps = tuple(node for node in here if not node.of_kind.is_several)
        columns = _columns(here, max(1, MOST_COLUMNS // len(shown)))
        groups.append(Group(role, columns, mlps, least_bar))
    return groups


def _rows(nodes: list[Node], parallel: bool) -> tuple[tuple[Node, ...], ...]:
    """Heads of a layer, then its MLP; both in one row where they read the same stream."""

    def row(node: Node) -> tuple[int, bool]:
        return node.layer, not node.of_kind.is_several and not parallel

    return tuple(tuple(members) for _, members in groupby(nodes, key=row))


def _columns(nodes: list[Node], most: int) -> dict[Node, int]:
    """The column of each head: one for each head number drawn, in order; shared where those are
    more than ``most``.
    """
    heads = [node for node in nodes if node.of_kind.is_several]
    layers = [list(members) for _, members in groupby(heads, key=lambda node: node.layer)]
    numbers = sorted({node.head for node in heads})
    n_columns = min(len(numbers), max(most, *(len(layer) for layer in layers), 0)) if heads else 0
    scale = (n_columns - 1) / max(len(numbers) - 1, 1)
    wished = {number: round(rank * scale) for rank, number in enumerate(numbers)}
    columns: dict[Node, int] = {}
    for layer in layers:
        taken = -1
        for place, node in enumerate(layer):
            room_right = (
                n_columns - len(layer) + place
            )  # the last column that leaves one for each head after it
            taken = min(max(wished[node.head], taken + 1), room_right)
            columns[node] = taken
    return columns


def _pitch(n_rows: int, width: float, sizes: Sizes) -> float:
    """How far rows are apart: more where they are few, so that a wide picture is no flat one."""
    return max(sizes.row, min(1.7 * sizes.row, width / n_rows))


def _height(row: tuple[Node, ...], sizes: Sizes, notes: Mapping[Node, tuple[str, ...]]) -> float:
    """The height of a row's boxes, with room for the most lines under a name in it."""
    if not row[0].is_inner:
        return sizes.bar_height
    n_lines = max(len(notes.get(node.at(None), ())) for node in row)
    return sizes.node_height + n_lines * LEADING * sizes.small_font


def _ys(heights: list[float], pitch: float, sizes: Sizes) -> list[float]:
    """The y of each row: the same room between all, a little more next to the input and the logits,
    where most edges end."""
    gap, y, ys = pitch - sizes.node_height, heights[0] / 2, [heights[0] / 2]
    for place, (below, height) in enumerate(pairwise(heights), start=1):
        y += (below + height) / 2 + gap + (0.3 * pitch if place in (1, len(heights) - 1) else 0.0)
        ys.append(y)
    return ys


def _bands(rows: tuple[tuple[Node, ...], ...], boxes: dict[Node, Box]) -> tuple[Band, ...]:
    """One strip a layer, half-way to the layers beside it but for a thin gap."""
    inner = [boxes[row[0]] for row in rows[1:-1]]
    gaps = [above.bottom - below.top for below, above in pairwise(inner)]
    room = min(gaps, default=2 * boxes[rows[0][0]].height) / 2 - 1.5
    layers = groupby(zip(inner, rows[1:-1], strict=True), key=lambda item: item[1][0].layer)
    strips = ((layer, [box for box, _ in members]) for layer, members in layers)
    return tuple(
        Band(layer, members[0].bottom - room, members[-1].top + room) for layer, members in strips
    )
