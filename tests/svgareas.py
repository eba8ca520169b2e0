"""Where texts, boxes and samples of an SVG stand, by the widths of the font's letters, and what no picture may do."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path

from fontTools.ttLib import TTFont

from circuitfind.export.drawing.text import FONT

SVG = "{http://www.w3.org/2000/svg}"


@dataclass(frozen=True)
class Area:
    left: float
    top: float
    right: float
    bottom: float
    what: str = ""

    def meets(self, other: Area) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
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
    return (
        {g: a for g, (a, _) in font["hmtx"].metrics.items()},
        font.getBestCmap(),
        font["head"].unitsPerEm,
    )


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
    shift_x, shift_y = map(
        float, re.search(r"translate\(([-\d.]+)[ ,]([-\d.]+)\)", graph.get("transform")).groups()
    )
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
