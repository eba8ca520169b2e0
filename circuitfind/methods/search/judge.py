"""The published rule of ACDC on a chain of edges that was looked at: an edge goes if the objective
rises by less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from circuitfind.circuits.graph import Receiver
from circuitfind.methods.search.chain import Chain, Search

ROUNDING = 5e-6
"""More than what rounding adds to an enclosure."""


@dataclass(frozen=True)
class Verdict:
    """The scores of the edges that were decided, in the order in which they were tried; the first
    ``n_removed`` go.

    At most one more is decided, which stays. ``n_computed``: how many runs it took.
    """

    scores: list[float]
    n_removed: int
    n_computed: int


Judge = Callable[[Receiver, Sequence[int], int], Verdict]
"""Decides on the first of the senders that wait at a receiver, in the present run, and makes its
outcome the present run; that depends on what waits and on the present run alone. The number is how
many runs may stand side by side."""


def make_judge(search: Search, threshold: float, tolerance: float) -> Judge:
    """The one that tests every edge."""

    def judge_next(receiver: Receiver, waiting: Sequence[int], n_tests: int) -> Verdict:
        senders = waiting[:n_tests]
        chain = search.begin(receiver, senders, tolerance)
        chain.reach(range(1, len(senders) + 1))
        verdict = judge(chain, len(senders), threshold)
        chain.settle(verdict.n_removed)
        return verdict

    return judge_next


def judge(chain: Chain, n_edges: int, threshold: float) -> Verdict:
    """What becomes of the edges up to the first that must stay, every cut having been looked at."""
    scores: list[float] = []
    for cut in range(1, n_edges + 1):
        scores.append(rise(chain, cut, threshold))
        if not scores[-1] < threshold:
            return Verdict(scores, cut - 1, n_edges)
    return Verdict(scores, n_edges, n_edges)


def rise(chain: Chain, cut: int, threshold: float) -> float:
    """By how much the last edge before a cut raises the objective.

    What lies too near the threshold for the radii is computed in full first, as is all that an edge
    is kept by.
    """
    score, radius = chain.values[cut] - chain.values[cut - 1], chain.radii[cut] + chain.radii[cut - 1]
    if not score < threshold - (radius + (ROUNDING if radius else 0.0)):
        chain.compute((cut - 1, cut))
        score = chain.values[cut] - chain.values[cut - 1]
    return score
