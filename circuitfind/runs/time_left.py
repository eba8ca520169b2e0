"""How long a search still takes: from what its tests have taken so far, and how many there may still be.

Neither is known. An edge into a node that nothing kept reads costs no test, and whether one does is
decided on the way; and a test of an early layer runs more of the model again than one of a late
layer. So two numbers are told: an extrapolation, for as large a share of live nodes as there has
been so far, and a bound, for the case that all turn out to live. A test's seconds are fitted as ``a
+ b * depth``, with depth 0 at the logits and 1 at the first layer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import fsum

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitfind.circuits.graph import Graph
from circuitfind.circuits.reach import Sites
from circuitfind.methods.outcome import in_question
from circuitfind.progress import Progress

FEWEST_TESTS = 100
"""Before that many have been timed nothing is told."""
FEWEST_SECONDS = 5.0
"""Before that many nothing is told of work that goes on evenly."""
LEAST_SECONDS = 0.2
"""How often a search is looked at."""
TRUSTED = 0.25
"""From this share of a part on its own pace tells how long it takes."""
SLOW_TO_LEARN = 0.02
"""The share of all work before which a pace that differs from what was guessed is not believed."""
GROWTH = 6.0
"""A test of the first layer is taken to last so much longer than one of the logits, until tests
have shown it.
"""
GROWTH_TESTS = 100.0
"""How many tests of the first layer weigh as much as that assumption."""


@dataclass(frozen=True)
class Left:
    """Seconds still to go: if as many nodes live as so far, and if all do."""

    expected: float
    longest: float

    def with_more(self, seconds: float) -> Left:
        """The same with what comes behind the search."""
        return Left(self.expected + seconds, self.longest + seconds)

    def __str__(self) -> str:
        """For people, e.g. ``about 3 min left, at most 20 min``."""
        about, most = duration(self.expected), duration(self.longest)
        return f"about {about} left" if about == most else f"about {about} left, at most {most}"


class Eta:
    """Watches a search, of all edges or of a shortlist, and tells how long it still takes."""

    def __init__(self, graph: Graph, shortlist: Bool[Tensor, "receiver sender"] | None = None) -> None:
        self._edges = in_question(graph, shortlist)
        self._n_edges = self._edges.sum(1).double()
        depths = [1.0 - _layer(graph, row) / graph.n_layers for row in range(len(graph.receivers))]
        self._depth = torch.tensor(depths, dtype=torch.float64)
        self._sites = Sites(graph)
        # the normal equations of seconds = a * tests + b * (tests * depth), each sample weighed by
        # 1 / tests
        self._products = (
            torch.tensor([[GROWTH**2, -GROWTH], [-GROWTH, 1.0]], dtype=torch.float64) * GROWTH_TESTS
        )
        self._sums = torch.zeros(2, dtype=torch.float64)
        self._seconds, self._n_timed = 0.0, 0.0
        self._work: Tensor | None = None
        self._last = 0.0
        self.left: Left | None = None

    def see(
        self, kept: Bool[Tensor, "receiver sender"], decided: Bool[Tensor, "receiver sender"]
    ) -> None:
        """Look at what is kept and what is decided so far; ``left`` is new afterwards."""
        now = time.monotonic()
        if self._work is not None and now - self._last < LEAST_SECONDS:
            return
        live = self._live(kept)
        n_decided = (decided & self._edges).sum(1).double()
        work = self._weigh(n_decided * live)
        if self._work is not None:
            self._learn(work - self._work, now - self._last)
        self._work, self._last = work, now
        if self._n_timed >= FEWEST_TESTS:
            self.left = self._estimate(n_decided, live)

    def _live(self, kept: Bool[Tensor, "receiver sender"]) -> Float[Tensor, " receiver"]:
        """1 where a kept edge leaves the receiver's node where it counts, or it is the logits; else 0."""
        return torch.from_numpy(self._sites.serving(self._sites.read(kept.numpy()))).double()

    def _weigh(self, tests: Float[Tensor, " receiver"]) -> Float[Tensor, " coefficient"]:
        """How many tests, and that times their depth."""
        return torch.stack((tests.sum(), tests @ self._depth))

    def _learn(self, work: Float[Tensor, " coefficient"], seconds: float) -> None:
        """Add what some tests have taken."""
        n_tests = float(work[0])
        if n_tests <= 0:
            return
        self._products += work.outer(work) / n_tests
        self._sums += work * (seconds / n_tests)
        self._seconds += seconds
        self._n_timed += n_tests

    def _estimate(self, n_decided: Tensor, live: Tensor) -> Left:
        cost, waiting = self._cost(), self._n_edges - n_decided
        chances = torch.where(live > 0, 1.0, self._share(n_decided, live))
        return Left(float(self._weigh(waiting * chances) @ cost), float(self._weigh(waiting) @ cost))

    def _share(self, n_decided: Tensor, live: Tensor) -> float:
        """Of the edges decided so far, how many led into live nodes; 1 before there are any but the
        logits'.
        """
        others = n_decided.clone()
        others[-1] = 0
        return float(others @ live) / float(others.sum()) if others.any() else 1.0

    def _cost(self) -> Float[Tensor, " coefficient"]:
        """Seconds of a test, and of a test and layer; neither below zero."""
        cost: Tensor = torch.linalg.solve(self._products, self._sums)
        if bool((cost >= 0).all()):
            return cost
        return torch.tensor([self._seconds / self._n_timed, 0.0], dtype=torch.float64)


