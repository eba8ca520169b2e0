"""The curve of each edge: upwards from its sender's top to its receiver's underside, around every node between.

A curve is a chain of knots (x, y) with y rising; between two knots it is a cubic with given slopes dx/dy at both, so
that it bends in x alone and is a Bezier curve at once (its y control points stand at thirds). Routing starts with the
two ends and adds a knot beside each node that the curve would run through, until it runs through none.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

from circuitfind.export.layout import Box

Point = tuple[float, float]
CLEARANCE = 2.5  # points between a curve and a node that it passes
ROUNDS = 8  # of adding knots; a curve clears everything after two or three


@dataclass(frozen=True)
class Gap:
    """Room beside a node, up to its neighbour."""

    left: float
    right: float


@dataclass(frozen=True)
class Obstacles:
    """The boxes of one row, from left to right, all of one height; curves pass them within ``lane`` points."""

    boxes: tuple[Box, ...]
    lane: float

    @property
    def y(self) -> float:
        return self.boxes[0].y

    def hit(self, curve: Curve) -> Box | None:
        """The box that the curve runs through, if any."""
        bottom, top = self.boxes[0].bottom, self.boxes[0].top
        xs = [curve.x(bottom), curve.x(self.y), curve.x(top)]
        low, high = min(xs) - CLEARANCE, max(xs) + CLEARANCE
        return next((box for box in self.boxes if box.left < high and box.right > low), None)

    def gap_beside(self, box: Box, x: float) -> Gap:
        """The room next to ``box`` on the side where ``x`` is, at most a lane wide."""
        place = self.boxes.index(box)
        if x < box.x:
            neighbour = self.boxes[place - 1].right if place else -inf
            return Gap(max(neighbour, box.left - self.lane), box.left)
        neighbour = self.boxes[place + 1].left if place + 1 < len(self.boxes) else inf
        return Gap(box.right, min(neighbour, box.right + self.lane))


@dataclass(frozen=True)
class Curve:
    """Knots with rising y, and the slope dx/dy at each."""

    knots: tuple[Point, ...]
    slopes: tuple[float, ...]

    def x(self, y: float) -> float:
        """Where the curve is at height ``y``."""
        place = min(max(bisect_left(self.knots, y, key=lambda knot: knot[1]), 1), len(self.knots) - 1)
        (x0, y0), (x1, y1) = self.knots[place - 1], self.knots[place]
        rise, t = y1 - y0, (y - y0) / (y1 - y0)
        u = 1 - t
        c0, c1 = x0 + self.slopes[place - 1] * rise / 3, x1 - self.slopes[place] * rise / 3
        return u * u * u * x0 + 3 * u * u * t * c0 + 3 * u * t * t * c1 + t * t * t * x1

    def bezier(self) -> list[Point]:
        """The control points: the first knot, then three points a segment."""
        points = [self.knots[0]]
        for ((x0, y0), (x1, y1)), (m0, m1) in zip(pairwise(self.knots), pairwise(self.slopes), strict=True):
            third = (y1 - y0) / 3
            points += [(x0 + m0 * third, y0 + third), (x1 - m1 * third, y1 - third), (x1, y1)]
        return points


def smooth(knots: Sequence[Point]) -> Curve:
    """The curve through the knots: never past a knot's x where it turns, and straight up at its end."""
    slopes = [(x1 - x0) / (y1 - y0) for (x0, y0), (x1, y1) in pairwise(knots)]
    inner = [_between(before, after) for before, after in pairwise(slopes)]
    first = 0.5 * slopes[0] if len(slopes) == 1 else 0.8 * slopes[0]
    return Curve(tuple(knots), (first, *inner, 0.0))


def _between(before: float, after: float) -> float:
    """The slope at a knot: the harmonic mean, 0 where the curve turns (Fritsch and Carlson, 1980)."""
    return 2 * before * after / (before + after) if before * after > 0 else 0.0


def route(start: Point, end: Point, rows: Sequence[Obstacles], share: float) -> Curve:
    """The curve from ``start`` up to ``end`` around all ``rows`` between; ``share`` (0 to 1) is its place in a gap."""
    between = [row for row in rows if start[1] < row.boxes[0].bottom and row.boxes[0].top < end[1]]
    knots = {start[1]: start, end[1]: end}
    for _ in range(ROUNDS):
        curve = smooth([knots[y] for y in sorted(knots)])
        hits = [(row, box) for row in between if row.y not in knots and (box := row.hit(curve))]
        if not hits:
            break
        for row, box in hits:
            gap = row.gap_beside(box, curve.x(row.y))
            room = gap.right - gap.left - 2 * CLEARANCE
            knots[row.y] = (gap.left + CLEARANCE + share * room, row.y)
    return curve
