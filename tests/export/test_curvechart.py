"""The picture of a curve: its bytes, what it shows, and that it can be drawn whatever the circuits are."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from circuitfind.evaluation.curve import BUDGETS, Curve, Point
from circuitfind.export.formats.chart import look
from circuitfind.export.formats.curvechart import ABSOLUTE, SIGNED, draw_curve, make_curve_figure

TITLE = "ioi$$, $\\title$"  # a task may be called anything
Heights = Sequence[float | None]


def faring(n_edges: int, signed: Heights, absolute: Heights, ablated_kl: float = 7.0) -> Curve:
    families = (
        tuple(
            Point(b, int(b * n_edges), int(b * n_edges), f, ablated_kl * (1 - b), f)
            for b, f in zip(BUDGETS, fs, strict=True)
        )
        for fs in (signed, absolute)
    )
    return Curve("logit-diff", n_edges, 4.0, 0.0, ablated_kl, *families)


RISING = (0.0, 0.1, 0.4, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)
OVER = (0.0, 0.2, 0.7, 1.1, 1.5, 1.9, 2.2, 2.1, 1.6, 1.0)
USUAL = faring(32491, OVER, RISING)
SMALL = faring(46, OVER, RISING)  # its five smallest circuits have no edge
UNDEFINED = faring(262, [None] * 10, [None] * 10)
NO_DIFFERENCE = faring(262, [None] * 10, [None] * 10, ablated_kl=0.0)
CURVES = [USUAL, SMALL, UNDEFINED, NO_DIFFERENCE]


def drawn(curve: Curve) -> Figure:
    with look():
        figure = make_curve_figure(curve, TITLE)
        figure.draw_without_rendering()
    return figure


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_same_curve_gives_the_same_bytes_whatever_the_user_has_set() -> None:
    before = {format: draw_curve(USUAL, TITLE, format) for format in ("svg", "png", "pdf")}
    with matplotlib.rc_context({"axes.grid": True, "font.size": 30, "svg.hashsalt": None}):
        assert {format: draw_curve(USUAL, TITLE, format) for format in before} == before
    begins = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}
    assert all(content.startswith(begins[format]) for format, content in before.items())


def test_both_areas_stand_side_by_side_in_the_legend() -> None:
    assert legend(drawn(USUAL)) == [
        "the full model",
        "|1 − f|, which CMD sums up",
        f"highest |score|: CMD {USUAL.cmd:.3f}",
        f"highest score: CPR {USUAL.cpr:.3f}",
    ]
    assert legend(drawn(UNDEFINED))[2:] == [
        "highest |score|: CMD undefined",
        "highest score: CPR undefined",
    ]


def test_both_ways_are_drawn_at_their_sizes_in_both_panels() -> None:
    faithfulness, kl = drawn(USUAL).axes
    for axes, heights in ((faithfulness, lambda p: p.faithfulness), (kl, lambda p: p.kl)):
        for line, points in zip(axes.lines[1:], (USUAL.absolute, USUAL.signed), strict=True):
            assert list(line.get_xdata()) == [point.n_chosen for point in points]
            assert list(line.get_ydata()) == [heights(point) for point in points]
        assert axes.get_xscale() == "log"
    assert list(faithfulness.lines[0].get_ydata()) == [1, 1]


def test_the_shade_lies_between_the_full_model_and_the_circuits_of_the_highest_absolute_scores() -> None:
    (shade,) = drawn(USUAL).axes[0].collections
    corners = {(float(x), float(y)) for x, y in shade.get_paths()[0].vertices}
    edge = {(float(p.n_chosen), p.faithfulness) for p in USUAL.absolute}
    assert corners == edge | {(x, 1.0) for x, _ in edge}


def test_the_ways_differ_in_grey_too() -> None:
    luminance = [
        sum(w * c for w, c in zip((0.3, 0.59, 0.11), to_rgb(s["color"]), strict=True))
        for s in (ABSOLUTE, SIGNED)
    ]
    assert luminance[1] - luminance[0] > 0.2
    assert (
        all(ABSOLUTE[key] != SIGNED.get(key, ABSOLUTE[key]) for key in ("marker", "color"))
        and "linestyle" in SIGNED
    )


@pytest.mark.parametrize("curve", CURVES)
def test_any_curve_can_be_drawn_and_nothing_leaves_the_picture(curve: Curve) -> None:
    figure = drawn(curve)
    whole = figure.bbox
    for axes in figure.axes:
        extent = axes.get_tightbbox()
        assert extent is not None and extent.x0 >= whole.x0 and extent.x1 <= whole.x1 + 1
        assert axes.get_window_extent().width > 0.3 * whole.width
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= whole.x1


def test_circuits_without_an_edge_stand_at_the_left_end() -> None:
    for axes in drawn(SMALL).axes:
        assert axes.get_xlim()[0] < 0 and axes.lines[1].get_xdata()[0] == 0


def test_an_undefined_faithfulness_is_said_and_kl_drawn_all_the_same() -> None:
    faithfulness, kl = drawn(UNDEFINED).axes
    assert [text.get_text() for text in faithfulness.texts] == ["undefined"]
    assert len(kl.lines[1].get_xdata()) == len(BUDGETS)