class WithTimeLeft:
    """Progress whose notes say how long the search still takes, with what comes ``after`` it, in seconds."""

    def __init__(self, progress: Progress, eta: Eta, after: float = 0.0) -> None:
        self._progress, self._eta, self._after = progress, eta, after

    def stage(self, name: str) -> None:
        self._progress.stage(name)

    def update(self, done: float, total: float, note: str = "") -> None:
        left = "" if self._eta.left is None else str(self._eta.left.with_more(self._after))
        self._progress.update(done, total, ", ".join(filter(None, (note, left))))

    def warn(self, message: str) -> None:
        self._progress.warn(message)


class WithEvenTimeLeft:
    """Progress of work that goes on evenly: its notes say how long it still takes at the pace of
    this sitting, and with what comes ``after`` it, in seconds.

    What was done before the first news is of an earlier sitting, or too little to matter.
    """

    def __init__(self, progress: Progress, after: float = 0.0) -> None:
        self._progress, self._after = progress, after
        self._first: tuple[float, float] | None = None

    def stage(self, name: str) -> None:
        self._first = None
        self._progress.stage(name)

    def update(self, done: float, total: float, note: str = "") -> None:
        now = time.monotonic()
        self._first = self._first or (now, done)
        seconds, grown = now - self._first[0], done - self._first[1]
        known = seconds >= FEWEST_SECONDS and grown > 0 and done < total
        left = f"about {duration(seconds * (total - done) / grown + self._after)} left" if known else ""
        self._progress.update(done, total, ", ".join(filter(None, (note, left))))

    def warn(self, message: str) -> None:
        self._progress.warn(message)


class Course:
    """Progress through parts of work whose seconds are guessed beforehand: one bar over all of
    them, by the time.

    What the parts so far have taken, against their guesses, corrects the guesses of those to come;
    a part's own pace takes the place of its guess as it goes on.
    """

    def __init__(
        self,
        progress: Progress,
        guesses: Mapping[str, float],
        clock: Callable[[], float] = time.monotonic,
    ):
        self._progress, self._clock = progress, clock
        self._waiting = dict(guesses)
        self._spent, self._guessed = 0.0, 0.0
        self._weight = SLOW_TO_LEARN * fsum(guesses.values())
        self._guess, self._share, self._began = 0.0, 0.0, clock()
        self._start, self._shown = self._began, 0.0

    def begin(self, part: str, title: str) -> None:
        """The next part begins; the one before has ended."""
        now = self._clock()
        self._spent, self._guessed = self._spent + now - self._began, self._guessed + self._guess
        self._guess, self._share, self._began = self._waiting.pop(part, 0.0), 0.0, now
        self.stage(title)

    def stage(self, name: str) -> None:
        self._progress.stage(name)
        self._tell("")

    def update(self, done: float, total: float, note: str = "") -> None:
        self._share = max(self._share, done / total if total else 0.0)
        self._tell(note)

    def warn(self, message: str) -> None:
        self._progress.warn(message)

    @property
    def left(self) -> float:
        """Seconds still to go."""
        own = self._clock() - self._began
        pace = self._pace(own)
        guessed = self._guess * (1 - self._share) * pace
        by_pace = own * (1 - self._share) / self._share if self._share else guessed
        trust = min(1.0, self._share / TRUSTED)
        return trust * by_pace + (1 - trust) * guessed + pace * fsum(self._waiting.values())

    def _pace(self, own: float) -> float:
        """How many seconds one that was guessed takes."""
        spent, guessed = self._spent + own * (self._share > 0), self._guessed + self._guess * self._share
        return (spent + self._weight) / (guessed + self._weight) if guessed else 1.0

    def _tell(self, note: str) -> None:
        seconds, left = self._clock() - self._start, self.left
        if seconds + left > 0:
            self._shown = max(self._shown, seconds / (seconds + left))
        said = f"about {duration(left)} left" if seconds >= FEWEST_SECONDS and left > 0 else ""
        self._progress.update(self._shown, 1.0, ", ".join(filter(None, (note, said))))


class Slice:
    """Progress of one of several steps of a part: from one share of the part to another."""

    def __init__(self, progress: Progress, start: float, end: float) -> None:
        self._progress, self._start, self._end = progress, start, end

    def stage(self, name: str) -> None:
        self._progress.stage(name)

    def update(self, done: float, total: float, note: str = "") -> None:
        share = done / total if total else 0.0
        self._progress.update(self._start + (self._end - self._start) * share, 1.0, note)

    def warn(self, message: str) -> None:
        self._progress.warn(message)


def slices(progress: Progress, costs: Sequence[float]) -> list[Slice]:
    """A part's steps, each as long as it costs."""
    ends = [end / fsum(costs) for end in accumulate(costs)]
    return [Slice(progress, start, end) for start, end in zip([0.0, *ends], ends, strict=False)]


def _layer(graph: Graph, row: int) -> int:
    """The layer of a receiver; the logits come behind all of them."""
    return graph.depth(graph.receivers[row].node)


def duration(seconds: float) -> str:
    """For people, as rough as it is known.

    >>> duration(8), duration(200), duration(8000), duration(400000)
    ('8 s', '3 min', '2.2 h', '4.6 days')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
