"""Where each node of a picture stands: columns are heads, rows are layers, from the input below to the logits above.

A place means something: heads of one number stand above each other, so that two circuits of one model can be laid side
by side, and a circuit that gains an edge keeps its picture. Only heads and layers that are drawn take room. MLPs stand
on a spine of their own in the middle, one row above the heads whose output they read (beside them in a parallel block).

In a circuit of positions each role has columns, a spine and an input of its own, side by side in the roles' order, and
a node stands at every role at which an edge enters or leaves it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby, pairwise

from circuitfind.graph import Graph, Node

MARGIN = 18.0  # left and right of the columns, in points; the layers' numbers stand there
MOST_COLUMNS = 16  # wider models share columns, so that labels stay readable on a page
LEAST_COLUMNS = 6  # room for the legend
BETWEEN = 20.0  # between the columns of two roles, in points
LETTER = 0.6  # the width of a wide letter, in font sizes


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
        """Of legend, caption and layer numbers."""
        return 0.85 * self.font


ROOMY = Sizes(11, 48, 20, column=66, row=42, thinnest=0.7, thickest=4.5, opacity=0.9, arrow=0.6)
MEDIUM = Sizes(10, 42, 16, column=62, row=34, thinnest=0.5, thickest=3.5, opacity=0.8, arrow=0.45)
DENSE = Sizes(9, 36, 13, column=76, row=28, thinnest=0.2, thickest=1.8, opacity=0.4, arrow=0.0)
OF_NEURONS = Sizes(10, 62, 30, column=70, row=46, thinnest=0.7, thickest=4.5, opacity=0.12, arrow=0.6)
"""Where nodes have a second line: how many neurons they keep."""


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
    """Every node's box, the rows they form from input to logits, the strips of the layers, and where (x) the columns of
    one role end and those of the next begin."""

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
    """What stands at one role: the column of each head, whether there are MLPs, and how wide the input's box is."""

    role: str | None
    columns: dict[Node, int]
    mlps: tuple[Node, ...]
    input_width: float

    def spine(self, sizes: Sizes) -> float:
        """The room that the MLPs take in the middle."""
        return sizes.column if self.mlps else 0.0

    def width(self, sizes: Sizes) -> float:
        """Of all columns and the spine; where there are several roles no less than the input's box."""
        columns = self._n_columns * sizes.column + self.spine(sizes)
        return columns if self.role is None else max(columns, self.input_width)

    def places(self, left: float, sizes: Sizes) -> dict[Node, float]:
        """The x of each node, and of the input, if the group begins at ``left``."""
        spine, n_left = self.spine(sizes), (self._n_columns + 1) // 2  # columns left of the spine
        start = left + (self.width(sizes) - self._n_columns * sizes.column - spine) / 2
        middle = start + n_left * sizes.column + spine / 2 if spine else left + self.width(sizes) / 2
        places = dict.fromkeys((Node("input").at(self.role), *self.mlps), middle)
        for node, column in self.columns.items():
            places[node] = start + (column + 0.5) * sizes.column + (spine if column >= n_left else 0.0)
        return places

    @property
    def _n_columns(self) -> int:
        return max(self.columns.values(), default=-1) + 1


def lay_out(graph: Graph, nodes: Iterable[Node], sizes: Sizes) -> Layout:
    """Places for ``nodes``, which stand in forward order. Logits always have one, and the input at every role there."""
    inner = [node for node in nodes if node.kind in ("head", "mlp")]
    groups = _groups(graph, inner, {node.role for node in nodes}, sizes)
    rows = (tuple(Node("input").at(group.role) for group in groups), *_rows(inner, graph.parallel), (Node("logits"),))
    needed = sum(group.width(sizes) + BETWEEN for group in groups) - BETWEEN
    width = max(needed, LEAST_COLUMNS * sizes.column) + 2 * MARGIN
    left, places, borders = (width - needed) / 2, dict[Node, float](), []
    for group in groups:
        places |= group.places(left, sizes)
        left += group.width(sizes) + BETWEEN
        borders.append(left - BETWEEN / 2)
    places[Node("logits")] = places[rows[0][-1]]
    boxes = {}
    for y, row in zip(_heights(rows, _pitch(len(rows), width, sizes), sizes), rows, strict=True):
        for node in row:
            wide = {"input": groups[0].input_width, "logits": 1.8 * sizes.node_width}.get(node.kind, sizes.node_width)
            boxes[node] = Box(places[node], y, wide, sizes.node_height)
    height = boxes[Node("logits")].top
    return Layout(boxes, rows, _bands(rows, boxes), width, height, tuple(borders[:-1]))


