"""What lies behind a circuit's nodes and edges, as Graphviz draws it: the layers' strips and
numbers, the legend.

An xdot background, so that they are no nodes of the file:
https://graphviz.org/docs/outputs/canon/#xdot
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby

from circuitfind.export.drawing.drawing import Drawing
from circuitfind.export.drawing.legend import LINK_WIDTH, SAMPLE, SAMPLE_HEIGHT, Placed, surround
from circuitfind.export.drawing.style import FONT, Paint
from circuitfind.export.drawing.text import SPARE, measure

JOINER = "\u2060"
NO_QUOTE = re.compile(r"(?<=\\)(?=\")|(?<=&)(?=#?\w+;)")


def background(drawing: Drawing) -> Iterator[str]:
    """The strips, their layers' numbers and the legend, as xdot, an operation or a few a line."""
    layout, palette, font = drawing.layout, drawing.palette, drawing.sizes.small_font
    yield f"{_op('c', palette.strip)} {_op('C', palette.strip)}"
    for band in layout.bands:
        yield "P " + _corners(0, band.bottom, layout.width, band.top)
    yield f"{_op('c', palette.faint)} F {font:g} {_counted(FONT)}"
    for band in layout.bands:
        yield _text(4, (band.bottom + band.top) / 2 - 0.3 * font, str(band.layer), font)
    yield from _borders(drawing)
    yield from _links(drawing)
    for placed in surround(drawing).legend:
        yield from _entry(drawing, placed)


def _borders(drawing: Drawing) -> Iterator[str]:
    """Lines between the columns of one role and those of the next."""
    for x in drawing.layout.borders:
        pen = f"{_op('c', drawing.palette.faint)} {_op('S', 'setlinewidth(0.50)')} {_op('S', 'dotted')}"
        yield f"{pen} L 2 {_points(((x, 0), (x, drawing.layout.height)))} {_op('S', 'solid')}"


def _links(drawing: Drawing) -> Iterator[str]:
    """A line behind the boxes of each head that reads at one role and writes at another, each at
    its own height.
    """
    boxes, crossings = drawing.layout.boxes, drawing.crossings
    for _, heads in groupby(crossings, key=lambda nodes: nodes[0].layer):
        of_layer = list(heads)
        for place, nodes in enumerate(of_layer, start=1):
            across = [boxes[node] for node in nodes]
            y = across[0].bottom + across[0].height * place / (len(of_layer) + 1)
            pen = f"{_op('c', drawing.palette.link)} {_op('S', f'setlinewidth({LINK_WIDTH:.2f})')}"
            yield f"{pen} L 2 {_points(((min(b.x for b in across), y), (max(b.x for b in across), y)))}"


def _entry(drawing: Drawing, placed: Placed) -> Iterator[str]:
    """A sample of the legend and its text."""
    entry, x, y, font = placed.entry, placed.x, placed.y, drawing.sizes.small_font
    if entry.paint:
        yield _box(entry.paint, x, y)
    else:
        pen = f"{_op('c', entry.colour)} {_op('S', f'setlinewidth({entry.width:.2f})')}"
        yield f"{pen} {_op('S', entry.style)} L 2 {_points(((x, y), (x + SAMPLE, y)))} {_op('S', 'solid')}"
    if entry.negative:
        yield f"L 2 {_points(((x + SAMPLE, y - 3.5), (x + SAMPLE, y + 3.5)))}"
    yield f"{_op('c', drawing.palette.ink)} {_text(placed.text_x, y - 0.34 * font, entry.text, font)}"


def _box(paint: Paint, x: float, y: float) -> str:
    pen = f"{_op('c', paint.line)} {_op('C', paint.fill)} {_op('S', f'setlinewidth({paint.width:.2f})')}"
    corners = _corners(x + 4, y - SAMPLE_HEIGHT / 2, x + SAMPLE, y + SAMPLE_HEIGHT / 2)
    return f"{pen} {_op('S', paint.border)} P {corners} {_op('S', 'solid')}"


def _op(letter: str, argument: str) -> str:
    return f"{letter} {_counted(argument)}"


def _counted(text: str) -> str:
    """A string as xdot has it: its length in bytes, then the text; written as it stands between a
    DOT file's quotes.

    There a backslash before a quote can't be told from one that escapes it, and in an SVG Graphviz
    takes what looks like an entity for one: a letter of no width parts them.
    """
    shown = NO_QUOTE.sub(JOINER, text)
    return f"{len(shown.encode())} -" + shown.replace('"', '\\"')


def _text(x: float, y: float, text: str, font: float) -> str:
    return f"T {x:.1f} {y:.1f} -1 {measure(text, font) / SPARE:.1f} {_counted(text)}"


def _corners(left: float, bottom: float, right: float, top: float) -> str:
    return "4 " + _points(((left, bottom), (right, bottom), (right, top), (left, top)))


def _points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f} {y:.1f}" for x, y in points)
