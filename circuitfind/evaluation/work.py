"""What runs cost beside each other, so that progress is told evenly and the time left is known beforehand.

The unit is a bare forward pass of the same prompts. The figures are those of smollm2-135m on two
cores (16 prompts, circuits of 500 to 5,000 edges); other models differ, and the pace of the
judgement that is under way corrects them (``time_left.Course``).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from math import fsum

import numpy as np

KNOCKED_OUT = 0.45
"""The full model without half of its nodes."""
WITHOUT_ONE = 0.25
"""The full model without one node."""
PART = 0.17
"""A sparse circuit without an edge or a node."""
HALF = 0.5
"""A sparse circuit without half of its nodes."""
GROWN = 1.2
"""A sparse circuit and a path more."""
ALONE = 1.3
"""Another sparse circuit."""
DENSE = 2.7
"""The model without the edges of a sparse circuit."""
EVALUATION = 4.3
"""The full model, a circuit and the ablated model, from the start."""
CURVE = 28.0
"""Circuits of ten sizes, twice."""
MEANS = 0.7
"""The means over as many other prompts."""
LEARNING = 6000.0
"""The constants of optimal ablation, times the number of the circuit's own prompts."""


@dataclass(frozen=True)
class Phase:
    """``n`` runs one after another, and what each of them costs."""

    n: int
    cost: float


class Work:
    """Some phases in order: how much of them is done after so many runs."""

    def __init__(self, phases: tuple[Phase, ...]) -> None:
        self._runs = [0, *accumulate(phase.n for phase in phases)]
        self._costs = [0.0, *accumulate(phase.n * phase.cost for phase in phases)]

    @property
    def n_runs(self) -> int:
        return self._runs[-1]

    @property
    def total(self) -> float:
        return self._costs[-1]

    def done(self, n_runs: int) -> float:
        """What the first ``n_runs`` runs cost together."""
        return float(np.interp(n_runs, self._runs, self._costs))


def total(phases: tuple[Phase, ...]) -> float:
    """What all of them cost together."""
    return fsum(phase.n * phase.cost for phase in phases)


def count(phases: tuple[Phase, ...]) -> int:
    """How many runs they are."""
    return sum(phase.n for phase in phases)
