"""What each judgement of a circuit is asked for. No torch: a wrong number is refused before
anything is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass

from circuitfind.errors import UsageError


@dataclass(frozen=True)
class KnockOuts:
    """``n_random`` random sets of the circuit's nodes, and one that grows by a node in each of at
    most ``n_steps``.

    A step looks at ``n_candidates`` nodes drawn from those left; None: at all of them. Raises
    UsageError for what cannot be.
    """

    n_random: int = 20
    n_steps: int = 10
    n_candidates: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        at_least("number of random knock-outs", self.n_random, 0)
        at_least("number of greedy steps", self.n_steps, 0)
        if self.n_candidates is not None:
            at_least("number of candidates a step", self.n_candidates, 1)


@dataclass(frozen=True)
class LeaveOneOut:
    """At most ``most`` edges and as many nodes, drawn where there are more; ``share``: below which
    one is needless.
    """

    most: int = 500
    share: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        at_least("number of edges", self.most, 1)
        between("share", self.share)


@dataclass(frozen=True)
class RandomCircuits:
    """How many circuits to draw."""

    n: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        at_least("number of random circuits", self.n, 1)


@dataclass(frozen=True)
class HypothesisOptions:
    """Of the five tests (``hypotheses.py``).

    ``epsilon``: by how much the share of prompts that the circuit wins may differ from 1/2.
    ``quantile``: with which probability the circuit, or an edge of it, must beat chance.
    ``n_random`` random circuits for each test that needs some, ``n_permutations`` of the prompts,
    at most ``most`` edges tested for minimality. ``alpha``: the level.
    """

    epsilon: float = 0.1
    quantile: float = 0.9
    n_random: int = 100
    n_permutations: int = 1000
    most: int = 500
    alpha: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < 0.5:
            raise UsageError(
                f"Epsilon is {self.epsilon}; give a number from 0 to below 0.5, such as 0.1."
            )
        between("quantile", self.quantile)
        between("level alpha", self.alpha)
        at_least("number of random circuits", self.n_random, 1)
        at_least("number of permutations", self.n_permutations, 1)
        at_least("number of edges", self.most, 1)


def at_least(what: str, value: int, least: int) -> None:
    """Raises UsageError for less."""
    if value < least:
        raise UsageError(f"The {what} is {value}; give {least} or more.")


def between(what: str, value: float) -> None:
    """Raises UsageError for a share that is not between 0 and 1."""
    if not 0 < value < 1:
        raise UsageError(f"The {what} is {value}; give a number above 0 and below 1.")
