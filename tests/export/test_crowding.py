"""No text covers another, leaves its box or the page, whatever the look: measured on the SVG with the font's widths."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from svgareas import check_picture, extent

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Graph, Node
from circuitfind.export import Look, circuit_to_dot, render
from circuitfind.export.drawing.drawing import draw
from circuitfind.export.drawing.highlight import Highlight, read_highlight
from circuitfind.export.drawing.layout import MARGIN, NUMBERS
from circuitfind.export.drawing.legend import surround
from circuitfind.export.drawing.text import measure, wrap

GPT2 = Graph(12, 12)
KNOWN = Path(__file__).parents[2] / "results" / "known"
OTHER_FONT = Path(matplotlib.__file__).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
LONG = {
    node: f'{"Very " * (place % 9)}long "label" & <role> number {place % 12} of $x_1$'
    for place, node in enumerate(GPT2.senders)
    if place % 3 == 1
}


def look_of(name: str, grow) -> tuple[int, Look]:
    """The number of edges and the look of a case."""
    other = Highlight.of(grow(GPT2, 150, seed=1), "another circuit")
    return {
        "20 on a screen": (20, Look(style="screen")),
        "20 with long labels": (20, Look(labels=LONG)),
        "2,000 with long labels": (2000, Look(labels=LONG, style="screen")),
        "200 with heads collapsed": (200, Look(collapse="heads", labels=LONG)),
        "200 with layers collapsed": (200, Look(collapse="layers")),
        "2,000 with layers collapsed": (
            2000,
            Look(collapse="layers", labels={Node("head", 3): "early " * 9}),
        ),
        "200 against another": (200, Look(highlight=other, most_edges=100)),
        "20 against what is published": (
            20,
            Look(highlight=read_highlight(as_gpt2(grow(GPT2, 20)), "ioi")),
        ),
    }[name]


def as_gpt2(circuit: Circuit) -> Circuit:
    """A circuit of the task and the model whose roles are published."""
    return Circuit(
        circuit.graph, circuit.edges, {**circuit.model, "name": "gpt2"}, circuit.task, circuit.method
    )


@pytest.mark.parametrize(
    "name",
    [
        "20 on a screen",
        "20 with long labels",
        "200 with heads collapsed",
        "200 with layers collapsed",
        "200 against another",
        "20 against what is published",
        pytest.param("2,000 with long labels", marks=pytest.mark.slow),
        pytest.param("2,000 with layers collapsed", marks=pytest.mark.slow),
    ],
)
def test_no_text_covers_another_or_leaves_its_box_or_the_page(name, grow):
    n_edges, look = look_of(name, grow)
    check_picture(render(circuit_to_dot(as_gpt2(grow(GPT2, n_edges)), look), "svg"))


@pytest.mark.parametrize("collapse", [None, "layers"])
def test_no_edge_runs_over_the_layers_numbers_or_off_the_page(collapse):
    drawing = draw(Circuit.load(KNOWN / "smollm2-ioi.json"), Look(collapse=collapse))
    for edge in drawing.edges:
        xs = [x for x, _ in drawing.curve(edge, 0.0).bezier()]
        assert min(xs) >= NUMBERS and max(xs) <= drawing.layout.width, edge
    assert measure("29", drawing.sizes.small_font) + 4 <= NUMBERS < MARGIN


def test_a_text_is_given_room_for_the_widest_font_that_may_take_the_shipped_ones_place():
    texts = [
        "Name mover",
        "backup name mover",
        "S-inhibition",
        "into MLP, logits",
        "Wide WAVES MMM",
        "a31.h31",
        "m10",
    ]
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
    joined, whole = (
        re.sub(r"\s", "", part) for part in ("".join(lines), "".join(c for c in text if c.isprintable()))
    )
    kept = [part for part in joined.split("\u2026") if part]
    place = 0
    for part in kept:
        assert (place := whole.find(part, place)) >= 0
