"""No text covers another, leaves its box or the page, whatever the look: measured on the SVG with the font's widths."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path

import matplotlib
import pytest
from fontTools.ttLib import TTFont
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitfind.circuit import Circuit
from circuitfind.export import Look, circuit_to_dot, render
from circuitfind.export.drawing import draw
from circuitfind.export.highlight import Highlight, read_highlight
from circuitfind.export.layout import MARGIN, NUMBERS
from circuitfind.export.legend import surround
from circuitfind.export.text import FONT, measure, wrap
from circuitfind.graph import Graph, Node

GPT2 = Graph(12, 12)
SVG = "{http://www.w3.org/2000/svg}"
OTHER_FONT = Path(matplotlib.__file__).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
LONG = {
    node: f'{"Very " * (place % 9)}long "label" & <role> number {place % 12} of $x_1$'
    for place, node in enumerate(GPT2.senders)
    if place % 3 == 1
}


@dataclass(frozen=True)
class Area:
    left: float
    top: float
    right: float
    bottom: float
    what: str = ""

    def meets(self, other: Area) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def holds(self, other: Area, slack: float = 0.0) -> bool:
        return (
            self.left - slack <= other.left
            and other.right <= self.right + slack
            and self.top - slack <= other.top
            and other.bottom <= self.bottom + slack
        )


@cache
def advances(file: Path) -> tuple[dict[int, int], dict[int, str], int]:
    font = TTFont(file)
    return {g: a for g, (a, _) in font["hmtx"].metrics.items()}, font.getBestCmap(), font["head"].unitsPerEm


def extent(text: str, file: Path = FONT) -> float:
    """The width of a text in font sizes, in the font's own advances."""
    widths, letters, unit = advances(file)
    return sum(widths[letters[ord(letter)]] for letter in text) / unit


def area_of_text(element: ElementTree.Element) -> Area:
    """Where a text is seen: from its capitals' top to its descenders' foot."""
    text, size = (element.text or "").replace("\xa0", " "), float(element.get("font-size"))
    x, y, width = float(element.get("x")), float(element.get("y")), extent(text) * size
    left = x - {"start": 0.0, "middle": width / 2}[element.get("text-anchor")]
    return Area(left, y - 0.66 * size, left + width, y + 0.2 * size, text)


def area_of_shape(element: ElementTree.Element) -> Area:
    numbers = [float(n) for n in re.findall(r"-?[\d.]+", element.get("d") or element.get("points"))]
    return Area(min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2]), element.tag)


def check_picture(svg: bytes) -> None:
    """No text outside its box or the page, and none on another or on a node or a sample of the legend."""
    root = ElementTree.fromstring(svg)
    graph = root.find(f"{SVG}g")
    x, y, width, height = map(float, root.get("viewBox").split())
    shift_x, shift_y = map(float, re.search(r"translate\(([-\d.]+)[ ,]([-\d.]+)\)", graph.get("transform")).groups())
    page = Area(x - shift_x, y - shift_y, x - shift_x + width, y - shift_y + height)
    nodes = [g for g in graph.iter(f"{SVG}g") if g.get("class") == "node"]
    boxes = [area_of_shape(next(e for e in g.iter() if e.get("d") or e.get("points"))) for g in nodes]
    inside = [[area_of_text(text) for text in g.iter(f"{SVG}text")] for g in nodes]
    outside = [area_of_text(text) for text in graph.findall(f"{SVG}text")]
    below = max(box.bottom for box in boxes)
    samples = [area_of_shape(e) for e in graph if e.tag in (f"{SVG}polyline", f"{SVG}polygon")]
    samples = [sample for sample in samples if sample.top > below and sample.right - sample.left < 40]
    for box, texts in zip(boxes, inside, strict=True):
        assert all(box.holds(text) for text in texts), f"{[t.what for t in texts]} leave their box"
        assert texts and all(not one.meets(other) for one, other in combinations(texts, 2))
    for one, other in combinations([*boxes, *outside, *samples], 2):
        assert not one.meets(other), f"{one} on {other}"
    assert all(page.holds(area) for area in [*boxes, *outside, *samples])


