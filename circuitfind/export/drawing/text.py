"""How wide a text is in the picture's font, and how a long one is broken into lines or shortened.
Lengths in points.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import accumulate
from pathlib import Path

FONT = Path(__file__).parents[1] / "fonts" / "SourceSansPro-Regular.ttf"
SPARE = 1.25
"""A viewer without the shipped font takes another: Arial is 1.1 times as wide, DejaVu Sans 1.25 times."""
ELLIPSIS = "\u2026"
LONGEST = 10_000
"""Letters of a text that are looked at: no picture has room for so many."""
STEPS = 8  # how many widths are tried, from the least to the most


def clean(text: str) -> str:
    """``text`` on one line, without what can't be printed (line breaks, half characters, marks that
    turn the writing direction)."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def measure(text: str, size: float) -> float:
    """The room that ``text`` needs at a font size, in whichever font it is shown."""
    widths = _widths()
    return SPARE * size * sum(widths.get(ord(letter), _foreign(letter)) for letter in text)


def shorten(text: str, most: float, size: float) -> str:
    """``text`` if it fits into ``most`` points, else its beginning and an ellipsis."""
    if len(text) <= LONGEST and measure(text, size) <= most:
        return text
    widths, fits = _widths(), 0
    room = most / (SPARE * size) - widths.get(ord(ELLIPSIS), _foreign(ELLIPSIS))
    for width in accumulate(widths.get(ord(letter), _foreign(letter)) for letter in text[:LONGEST]):
        if width > room:
            break
        fits += 1
    return text[:fits].rstrip() + ELLIPSIS


def wrap(text: str, least: float, most: float, size: float, n_lines: int) -> tuple[str, ...]:
    """``text`` in at most so many lines, broken between words: of ``least`` points if that is
    enough, of no more than needed, and of at most ``most``; what does not fit into these is
    shortened."""
    steps = [least + (most - least) * step / STEPS for step in range(STEPS + 1)]
    fillings = [list(fill(text, width, size)) for width in steps]
    fits = (
        len(lines) <= n_lines and _widest(lines, size) <= width
        for lines, width in zip(fillings, steps, strict=True)
    )
    lines = next((lines for lines, fit in zip(fillings, fits, strict=True) if fit), fillings[-1])
    kept = [*lines[: n_lines - 1], " ".join(lines[n_lines - 1 :])]
    return tuple(shorten(line, most, size) for line in kept if line)


def _widest(lines: Iterable[str], size: float) -> float:
    return max((measure(line, size) for line in lines), default=0.0)


def fill(text: str, most: float, size: float) -> Iterator[str]:
    """Lines with as many words as fit; a word that is too long has one for itself."""
    line = ""
    for word in clean(text[:LONGEST]).split(" "):
        longer = f"{line} {word}".strip()
        if line and measure(longer, size) > most:
            yield line
            longer = word
        line = longer
    if line:
        yield line


def _foreign(letter: str) -> float:
    """The width of a letter that the font lacks, in font sizes, rather too large."""
    if unicodedata.combining(letter):
        return 0.0
    return 1.2 if unicodedata.east_asian_width(letter) in "WF" else 1.0


@cache
def _widths() -> dict[int, float]:
    """Of each letter of the font, by its code, in font sizes."""
    from fontTools.ttLib import TTFont

    with TTFont(FONT, lazy=True) as font:
        unit, advances = font["head"].unitsPerEm, font["hmtx"].metrics
        return {code: advances[glyph][0] / unit for code, glyph in font.getBestCmap().items()}
