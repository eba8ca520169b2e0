"""What stands around the circuit, and where: the legend of lines and colours, the caption, the
edges of the page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from circuitfind.circuits.graph import Edge
from circuitfind.export.drawing.drawing import Drawing
from circuitfind.export.drawing.style import INK, Paint
from circuitfind.export.drawing.text import STEPS, fill, measure, shorten

SAMPLE = 26.0  # the length of a line shown in the legend, in points
SAMPLE_HEIGHT = 8.0  # of a box shown there
GAP = 14.0  # between two entries
AFTER_SAMPLE = 5.0
PITCH = 1.9  # from row to row of the legend, in font sizes
LEADING = 1.3  # from line to line of the caption
LINK_WIDTH = 1.2  # of what joins a head that reads at one role to where it writes
LONGEST_NAME = 40  # letters of a task, model, method or label in caption and legend


@dataclass(frozen=True)
class Entry:
    """A sample and what it means: a line, or a node's box where it has a ``paint``."""

    text: str
    colour: str = INK
    style: str = "solid"
    width: float = 1.5
    negative: bool = False
    paint: Paint | None = None

    def length(self, font: float) -> float:
        """Its room in the legend, in points, with what keeps it from the next."""
        return SAMPLE + AFTER_SAMPLE + measure(self.text, font) + GAP


@dataclass(frozen=True)
class Placed:
    """An entry and where it stands: its sample from ``x`` to the right, its text from ``text_x``,
    around ``y``.
    """

    entry: Entry
    x: float
    y: float

    @property
    def text_x(self) -> float:
        return self.x + SAMPLE + AFTER_SAMPLE


@dataclass(frozen=True)
class Surround:
    """The legend's entries in rows below the input, the caption's lines below them (the middle of
    each), and the whole page; y is upwards, 0 the foot of the input."""

    legend: tuple[Placed, ...]
    caption: tuple[tuple[str, float, float], ...]
    left: float
    bottom: float
    right: float
    top: float


def surround(drawing: Drawing) -> Surround:
    """What stands around the circuit."""
    layout, font = drawing.layout, drawing.sizes.small_font
    middle, y, placed = layout.width / 2, -2.2 * font, list[Placed]()
    for row in _rows(drawing):
        x = middle - (sum(entry.length(font) for entry in row) - GAP) / 2
        for entry in row:
            placed.append(Placed(entry, x, y))
            x += entry.length(font)
        y -= PITCH * font
    texts = list(fill(caption(drawing), layout.width, font))
    y -= 0.1 * font
    lines = tuple((text, middle, y - place * LEADING * font) for place, text in enumerate(texts))
    half = (
        max(
            layout.width,
            *(measure(text, font) for text in texts),
            *(_reach(p, font, middle) for p in placed),
        )
        / 2
    )
    return Surround(
        tuple(placed), lines, middle - half, lines[-1][2] - font, middle + half, layout.height
    )


def _reach(placed: Placed, font: float, middle: float) -> float:
    """How wide a page must be to hold the entry."""
    return 2 * max(middle - placed.x, placed.x + placed.entry.length(font) - GAP - middle)


def _rows(drawing: Drawing) -> Iterator[list[Entry]]:
    """The entries in rows no longer than the picture is wide, and even: lines, then borders, then
    colours of nodes.
    """
    font, most = drawing.sizes.small_font, drawing.layout.width + GAP
    for kind in (
        list(kind) for kind in (_lines_or_tints(drawing), _node_marks(drawing), _labels(drawing))
    ):
        n_rows, total = len(_break(kind, most, font)), sum(entry.length(font) for entry in kind)
        limits = (
            [total / n_rows + (most - total / n_rows) * step / STEPS for step in range(STEPS + 1)]
            if kind
            else []
        )
        yield from next(
            (rows for limit in limits if len(rows := _break(kind, limit, font)) == n_rows), []
        )


def _break(entries: list[Entry], limit: float, font: float) -> list[list[Entry]]:
    """Rows of at most so many points."""
    rows: list[list[Entry]] = [[]]
    for entry in entries:
        if rows[-1] and sum(other.length(font) for other in rows[-1]) + entry.length(font) > limit + 0.01:
            rows.append([])
        rows[-1].append(entry)
    return rows


