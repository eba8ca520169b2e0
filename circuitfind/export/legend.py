"""What stands around the circuit: the strips of the layers, the legend of the lines, the caption.

Drawn as an xdot background, so that they are no nodes of the file: https://graphviz.org/docs/outputs/canon/#xdot
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from circuitfind.export.drawing import Drawing
from circuitfind.export.style import FONT, INK, MARKS, STRIP, STROKES, tint

LETTER = 0.5  # the mean width of a letter, in font sizes
SAMPLE = 26.0  # the length of a line shown in the legend, in points
FAINT = "#8a8a8a"
LINK, LINK_WIDTH = "#b8a9c9", 1.2  # joins a head that reads at one role to where it writes
LONGEST_NAME = 40  # letters of a task, model or method in the caption


@dataclass(frozen=True)
class Entry:
    """A sample line and what it means."""

    text: str
    colour: str = INK
    style: str = "solid"
    width: float = 1.5
    negative: bool = False

    def length(self, font: float) -> float:
        """Its room in the legend, in points."""
        return SAMPLE + 4 + len(self.text) * LETTER * font + 14


def caption(drawing: Drawing) -> str:
    """One line: task, model, method, and how much of the model's graph is shown."""
    circuit, n_drawn, n_kept = drawing.circuit, len(drawing.edges), len(drawing.circuit.edges)
    names = [str(block["name"]) for block in (circuit.task, circuit.model, circuit.method) if block.get("name")]
    short = [name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "\u2026" for name in names]
    size = f"{n_kept:,} of {circuit.graph.n_edges:,} edges, {len(circuit.nodes):,} nodes"
    if circuit.neurons is not None:
        n_all, n_nodes = len(circuit.all_neurons), len(drawing.strengths)
        return ", ".join([*short, f"{len(circuit.neurons):,} of {n_all:,} neurons in {n_nodes:,} nodes, all edges"])
    if n_drawn < n_kept:
        size += f"; drawn: the {n_drawn:,} strongest"
    return ", ".join([*short, size])


def entries(drawing: Drawing) -> list[Entry]:
    """The legend of the edges drawn: only what occurs among them; or of the nodes' colours."""
    if drawing.strengths:
        return _tints(drawing)
    present = {drawing.stroke(edge).label for edge in drawing.edges}
    lines = [Entry(s.label, s.colour, s.style) for s in STROKES.values() if s.label in present]
    counts = Counter(drawing.marks.values())
    lines += [Entry(f"{s.label}: {counts[mark]:,}", s.colour, s.style) for mark, s in MARKS.items() if counts[mark]]
    if drawing.crossings:
        lines.append(Entry("one head, read at other positions", LINK, width=LINK_WIDTH))
    if any(score < 0 for score in drawing.edges.values()):
        lines.append(Entry("negative score", negative=True))
    if full := drawing.widths.reference:
        lines.append(Entry(f"|score| {full / 10:g}", width=drawing.widths.width(full / 10)))
        lines.append(Entry(f"\u2265 {full:g}", width=drawing.widths.thickest))
    return lines


def _tints(drawing: Drawing) -> list[Entry]:
    """What a node's colour means."""
    faintest, full = drawing.sizes.opacity, drawing.widths.reference
    shown = [(f"sum of |score| {full / 10:g}", full / 10), (f"\u2265 {full:g}", full)] if full else []
    return [Entry(text, tint(faintest, drawing.widths.share(strength)), width=8) for text, strength in shown]


def legend_width(drawing: Drawing) -> float:
    return sum(entry.length(drawing.sizes.small_font) for entry in entries(drawing))


def background(drawing: Drawing) -> Iterator[str]:
    """The strips, their layers' numbers and the legend, as xdot, an operation or a few a line."""
    layout, font = drawing.layout, drawing.sizes.small_font
    yield f"{_op('c', STRIP)} {_op('C', STRIP)}"
    for band in layout.bands:
        corners = ((0, band.bottom), (layout.width, band.bottom), (layout.width, band.top), (0, band.top))
        yield "P 4 " + _points(corners)
    yield f"{_op('c', FAINT)} F {font:g} {_counted(FONT)}"
    for band in layout.bands:
        yield _text(4, (band.bottom + band.top) / 2 - 0.3 * font, str(band.layer), font)
    yield from _borders(drawing)
    yield from _links(drawing)
    yield from _legend(drawing)


def _borders(drawing: Drawing) -> Iterator[str]:
    """Lines between the columns of one role and those of the next."""
    for x in drawing.layout.borders:
        pen = f"{_op('c', FAINT)} {_op('S', 'setlinewidth(0.50)')} {_op('S', 'dotted')}"
        yield f"{pen} L 2 {_points(((x, 0), (x, drawing.layout.height)))} {_op('S', 'solid')}"


def _links(drawing: Drawing) -> Iterator[str]:
    """A line behind the boxes of each head that reads at one role and writes at another, each at its own height."""
    boxes, crossings = drawing.layout.boxes, drawing.crossings
    for _, heads in groupby(crossings, key=lambda nodes: nodes[0].layer):
        of_layer = list(heads)
        for place, nodes in enumerate(of_layer, start=1):
            across = [boxes[node] for node in nodes]
            y = across[0].bottom + across[0].height * place / (len(of_layer) + 1)
            pen = f"{_op('c', LINK)} {_op('S', f'setlinewidth({LINK_WIDTH:.2f})')}"
            yield f"{pen} L 2 {_points(((min(b.x for b in across), y), (max(b.x for b in across), y)))}"


def _legend(drawing: Drawing) -> Iterator[str]:
    """Sample lines in a row under the input."""
    font = drawing.sizes.small_font
    x, y = (drawing.layout.width - legend_width(drawing)) / 2 + 7, -2.2 * font
    for entry in entries(drawing):
        end = x + SAMPLE
        pen = f"{_op('c', entry.colour)} {_op('S', f'setlinewidth({entry.width:.2f})')}"
        yield f"{pen} {_op('S', entry.style)} L 2 {_points(((x, y), (end, y)))} {_op('S', 'solid')}"
        if entry.negative:
            yield f"L 2 {_points(((end, y - 3.5), (end, y + 3.5)))}"
        yield f"{_op('c', INK)} {_text(end + 5, y - 0.3 * font, entry.text, font)}"
        x += entry.length(font)


def _op(letter: str, argument: str) -> str:
    return f"{letter} {_counted(argument)}"


def _counted(text: str) -> str:
    """A string as xdot has it: its length in bytes, then the text."""
    return f"{len(text.encode())} -{text}"


def _text(x: float, y: float, text: str, font: float) -> str:
    return f"T {x:.1f} {y:.1f} -1 {len(text) * LETTER * font:.1f} {_counted(text)}"


def _points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f} {y:.1f}" for x, y in points)
