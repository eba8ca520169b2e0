"""Both styles can be read in grey, by the colour-blind, and on their ground: computed, not judged by eye."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from circuitfind.circuits.graph import Graph, Node
from circuitfind.errors import UsageError
from circuitfind.export import Look, circuit_to_dot
from circuitfind.export.drawing.drawing import draw
from circuitfind.export.drawing.style import PALETTES

TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
# What the fully colour-blind see, in linear light: Machado, Oliveira and Fernandes, 2009, table 1
BLIND = {
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
SETS = (("q", "k", "v", ""), ("head", ""))
MARKS = (("both", "lost", "gained"), ("common", "missing", "extra"))


def linear(colour):
    """Linear light, 0 to 1, of #rrggbb (sRGB)."""
    shares = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)


def lab(light):
    """CIE L*a*b* under D65."""
    ratios = TO_XYZ @ np.clip(light, 0, 1) / np.array([0.95047, 1.0, 1.08883])
    f = np.where(ratios > 0.008856, np.cbrt(ratios), 7.787 * ratios + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def lightness(colour):
    return lab(linear(colour))[0]


def contrast(one, other):
    """WCAG's: 1 to 21."""
    bright, dark = sorted((float(TO_XYZ[1] @ linear(colour)) for colour in (one, other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.fixture(params=PALETTES)
def palette(request):
    return PALETTES[request.param]


def test_lines_that_stand_beside_each_other_differ_in_style_or_clearly_in_lightness(palette):
    groups = [[palette.strokes[name] for name in names] for names in SETS]
    groups += [[palette.marks[name] for name in names] for names in MARKS]
    for one, other in (pair for group in groups for pair in combinations(group, 2)):
        assert one.style != other.style or abs(lightness(one.colour) - lightness(other.colour)) >= 20, (
            one,
            other,
        )


def test_the_inputs_of_a_head_have_three_line_styles(palette):
    assert len({palette.strokes[slot].style for slot in "qkv"}) == 3


@pytest.mark.parametrize("kind", BLIND)
def test_colours_of_lines_differ_for_the_colour_blind(palette, kind):
    seen = {name: lab(np.array(BLIND[kind]) @ linear(palette.strokes[name].colour)) for name in SETS[0]}
    for one, other in combinations(seen, 2):
        assert np.linalg.norm(seen[one] - seen[other]) >= 15, (one, other)


def test_every_line_stands_out_from_the_ground_and_the_strips(palette):
    for stroke in palette.strokes.values():
        assert min(contrast(stroke.colour, ground) for ground in (palette.ground, palette.strip)) >= 3, (
            stroke
        )


def test_every_text_can_be_read_where_it_stands(palette):
    pairs = [(paint.ink, paint.fill) for paint in (palette.bar, palette.head, palette.mlp)]
    pairs += [(palette.role_ink, colour) for colour in palette.roles]
    pairs += [(palette.head.ink, palette.full), (palette.mlp.ink, palette.full)]
    pairs += [
        (palette.ink, palette.ground),
        (palette.faint, palette.strip),
        (palette.faint, palette.ground),
    ]
    assert [pair for pair in pairs if contrast(*pair) < 4.2] == []


def test_screen_is_dark_and_paper_is_white():
    paper, screen = PALETTES["paper"], PALETTES["screen"]
    assert paper.ground == "#ffffff" and lightness(screen.ground) < 12
    assert all(
        lightness(screen.strokes[name].colour) > lightness(paper.strokes[name].colour) for name in SETS[0]
    )


def test_a_style_changes_colours_and_nothing_else(grow):
    circuit = grow(Graph(3, 4), 30)
    paper, screen = (draw(circuit, Look(style=style)) for style in PALETTES)
    assert paper.layout == screen.layout and paper.edges == screen.edges and paper.widths == screen.widths
    dot = circuit_to_dot(circuit, Look(style="screen"))
    assert 'bgcolor="#14171c"' in dot and "white" not in dot and "#0072b2" not in dot


@pytest.mark.parametrize("style", PALETTES)
def test_the_larger_a_score_the_thicker_and_a_negative_one_ends_in_a_bar(style, grow):
    circuit = grow(Graph(3, 4), 30)
    dot = circuit_to_dot(circuit, Look(style=style))
    assert dot.count("arrowhead=tee") == sum(score < 0 for score in circuit.edges.values()) > 0
    drawing = draw(circuit, Look(style=style))
    ranked = sorted(circuit.edges.values(), key=abs)
    widths = [drawing.widths.width(score) for score in ranked]
    assert widths == sorted(widths) and widths[0] < widths[-1]


def test_an_unknown_style_suggests_the_nearest():
    with pytest.raises(
        UsageError, match=r"No style named 'papr'\. Did you mean 'paper'\? Styles: paper, screen\."
    ):
        Look(style="papr")


def test_more_labels_than_colours_leave_the_last_without(grow):
    circuit = grow(Graph(4, 4), 60)
    labels = {node: str(node) for node in circuit.nodes if node.kind == "head"}
    drawing = draw(circuit, Look(labels=labels))
    n_colours = len(drawing.palette.roles)
    assert len(labels) > n_colours == len(drawing.colours)
    last = [*labels][-1]
    assert drawing.paint(last) == drawing.palette.head and drawing.notes[last] == (str(last),)
    assert drawing.paint(Node("mlp", 0)) == drawing.palette.mlp
