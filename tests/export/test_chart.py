"""The picture of a sweep: its bytes, its labels, and that it can be drawn whatever the circuits are."""

from __future__ import annotations

import re

import matplotlib
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from circuitfind.export.formats.chart import Point, draw_sweep, look, make_figure

USUAL = [
    Point(0.5, 12, 3.1),
    Point(0.2, 25, 1.9),
    Point(0.1, 41, 1.1),
    Point(0.05, 60, 0.6),
    Point(0.02, 79, 0.3),
]
MANY = [Point(2 ** (-i / 8), int(2 ** (i / 10)), 6 * 2 ** (-i / 20)) for i in range(100)]
NOTHING_KEPT = [Point(5.0, 0, 7.9), Point(2.0, 0, 7.9), Point(1.0, 3, 7.0), Point(0.1, 30, 0.4)]
ONE = [Point(0.1, 262, 0.0)]
WORSE_THAN_NOTHING = [Point(0.5, 3, 12.0), Point(0.2, 4, 11.9)]
ABLATED = 7.9
TITLE = "ioi$$, $\\title$"  # a task may be called anything


def drawn(points: list[Point]) -> Figure:
    with look():
        figure = make_figure(points, ABLATED, TITLE)
        figure.draw_without_rendering()
    return figure


def labels(figure: Figure) -> list[Annotation]:
    return [text for text in figure.axes[0].texts if isinstance(text, Annotation)]


def test_the_same_sweep_gives_the_same_bytes_whatever_the_user_has_set() -> None:
    before = {format: draw_sweep(USUAL, ABLATED, TITLE, format) for format in ("svg", "png", "pdf")}
    with matplotlib.rc_context({"axes.grid": True, "font.size": 30, "svg.hashsalt": None}):
        after = {format: draw_sweep(USUAL, ABLATED, TITLE, format) for format in ("svg", "png", "pdf")}
        assert matplotlib.rcParams["font.size"] == 30
    assert after == before
    assert (
        b"Date" not in before["svg"].replace(b"CreationDate", b"")
        and b"CreationDate" not in before["pdf"]
    )


@pytest.mark.parametrize("format", ["svg", "png", "pdf"])
def test_each_format_is_what_it_says(format: str) -> None:
    begins = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}
    assert draw_sweep(USUAL, ABLATED, TITLE, format).startswith(begins[format])


def test_every_threshold_of_a_usual_sweep_is_named() -> None:
    assert [text.get_text() for text in labels(drawn(USUAL))] == [
        "everything ablated", "0.5", "0.02", "0.2", "0.1", "0.05",
    ]  # fmt: skip


@pytest.mark.parametrize("points", [USUAL, MANY, NOTHING_KEPT, ONE, WORSE_THAN_NOTHING])
def test_no_label_covers_another_or_a_marker(points: list[Point]) -> None:
    figure = drawn(points)
    boxes = [text.get_window_extent() for text in labels(figure)]
    assert len(boxes) >= 2
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
    for place in figure.axes[0].transData.transform([(point.n_edges, point.kl) for point in points]):
        assert not any(box.contains(*place) for box in boxes)


def test_circuits_that_are_the_same_share_a_label() -> None:
    assert "5–2" in [text.get_text() for text in labels(drawn(NOTHING_KEPT))]


def test_the_ablated_model_is_a_line_across_and_nothing_leaves_the_picture() -> None:
    for points in (USUAL, NOTHING_KEPT, WORSE_THAN_NOTHING, ONE):
        axes = drawn(points).axes[0]
        assert list(axes.lines[0].get_ydata()) == [ABLATED, ABLATED]
        assert axes.get_ylim()[1] > max(ABLATED, *(point.kl for point in points))


@pytest.mark.parametrize("points", [USUAL, MANY, NOTHING_KEPT, ONE])
def test_the_axis_of_edges_has_numbers_written_out(points: list[Point]) -> None:
    axis = drawn(points).axes[0].xaxis
    left, right = axis.axes.get_xlim()
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    shown = [
        tick.label1.get_text()
        for tick in ticks
        if left <= tick.get_loc() <= right and tick.label1.get_text()
    ]
    assert len(shown) >= 2 and all(re.fullmatch(r"[\d,]+", text) for text in shown)
