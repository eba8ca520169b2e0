"""The picture of a curve: faithfulness, and KL, of circuits of every size, chosen in both of MIB's ways.

Left the faithfulness f against the number of edges; the full model's is the line at 1, and what is
shaded, between that line and the circuits chosen by |score|, is what CMD sums up. Right KL against
the same sizes. The two ways differ in colour, lightness, marker and line, so that they are told
apart in print too. Sizes stand on a logarithmic axis, else the small circuits would share one
place; the areas CPR and CMD are over the linear one, as MIB defines them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from circuitfind.export.drawing.text import clean
from circuitfind.export.formats.chart import FAINT, INK, METADATA, look, scale_edges

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from circuitfind.evaluation.curve import Curve, Point

SHADE = "#dedede"
ABSOLUTE: dict[str, Any] = {"color": INK, "marker": "o", "markersize": 4, "linewidth": 1.2}
SIGNED: dict[str, Any] = {
    "color": "#d55e00",
    "marker": "s",
    "markersize": 4.5,
    "markerfacecolor": "white",
    "linewidth": 1.2,
    "linestyle": (0, (4, 2)),
}


def draw_curve(curve: Curve, title: str, format: str) -> bytes:
    """The picture as ``svg``, ``png`` or ``pdf``, the same bytes each time."""
    file = io.BytesIO()
    with look():
        make_curve_figure(curve, title).savefig(file, format=format, metadata=METADATA[format])
    return file.getvalue()


def make_curve_figure(curve: Curve, title: str) -> Figure:
    """Both panels, and below them what the lines are with CPR and CMD."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.6, 3.1), layout="constrained")
    figure.suptitle(clean(title), fontsize=9, x=0.01, ha="left")
    left, right = figure.subplots(1, 2)
    _draw_faithfulness(left, curve)
    _draw_kl(right, curve)
    for axes in (left, right):
        axes.set_xlabel(f"{curve.units} chosen, before pruning")
        sizes = [point.n_chosen for point in (*curve.signed, *curve.absolute)]
        scale_edges(axes, min(sizes), max(sizes))
    handles, labels = left.get_legend_handles_labels()
    layout: dict[str, Any] = {
        "ncols": 4,
        "frameon": False,
        "fontsize": 8,
        "columnspacing": 1.2,
        "handlelength": 2.6,
    }
    figure.legend(handles, labels, loc="outside lower center", **layout)
    return figure


def _draw_faithfulness(axes: Axes, curve: Curve) -> None:
    """Where there is none, its panel says so; the lines stay in the legend."""
    axes.set_ylabel(f"faithfulness f ({curve.metric})")
    axes.axhline(1, color=FAINT, linestyle="--", linewidth=1, label="the full model", zorder=1)
    distance = _known(curve.absolute, lambda point: point.faithfulness)
    sizes, heights = [size for size, _ in distance], [height for _, height in distance]
    axes.fill_between(
        sizes, heights, 1, color=SHADE, linewidth=0, zorder=0, label="|1 − f|, which CMD sums up"
    )
    _draw_ways(axes, curve, lambda point: point.faithfulness)
    if not distance:
        axes.set_yticks([1])
        axes.text(0.5, 0.25, "undefined", transform=axes.transAxes, ha="center", color=FAINT)


def _draw_kl(axes: Axes, curve: Curve) -> None:
    axes.set_ylabel("KL(full || circuit), nats")
    if curve.ablated_kl is not None:
        axes.axhline(curve.ablated_kl, color=FAINT, linestyle=":", linewidth=1, zorder=1)
        place = (0.98, curve.ablated_kl)
        how: dict[str, Any] = {
            "xytext": (0, 2),
            "textcoords": "offset points",
            "ha": "right",
            "va": "bottom",
        }
        axes.annotate(
            "everything ablated",
            place,
            xycoords=axes.get_yaxis_transform(),
            **how,
            color=FAINT,
            fontsize=8,
        )
    _draw_ways(axes, curve, lambda point: point.kl)
    axes.set_ylim(0, 1.15 * max([1e-9, *axes.get_ylim()]))


def _draw_ways(axes: Axes, curve: Curve, height: Callable[[Point], float | None]) -> None:
    """A line for each way of choosing, through the circuits that have this height."""
    ways = (
        (curve.absolute, ABSOLUTE, f"highest |score|: CMD {_show(curve.cmd)}"),
        (curve.signed, SIGNED, f"highest score: CPR {_show(curve.cpr)}"),
    )
    for points, style, label in ways:
        places = _known(points, height)
        sizes, heights = [size for size, _ in places], [y for _, y in places]
        # a line without points that may leave the panel has no extent, which upsets the layout
        axes.plot(sizes, heights, label=label, clip_on=not places, **style)


def _known(points: Sequence[Point], height: Callable[[Point], float | None]) -> list[tuple[int, float]]:
    """Size and height of those that have one."""
    return [(point.n_chosen, y) for point in points if (y := height(point)) is not None]


def _show(area: float | None) -> str:
    return "undefined" if area is None else f"{area:.3f}"
