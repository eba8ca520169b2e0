"""The pictures in docs/images are those that the commands in the documents draw."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from svgareas import SVG, check_picture
from test_readme import ROOT, Step, follow, steps_of

IMAGES = ROOT / "docs" / "images"
DRAWN = {
    "labels.svg": "labels.svg",
    "highlight.svg": "highlight.svg",
    "ioi-tiny.svg": "a-run/circuit.svg",
}


def content(svg: Path) -> tuple[set[str], list[str]]:
    """The nodes and edges of an SVG and its texts: what another Graphviz would draw too."""
    root = ElementTree.parse(svg).getroot()
    ids = {group.get("id") for group in root.iter(f"{SVG}g") if group.get("class") in ("node", "edge")}
    return ids, [text.text for text in root.iter(f"{SVG}text")]


@pytest.mark.slow
def test_the_pictures_shown_are_what_the_commands_draw(tmp_path):
    steps: list[Step] = steps_of(ROOT / "docs" / "pictures.md")
    follow([step for step in steps if step.kind in ("file", "quick")], tmp_path)
    for shown, drawn in DRAWN.items():
        assert content(IMAGES / shown) == content(tmp_path / drawn), (
            f"draw {shown} anew as docs/pictures.md says"
        )


@pytest.mark.parametrize("name", DRAWN)
def test_nothing_overlaps_in_the_pictures_shown_and_they_are_small(name):
    svg = (IMAGES / name).read_bytes()
    check_picture(svg)
    assert len(svg) < 100_000