def caption(drawing: Drawing) -> str:
    """Task, model, method, and how much of the model's graph is shown."""
    circuit = drawing.circuit
    names = [
        str(block["name"]) for block in (circuit.task, circuit.model, circuit.method) if block.get("name")
    ]
    other = drawing.look.highlight.name if drawing.look.highlight else ""
    return ", ".join([*map(_short, names), _size(drawing)]) + (
        f"; against {_short(other)}" if other else ""
    )


def _size(drawing: Drawing) -> str:
    """How much there is, and how much of it is drawn."""
    circuit, n_drawn, n_all = drawing.circuit, len(drawing.edges), drawing.content.n_edges
    if circuit.neurons is not None:
        n_nodes = len(drawing.strengths)
        return (
            f"{len(circuit.neurons):,} of {len(circuit.all_neurons):,} neurons in {n_nodes:,} nodes, all"
            " edges"
        )
    size = f"{len(circuit.edges):,} of {circuit.graph.n_edges:,} edges, {len(circuit.nodes):,} nodes"
    joined = {"heads": "q, k and v", "layers": "the heads of a layer"}.get(drawing.look.collapse or "")
    if n_drawn < n_all:
        size += f"; drawn: the {n_drawn:,} strongest" + (
            f" of {n_all:,} with {joined} as one" if joined else ""
        )
    elif joined:
        size += f"; drawn as {n_drawn:,}: {joined} as one"
    return size


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "\u2026"


def entries(drawing: Drawing) -> list[Entry]:
    """The legend of what is drawn: only what occurs."""
    return [*_lines_or_tints(drawing), *_node_marks(drawing), *_labels(drawing)]


def _lines_or_tints(drawing: Drawing) -> Iterator[Entry]:
    return _tints(drawing) if drawing.strengths else _lines(drawing)


def _lines(drawing: Drawing) -> Iterator[Entry]:
    """What a line's colour, style, end and width mean."""
    palette = drawing.palette
    present = {drawing.stroke(edge).label for edge in drawing.edges}
    yield from (Entry(s.label, s.colour, s.style) for s in palette.strokes.values() if s.label in present)
    counts = Counter(mark for item, mark in drawing.marks.items() if isinstance(item, Edge))
    for mark, stroke in palette.marks.items():
        if counts[mark]:
            yield Entry(f"{stroke.label}: {counts[mark]:,}", stroke.colour, stroke.style)
    if drawing.crossings:
        what = "the same heads" if drawing.look.collapse == "layers" else "one head"
        yield Entry(f"{what}, read at other positions", palette.link, width=LINK_WIDTH)
    if any(score < 0 for score in drawing.edges.values()):
        yield Entry("negative score", palette.ink, negative=True)
    if full := drawing.widths.reference:
        yield Entry(f"|score| {full / 10:g}", palette.ink, width=drawing.widths.width(full / 10))
        yield Entry(f"\u2265 {full:g}", palette.ink, width=drawing.widths.thickest)


def _tints(drawing: Drawing) -> Iterator[Entry]:
    """What the colour of a node with neurons means."""
    if not (full := drawing.widths.reference):
        return
    for text, strength in ((f"sum of |score| {full / 10:g}", full / 10), (f"\u2265 {full:g}", full)):
        colour = drawing.palette.tint(drawing.sizes.opacity, drawing.widths.share(strength))
        yield Entry(text, colour, width=SAMPLE_HEIGHT)


def _node_marks(drawing: Drawing) -> Iterator[Entry]:
    """What a node's border means, and how many nodes have it."""
    counts = Counter(mark for item, mark in drawing.marks.items() if not isinstance(item, Edge))
    of_heads = drawing.look.highlight is not None and drawing.look.highlight.kinds == ("head",)
    what = "head" if of_heads and drawing.look.collapse != "layers" else "node"
    for mark, stroke in drawing.palette.marks.items():
        if n_nodes := counts[mark]:
            paint = drawing.palette.marked(drawing.palette.head, mark)
            text = f"{stroke.label}: {n_nodes:,} {what}" + "s" * (n_nodes != 1)
            yield Entry(text, paint.line, width=SAMPLE_HEIGHT, paint=paint)


def _labels(drawing: Drawing) -> Iterator[Entry]:
    """What a node's colour means, and how many nodes have it."""
    counts = Counter(drawing.content.labels.values())
    for label, colour in drawing.colours.items():
        text = f"{shorten(label, 260.0, drawing.sizes.small_font)}: {counts[label]:,}"
        yield Entry(text, colour, width=SAMPLE_HEIGHT, paint=drawing.swatch(colour))