def look_of(name: str, grow) -> tuple[int, Look]:
    """The number of edges and the look of a case."""
    other = Highlight.of(grow(GPT2, 150, seed=1), "another circuit")
    return {
        "20": (20, Look()),
        "200 on a screen": (200, Look(style="screen")),
        "2,000": (2000, Look()),
        "20 with long labels": (20, Look(labels=LONG)),
        "2,000 with long labels": (2000, Look(labels=LONG, style="screen")),
        "200 with heads collapsed": (200, Look(collapse="heads", labels=LONG)),
        "2,000 with layers collapsed": (2000, Look(collapse="layers", labels={Node("head", 3): "early " * 9})),
        "200 against another": (200, Look(highlight=other, most_edges=100)),
        "20 against what is published": (20, Look(highlight=read_highlight(as_gpt2(grow(GPT2, 20)), "ioi"))),
    }[name]


def as_gpt2(circuit: Circuit) -> Circuit:
    """A circuit of the task and the model whose roles are published."""
    return Circuit(circuit.graph, circuit.edges, {**circuit.model, "name": "gpt2"}, circuit.task, circuit.method)


@pytest.mark.parametrize(
    "name",
    [
        "20",
        "200 on a screen",
        "2,000",
        "20 with long labels",
        "2,000 with long labels",
        "200 with heads collapsed",
        "2,000 with layers collapsed",
        "200 against another",
        "20 against what is published",
    ],
)
def test_no_text_covers_another_or_leaves_its_box_or_the_page(name, grow):
    n_edges, look = look_of(name, grow)
    check_picture(render(circuit_to_dot(as_gpt2(grow(GPT2, n_edges)), look), "svg"))


@pytest.mark.parametrize("name", ["20 with long labels", "2,000", "200 against another", "2,000 with layers collapsed"])
def test_no_edge_runs_over_the_layers_numbers_or_off_the_page(name, grow):
    n_edges, look = look_of(name, grow)
    drawing = draw(as_gpt2(grow(GPT2, n_edges)), look)
    for edge in drawing.edges:
        xs = [x for x, _ in drawing.curve(edge, 0.0).bezier()]
        assert NUMBERS <= min(xs) and max(xs) <= drawing.layout.width, edge
    assert measure(str(GPT2.n_layers - 1), drawing.sizes.small_font) + 4 <= NUMBERS < MARGIN


def test_a_text_is_given_room_for_the_widest_font_that_may_take_the_shipped_ones_place():
    texts = ["Name mover", "backup name mover", "S-inhibition", "into MLP, logits", "Wide WAVES MMM", "a31.h31", "m10"]
    for text in texts:
        assert extent(text) < extent(text, OTHER_FONT) <= measure(text, 1.0) * 1.02


def test_the_legend_breaks_into_even_rows_where_it_is_longer_than_the_picture_is_wide(grow):
    drawing = draw(as_gpt2(grow(GPT2, 20)), Look(labels={node: f"role {node}" for node in GPT2.senders}))
    rows: dict[float, list[float]] = {}
    for placed in surround(drawing).legend:
        rows.setdefault(placed.y, []).append(placed.x + placed.entry.length(drawing.sizes.small_font))
    assert len(rows) > 2 and all(max(ends) - 14 <= drawing.layout.width for ends in rows.values())


@given(st.text(st.characters(codec="ascii"), max_size=80), st.floats(20, 60), st.floats(0, 60))
@settings(max_examples=60, deadline=None)
def test_wrapped_lines_are_the_text_or_its_beginning_and_fit(text, least, more):
    lines = wrap(text, least, least + more, 8.0, 2)
    assert len(lines) <= 2 and all(measure(line, 8.0) <= least + more for line in lines)
    joined, whole = (re.sub(r"\s", "", part) for part in ("".join(lines), "".join(c for c in text if c.isprintable())))
    kept = [part for part in joined.split("\u2026") if part]
    place = 0
    for part in kept:
        assert (place := whole.find(part, place)) >= 0
