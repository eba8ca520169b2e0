"""MLPs of ReLUs that turn numbers into categories: one step a threshold, two hidden units a step.

A step is 0 below ``low``, 1 above ``high`` and a straight line between; the numbers that occur lie
a margin away from the line's ends, so that small errors change nothing (the construction of tracr,
arXiv:2301.05062).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from circuitfind.circuits.graph import Node
from tools.truth.compiler import Matrix, Part, Vector

MARGIN = 1 / 8
"""The share of the way between two numbers that is flat at either end."""


@dataclass(frozen=True)
class Step:
    """0 where the number is ``low``, 1 where it is ``high``. The number: a weighted sum of
    variables' coordinates.
    """

    number: Mapping[str, Vector]
    low: float
    high: float


def mlp_of_steps(
    layer: int, steps: Sequence[Step], writes: Mapping[str, Float[np.ndarray, "step _"]]
) -> Part:
    """The MLP that writes, for every variable, the sum of its rows of those steps that are 1."""
    widths = {name: len(weights) for step in steps for name, weights in step.number.items()}
    reads = {name: np.zeros((width, 2 * len(steps))) for name, width in widths.items()}
    bias = np.zeros(2 * len(steps))
    for index, step in enumerate(steps):
        gap = step.high - step.low
        slope, start = 1 / (gap * (1 - 2 * MARGIN)), step.low + gap * MARGIN
        for name, weights in step.number.items():
            reads[name][:, 2 * index] = reads[name][:, 2 * index + 1] = slope * weights
        bias[2 * index : 2 * index + 2] = -slope * start, -slope * start - 1
    signed = {
        name: np.stack((rows, -rows), axis=1).reshape(-1, rows.shape[1]) for name, rows in writes.items()
    }
    return Part(Node("mlp", layer), {None: reads}, signed, {None: bias})


def categories(values: Sequence[float], number: Mapping[str, Vector]) -> list[Step]:
    """The steps up to each of these ascending values, the first from as far below as the second
    lies above.
    """
    starts = [2 * values[0] - values[1], *values]
    return [Step(number, low, high) for low, high in zip(starts, values, strict=False)]


def one_hot(n_categories: int) -> Matrix:
    """What the steps of ``categories`` write so that the last one that is 1 alone is left."""
    return np.eye(n_categories) - np.eye(n_categories, k=-1)
