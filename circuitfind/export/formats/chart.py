"""The picture of a sweep: how many edges each circuit has against how far it is from the full model, as KL.

One line and one kind of marker, dark on white, so that it reads in print. A label that would cover
a marker, the line or another label is tried in other places and left out where there is none: the
table beside the picture has all.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

from circuitfind.export.drawing.text import FONT, clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

INK, FAINT = "#333333", "#8c8c8c"
LOOK: dict[Any, Any] = {
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.hashsalt": "circuitfind",  # else every picture has other names inside
    "pdf.fonttype": 42,  # letters as letters, which journals ask for
    "savefig.dpi": 300,
    "text.parse_math": False,  # a task may be called a$b$
}
METADATA: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
SIDES = ((1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1.3), (0, -1.3))
OFFSETS = [(dx * distance, dy * distance) for distance in (5, 9) for dx, dy in SIDES]
"""Where a label may stand, in points from its marker, best first."""
MOST_LABELS = 12


@dataclass(frozen=True)
class Point:
    """One circuit of a sweep; ``size`` is what was asked for, ``kl`` in nats."""

    size: float
    n_edges: int
    kl: float


def draw_sweep(points: Sequence[Point], ablated: float, title: str, format: str) -> bytes:
    """The picture as ``svg``, ``png`` or ``pdf``, the same bytes each time; the line joins the
    points in their order.

    ``ablated``: KL with everything ablated.
    """
    file = io.BytesIO()
    with look():
        figure = make_figure(points, ablated, title)
        figure.savefig(file, format=format, metadata=METADATA[format])
    return file.getvalue()


@contextmanager
def look() -> Iterator[None]:
    """Inside, matplotlib draws as LOOK says, whatever a user's matplotlibrc says; afterwards as before."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # no word of how it builds its cache of fonts
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(LOOK | {"font.family": _font()})
        yield


def _font() -> str:
    """The name of the font of all pictures, made known to matplotlib."""
    from matplotlib.font_manager import FontProperties, fontManager

    name = FontProperties(fname=str(FONT)).get_name()
    if name not in fontManager.get_font_names():
        fontManager.addfont(str(FONT))
    return name


def make_figure(points: Sequence[Point], ablated: float, title: str) -> Figure:
    """The figure of ``points``, which come from the smallest circuit to the largest."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(clean(title), fontsize=9, loc="left")
    axes.set_xlabel("edges in the circuit")
    axes.set_ylabel("KL(full || circuit), nats")
    _scale(axes, points, ablated)
    axes.axhline(ablated, color=FAINT, linestyle="--", linewidth=1)
    places = [p.n_edges for p in points], [p.kl for p in points]
    axes.plot(*places, color=INK, linewidth=1, marker="o", markersize=4, clip_on=False)
    figure.draw_without_rendering()  # settles the layout, and so where labels can stand
    _label(axes, points, ablated)
    return figure


def _scale(axes: Axes, points: Sequence[Point], ablated: float) -> None:
    """Edges on their axis; KL from 0, with room for labels."""
    scale_edges(axes, *(pick(point.n_edges for point in points) for pick in (min, max)))
    axes.set_ylim(0, 1.15 * max(ablated, *(point.kl for point in points)) or 1.0)


def scale_edges(axes: Axes, fewest: int, most: int) -> None:
    """Numbers of edges on a logarithmic axis, which a circuit of none joins at its left end."""
    from matplotlib.ticker import FuncFormatter

    if fewest == 0:
        axes.set_xscale("symlog", linthresh=1)
    else:
        axes.set_xscale("log")
    axes.set_xlim(fewest / 1.6 if fewest else -0.2, max(most, 1) * 1.6)
    plain = FuncFormatter(lambda value, _: f"{value:,.0f}")
    axes.xaxis.set_major_formatter(plain)
    if most < 4 * fewest:  # the axis may lie between two powers of ten
        axes.xaxis.set_minor_formatter(plain)


def _label(axes: Axes, points: Sequence[Point], ablated: float) -> None:
    """Names the dashed line and at most MOST_LABELS points for which there is room: the ends, then
    some between.
    """
    taken = list(_obstacles(axes, points, ablated))
    right, top = axes.get_xlim()[1], (-1, 3)
    taken.append(_extent(axes, _write(axes, "everything ablated", (right, ablated), top, "right", FAINT)))
    groups = [list(group) for _, group in groupby(points, lambda point: (point.n_edges, point.kl))]
    last = len(groups) - 1
    chosen = dict.fromkeys((0, last, *range(0, last, math.ceil(len(groups) / MOST_LABELS))))
    for number in chosen:
        _place(axes, groups[number], taken)


def _place(axes: Axes, group: Sequence[Point], taken: list[Bbox]) -> None:
    """What was asked for at the points in one place, beside them where nothing else is."""
    first, last = group[0], group[-1]
    text = _spell(first.size) if first is last else f"{_spell(first.size)}–{_spell(last.size)}"
    for dx, dy in OFFSETS:
        side = {1: "left", 0: "center", -1: "right"}[(dx > 0) - (dx < 0)]
        label = _write(axes, text, (first.n_edges, first.kl), (dx, dy), side)
        extent = _extent(axes, label)
        if not any(extent.overlaps(other) for other in taken):
            taken.append(extent)
            return
        label.remove()


def _spell(size: float) -> str:
    """A number of edges in full, anything else to three digits."""
    return f"{size:,}" if isinstance(size, int) else f"{size:.3g}"


def _write(
    axes: Axes,
    text: str,
    place: tuple[float, float],
    offset: tuple[float, float],
    side: str,
    colour: str = INK,
) -> Annotation:
    upright = "bottom" if offset[1] > 0 else "top"
    how: dict[str, Any] = {
        "textcoords": "offset points",
        "ha": side,
        "va": upright,
        "color": colour,
        "fontsize": 8,
    }
    return axes.annotate(text, place, xytext=offset, **how)


def _extent(axes: Axes, label: Annotation) -> Bbox:
    return label.get_window_extent().padded(1)


def _obstacles(axes: Axes, points: Sequence[Point], ablated: float) -> Iterator[Bbox]:
    """What no label may cover, in small boxes: the markers, the line between them, the dashed line,
    the frame.
    """
    from matplotlib.transforms import Bbox

    pixels = axes.transData.transform([(point.n_edges, point.kl) for point in points]).tolist()
    frame = axes.get_window_extent()
    level = axes.transData.transform((axes.get_xlim()[0], ablated))[1]
    for start, end in [((frame.x0, level), (frame.x1, level)), *pairwise(pixels)]:
        n_steps = 1 + int(max(abs(end[0] - start[0]), abs(end[1] - start[1])) // 2)
        for step in range(n_steps + 1):
            x, y = (a + (b - a) * step / n_steps for a, b in zip(start, end, strict=True))
            yield Bbox.from_extents(x - 1, y - 1, x + 1, y + 1)
    for x, y in pixels:
        yield Bbox.from_extents(x - 4, y - 4, x + 4, y + 4)
    yield Bbox.from_extents(frame.x0 - 100, frame.y0 - 100, frame.x1 + 100, frame.y0 + 1)
    yield Bbox.from_extents(frame.x0 - 100, frame.y0, frame.x0 + 1, frame.y1)
    yield Bbox.from_extents(frame.x1 + 1, frame.y0, frame.x1 + 100, frame.y1)