def _groups(graph: Graph, nodes: list[Node], roles: set[str | None], sizes: Sizes) -> list[Group]:
    """What stands at each role that there is something at, and at the last, where the logits stand."""
    shown = [role for role in graph.roles or (None,) if role in roles or role in (None, *graph.roles[-1:])]
    longest = max(len(str(Node("input").at(role))) for role in shown)
    input_width = 1.8 * sizes.node_width
    if graph.roles:
        input_width = max(input_width, LETTER * sizes.font * longest)
    groups = []
    for role in shown:
        here = [node for node in nodes if node.role == role]
        mlps = tuple(node for node in here if node.kind == "mlp")
        columns = _columns(here, max(1, MOST_COLUMNS // len(shown)))
        groups.append(Group(role, columns, mlps, input_width))
    return groups


def _rows(nodes: list[Node], parallel: bool) -> tuple[tuple[Node, ...], ...]:
    """Heads of a layer, then its MLP; both in one row where they read the same stream."""

    def row(node: Node) -> tuple[int, bool]:
        return node.layer, node.kind == "mlp" and not parallel

    return tuple(tuple(members) for _, members in groupby(nodes, key=row))


def _columns(nodes: list[Node], most: int) -> dict[Node, int]:
    """The column of each head: one for each head number drawn, in order; shared where those are more than ``most``."""
    heads = [node for node in nodes if node.kind == "head"]
    layers = [list(members) for _, members in groupby(heads, key=lambda node: node.layer)]
    numbers = sorted({node.head for node in heads})
    n_columns = min(len(numbers), max(most, *(len(layer) for layer in layers), 0)) if heads else 0
    scale = (n_columns - 1) / max(len(numbers) - 1, 1)
    wished = {number: round(rank * scale) for rank, number in enumerate(numbers)}
    columns: dict[Node, int] = {}
    for layer in layers:
        taken = -1
        for place, node in enumerate(layer):
            room_right = n_columns - len(layer) + place  # the last column that leaves one for each head after it
            taken = min(max(wished[node.head], taken + 1), room_right)
            columns[node] = taken
    return columns


def _pitch(n_rows: int, width: float, sizes: Sizes) -> float:
    """How far rows are apart: more where they are few, so that a wide picture is no flat one."""
    return max(sizes.row, min(1.7 * sizes.row, width / n_rows))


def _heights(rows: tuple[tuple[Node, ...], ...], pitch: float, sizes: Sizes) -> list[float]:
    """The y of each row: all as far apart, a little more next to the input and the logits, where most edges end."""
    heights = [sizes.node_height / 2]
    for place in range(1, len(rows)):
        heights.append(heights[-1] + pitch * (1.3 if place in (1, len(rows) - 1) else 1.0))
    return heights


def _bands(rows: tuple[tuple[Node, ...], ...], boxes: dict[Node, Box]) -> tuple[Band, ...]:
    """One strip a layer, half-way to the layers beside it but for a thin gap."""
    inner = rows[1:-1]
    ys = [boxes[row[0]].y for row in inner]
    half = min((above - below for below, above in pairwise(ys)), default=2 * boxes[rows[0][0]].height) / 2 - 1.5
    layers = groupby(zip(ys, inner, strict=True), key=lambda item: item[1][0].layer)
    strips = ((layer, [y for y, _ in members]) for layer, members in layers)
    return tuple(Band(layer, members[0] - half, members[-1] + half) for layer, members in strips)
