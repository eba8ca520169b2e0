"""How a circuit fares as it grows: faithfulness and KL at each of MIB's sizes, and two areas that
sum them up.

Of the same scores two families of circuits are made, of ten sizes each (a share of all edges,
before pruning): of the edges with the highest score, and of those with the highest |score|. Where a
method decides on whole nodes, or on edges that go together, the shares are of these
(``circuits/units.py``): a circuit of nodes has all edges among them and the input, which is always
in, as MIB's circuits of nodes. With f the faithfulness,

- CPR, the circuit performance ratio, is the area under f of the first family: how much of the
  behaviour small circuits recover. More than 1 is over-recovery, so that it is never to be read
  without
- CMD, the circuit-model distance, the area of |1 - f| of the second family: how far small circuits
  are from the model.

Both are trapezoids over the share of edges, from the smallest size to the whole graph, on a linear
axis: a circuit that fails until it is the whole graph has CPR 0.25 and CMD 0.749. Paper: MIB,
arXiv:2504.13151.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuitfind.circuits.selection import select
from circuitfind.circuits.size import Selection, SelectName
from circuitfind.circuits.units import Units
from circuitfind.errors import UsageError, unknown
from circuitfind.evaluation.performance import Evaluation, Performance
from circuitfind.evaluation.trials import Kept, Trials
from circuitfind.progress import Progress, Silent

BUDGETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""MIB's sizes, as shares of all edges."""


@dataclass(frozen=True)
class Point:
    """A circuit of one size: ``n_chosen`` edges (or other units), of which pruning kept ``n_kept`` edges.

    ``value``: its metric, ``kl``: in nats, both means over prompts. What is undefined is None.
    """

    budget: float
    n_chosen: int
    n_kept: int
    value: float | None
    kl: float | None
    faithfulness: float | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "budget": self.budget,
            "chosen": self.n_chosen,
            "edges": self.n_kept,
            "value": self.value,
            "kl": self.kl,
            "faithfulness": self.faithfulness,
        }


@dataclass(frozen=True)
class Curve:
    """The circuits of every size, from the smallest to the whole graph; ``metric`` is that of
    values and faithfulness.

    ``signed``: those of the highest scores, ``absolute``: of the highest |score|. ``full`` and
    ``ablated``: the metric of the full model and with every edge ablated, ``ablated_kl`` the
    latter's KL in nats.
    """

    metric: str
    n_edges: int
    full: float | None
    ablated: float | None
    ablated_kl: float | None
    signed: tuple[Point, ...]
    absolute: tuple[Point, ...]
    units: str = "edges"
    """What the shares are of."""

    @property
    def cpr(self) -> float | None:
        """The area under the faithfulness of ``signed``; None where that is undefined."""
        return area([(point.budget, point.faithfulness) for point in self.signed])

    @property
    def cmd(self) -> float | None:
        """The area between 1 and the faithfulness of ``absolute``; None where that is undefined."""
        return area(
            [
                (point.budget, None if point.faithfulness is None else abs(1 - point.faithfulness))
                for point in self.absolute
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "metric": self.metric,
            "cpr": self.cpr,
            "cmd": self.cmd,
            "shares_of": self.units,
            "graph_edges": self.n_edges,
            "full": self.full,
            "ablated": self.ablated,
            "ablated_kl": self.ablated_kl,
            "signed": [point.to_dict() for point in self.signed],
            "absolute": [point.to_dict() for point in self.absolute],
        }


def area(points: Sequence[tuple[float, float | None]]) -> float | None:
    """The area under the line through these (x, y), which come with rising x; None where any y is."""
    known = [(x, y) for x, y in points if y is not None]
    if len(known) < len(points):
        return None
    return math.fsum((right - left) * (y + z) / 2 for (left, y), (right, z) in pairwise(known))


def measure_curve(
    trials: Trials,
    scores: Float[Tensor, "receiver sender"],
    metric: str = "logit-diff",
    budgets: Sequence[float] = BUDGETS,
    progress: Progress | None = None,
    units: Units | None = None,
) -> Curve:
    """The circuits that the scores make at each of the ``budgets`` (rising, in (0, 1]), run on the
    trials' prompts.

    ``units``: what is chosen, and the budgets are shares of; single edges by default. A circuit
    that comes up twice is run once. Raises UsageError for an unknown metric, for budgets that do
    not rise, and for a score that is no finite number.
    """
    if metric not in trials.full.values:
        raise UsageError(unknown("metric", metric, trials.full.values))
    if any(left >= right for left, right in pairwise(budgets)):
        raise UsageError(
            f"The budgets are {', '.join(f'{b:g}' for b in budgets)}; give each once, the smallest first."
        )
    units, runs = units or Units(trials.graph), _Runs(trials, metric)
    progress, families = progress or Silent(), []
    progress.stage("running circuits of every size")
    ways: tuple[SelectName, ...] = ("top-signed", "top")
    for number, way in enumerate(ways):
        points = []
        for budget in budgets:
            points.append(_measure(runs, scores, Selection(fraction=budget, select=way), units))
            progress.update(number * len(budgets) + len(points), len(ways) * len(budgets))
        families.append(tuple(points))
    full, ablated = trials.full, trials.ablated
    n_edges = trials.graph.n_edges
    outer = (full.mean(metric), ablated.mean(metric), ablated.mean("kl"))
    return Curve(metric, n_edges, *outer, signed=families[0], absolute=families[1], units=units.noun)


class _Runs:
    """Runs of circuits, each made once; the whole graph and no edge at all are among the trials' own."""

    def __init__(self, trials: Trials, metric: str) -> None:
        self.trials, self.metric = trials, metric
        self._names = tuple(dict.fromkeys((metric, "kl")))
        nothing = torch.zeros_like(trials.edges)
        self._known = {_key(trials.edges): trials.full, _key(nothing): trials.ablated}

    def run(self, kept: Kept) -> Performance:
        key = _key(kept)
        if key not in self._known:
            self._known[key] = self.trials.run(kept, self._names)
        return self._known[key]


def _key(kept: Kept) -> bytes:
    return kept.numpy().tobytes()


def _measure(
    runs: _Runs, scores: Float[Tensor, "receiver sender"], selection: Selection, units: Units
) -> Point:
    """The circuit of one size."""
    trials = runs.trials
    selected = select(trials.graph, scores, selection, units)
    run = runs.run(selected.kept)
    faithfulness = Evaluation(trials.full, run, trials.ablated).faithfulness(runs.metric)
    assert selection.fraction is not None
    return Point(
        selection.fraction,
        selected.n_nominal,
        selected.n_kept,
        run.mean(runs.metric),
        run.mean("kl"),
        faithfulness,
    )
