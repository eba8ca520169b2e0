"""The curve of each edge: upwards from its sender's top to its receiver's underside, around every
node between.

A curve is a chain of knots (y, x) with y rising; between two knots it is a cubic with given slopes
dx/dy at both, so that it bends in x alone and is a Bezier curve at once (its y control points stand
at thirds). Routing starts with the two ends and leads the curve past the side of each node that it
would run through, until it runs through none.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

from circuitfind.export.drawing.layout import Box

Point = tuple[float, float]
CLEARANCE = 2.5  # points between a curve and a node that it passes


@dataclass(frozen=True)
class Gap:
    """Room beside a node, up to its neighbour."""

    left: float
    right: float


@dataclass(frozen=True)
class Obstacles:
    """The boxes of one row, from left to right, all of one height; curves pass them within ``lane``
    points, and between ``left`` and ``right``."""

    boxes: tuple[Box, ...]
    lane: float
    left: float = -inf
    right: float = inf

    @property
    def bottom(self) -> float:
        return self.boxes[0].bottom

    @property
    def y(self) -> float:
        return self.boxes[0].y

    @property
    def top(self) -> float:
        return self.boxes[0].top

    def hit(self, curve: Curve) -> Box | None:
        """The box that the curve runs through, if any."""
        xs = [curve.x(self.bottom), curve.x(self.y), curve.x(self.top)]
        low, high = min(xs) - CLEARANCE, max(xs) + CLEARANCE
        return next((box for box in self.boxes if box.left < high and box.right > low), None)

    def gap_beside(self, box: Box, x: float) -> Gap:
        """The room next to ``box`` on the side where ``x`` is, at most a lane wide."""
        place = self.boxes.index(box)
        if x < box.x:
            neighbour = self.boxes[place - 1].right if place else self.left
            return Gap(max(neighbour, box.left - self.lane), box.left)
        neighbour = self.boxes[place + 1].left if place + 1 < len(self.boxes) else self.right
        return Gap(box.right, min(neighbour, box.right + self.lane))


@dataclass(frozen=True)
class Curve:
    """Knots (y, x) with rising y, and the slope dx/dy at each."""

    knots: tuple[tuple[float, float], ...]
    slopes: tuple[float, ...]

    def x(self, y: float) -> float:
        """Where the curve is at height ``y``."""
        place = min(max(bisect_left(self.knots, (y,)), 1), len(self.knots) - 1)
        (y0, x0), (y1, x1) = self.knots[place - 1], self.knots[place]
        third, t = (y1 - y0) / 3, (y - y0) / (y1 - y0)
        u = 1 - t
        c0, c1 = x0 + self.slopes[place - 1] * third, x1 - self.slopes[place] * third
        return u * u * u * x0 + 3 * u * u * t * c0 + 3 * u * t * t * c1 + t * t * t * x1

    def bezier(self) -> list[Point]:
        """The control points (x, y): the first knot, then three points a segment."""
        points = [(self.knots[0][1], self.knots[0][0])]
        for ((y0, x0), (y1, x1)), (m0, m1) in zip(
            pairwise(self.knots), pairwise(self.slopes), strict=True
        ):
            third = (y1 - y0) / 3
            points += [(x0 + m0 * third, y0 + third), (x1 - m1 * third, y1 - third), (x1, y1)]
        return points


def smooth(knots: Sequence[tuple[float, float]]) -> Curve:
    """The curve through the knots: never past a knot's x where it turns, and straight up at its end."""
    slopes = [(x1 - x0) / (y1 - y0) for (y0, x0), (y1, x1) in pairwise(knots)]
    inner = [_between(before, after) for before, after in pairwise(slopes)]
    first = 0.5 * slopes[0] if len(slopes) == 1 else 0.8 * slopes[0]
    return Curve(tuple(knots), (first, *inner, 0.0))


def _between(before: float, after: float) -> float:
    """The slope at a knot: the harmonic mean, 0 where the curve turns (Fritsch and Carlson, 1980)."""
    return 2 * before * after / (before + after) if before * after > 0 else 0.0


def route(start: Point, end: Point, rows: Sequence[Obstacles], share: float) -> Curve:
    """The curve from ``start`` up to ``end`` around all ``rows`` between; ``share`` (0 to 1) is its
    place in a gap.
    """
    ahead = [row for row in rows if start[1] < row.bottom and row.top < end[1]]
    knots = {start[1]: start[0], end[1]: end[0]}
    curve = straight = smooth(sorted(knots.items()))
    while hits := [(row, box) for row in ahead if (box := row.hit(curve))]:
        for row, box in hits:
            gap = row.gap_beside(box, straight.x(row.y))
            x = gap.left + CLEARANCE + share * (gap.right - gap.left - 2 * CLEARANCE)
            knots[row.bottom] = knots[row.top] = x
        curve = smooth(sorted(knots.items()))
        ahead = [row for row in ahead if row.bottom not in knots]
    return curve
