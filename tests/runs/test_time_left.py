"""How long a search still takes, on searches whose tests take a known time."""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest

from circuitfind.circuits.graph import Graph
from circuitfind.methods.outcome import Found, nothing_decided
from circuitfind.methods.search.acdc import visiting_order
from circuitfind.runs import time_left as module
from circuitfind.runs.time_left import (
    FEWEST_TESTS,
    Course,
    Eta,
    Left,
    WithEvenTimeLeft,
    WithTimeLeft,
    duration,
    slices,
)

GRAPH = Graph(8, 4)
KEPT_ALL, FEW_KEPT = 1.0, 0.06


class Simulated:
    """A search that takes ``seconds(depth)`` for each test of a receiver with so many layers behind it.

    Each edge is kept with the chance ``keep``, and every third of those into the logits.
    """

    def __init__(self, seconds, keep: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self._seconds, self._keep = 0.0, seconds, keep
        monkeypatch.setattr(module, "time", self)
        self._random = random.Random(0)

    def monotonic(self) -> float:
        return self.now

    def run(self) -> list[tuple[float, float, Left | None]]:
        """(share of the time gone, seconds left in truth, what was estimated) after each receiver."""
        found, eta, moments = nothing_decided(GRAPH), Eta(GRAPH), []
        for receiver in visiting_order(GRAPH):
            found = self._decide(found, receiver, eta)
            moments.append((self.now, eta.left))
        return [(now / self.now, self.now - now, left) for now, left in moments]

    def _decide(self, found: Found, receiver, eta: Eta) -> Found:
        row, node = GRAPH.receiver_index[receiver], receiver.node
        is_live = node.kind == "logits" or bool(found.kept[:, GRAPH.sender_index[node]].any())
        depth = 0 if node.kind == "logits" else GRAPH.n_layers - node.layer
        for sender in reversed(range(GRAPH.n_readable(receiver))):
            if is_live:
                self.now += self._seconds(depth)
                found = replace(found, n_tests=found.n_tests + 1)
                found.kept[row, sender] = self._random.random() < self._keep or (
                    depth == 0 and sender % 3 == 0
                )
            found.decided[row, sender] = True
            if sender % 8 == 0:  # the end of a chain
                eta.see(found.kept, found.decided)
        return found


@pytest.mark.parametrize(
    ("seconds", "keep"),
    [
        (lambda depth: 1.0, KEPT_ALL),
        (lambda depth: 1.0 + 2.0 * depth, KEPT_ALL),
        (lambda depth: 1.0, FEW_KEPT),
    ],
    ids=["the same cost everywhere", "early layers cost more", "dead nodes"],
)
def test_the_estimate_is_within_a_factor_of_two_from_a_third_of_the_way_on(
    seconds, keep: float, monkeypatch
) -> None:
    for share, truth, left in Simulated(seconds, keep, monkeypatch).run():
        if 1 / 3 < share < 1:
            assert left is not None and truth / 2 <= left.expected <= 2.2 * truth + 5


def test_the_longest_counts_every_node_that_may_turn_out_to_live(monkeypatch) -> None:
    moments = Simulated(lambda depth: 1.0, FEW_KEPT, monkeypatch).run()
    told = [(truth, left) for _, truth, left in moments if left is not None]
    assert all(left.longest >= left.expected and left.longest >= truth - 1e-6 for truth, left in told)
    assert any(left.longest > 1.1 * left.expected for _, left in told)


def test_nothing_is_told_before_there_is_something_to_tell_from(monkeypatch) -> None:
    clock = Simulated(lambda depth: 1.0, KEPT_ALL, monkeypatch)
    found, eta = nothing_decided(GRAPH), Eta(GRAPH)
    for sender in range(20):
        found.decided[-1, sender] = True
        clock.now += 1
        eta.see(found.kept, found.decided)
    assert eta.left is None and FEWEST_TESTS > 20


def test_a_search_taken_up_again_counts_only_its_own_seconds(monkeypatch) -> None:
    clock = Simulated(lambda depth: 1.0, KEPT_ALL, monkeypatch)
    found, eta = nothing_decided(GRAPH), Eta(GRAPH)
    found.decided[20:], found.kept[20:] = True, True
    clock.now = 1000.0
    eta.see(found.kept, found.decided)
    for sender in range(2):
        found.decided[19 - sender] = True
        found.kept[19 - sender] = True
        clock.now += 5
        eta.see(found.kept, found.decided)
    assert eta.left is None or eta.left.longest < 10_000


class Listening:
    """Progress that holds on to the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def stage(self, name: str) -> None: ...

    def warn(self, message: str) -> None: ...

    def update(self, done: float, total: float, note: str = "") -> None:
        self.notes.append(note)


def test_the_note_of_a_search_says_how_long_it_still_takes() -> None:
    eta, listening = Eta(GRAPH), Listening()
    progress = WithTimeLeft(listening, eta)
    progress.update(1, 2, "3 tests")
    eta.left = Left(200, 1300)
    progress.update(1, 2, "3 tests")
    assert listening.notes == ["3 tests", "3 tests, about 3 min left, at most 22 min"]


def test_work_that_goes_on_evenly_is_timed_by_this_sitting_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    times, listening = iter((100.0, 101.0, 110.0, 500.0, 900.0)), Listening()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(times)))
    progress = WithEvenTimeLeft(listening)
    for done in (600, 601, 610, 1000):  # 600 are of an earlier sitting
        progress.update(done, 1000, "so far")
    progress.stage("the next")
    progress.update(1, 50)
    assert listening.notes == ["so far", "so far", "so far, about 6 min left", "so far", ""]


def test_two_numbers_that_people_would_read_as_one_are_one() -> None:
    assert str(Left(200, 205)) == "about 3 min left"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.2, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (172_800, "2.0 days")],
)
def test_times_are_shown_as_roughly_as_they_are_known(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


class Steps:
    """Progress and a clock: what was told, and at which second."""

    def __init__(self) -> None:
        self.now, self.told = 0.0, list[tuple[float, float]]()

    def clock(self) -> float:
        return self.now

    def stage(self, name: str) -> None: ...

    def warn(self, message: str) -> None: ...

    def update(self, done: float, total: float, note: str = "") -> None:
        self.told.append((self.now, done / total))


@pytest.mark.parametrize("pace", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("wrong", [(1.0, 1.0, 1.0, 1.0), (0.6, 1.6, 0.7, 1.4), (1.5, 0.6, 1.5, 0.7)])
def test_one_bar_over_all_parts_is_even_and_its_time_left_right_to_a_factor_of_two_from_a_fifth_on(
    pace: float, wrong: tuple[float, ...]
) -> None:
    guesses = {"a": 10.0, "b": 60.0, "c": 25.0, "d": 40.0}
    truth = {
        part: pace * error * guess for error, (part, guess) in zip(wrong, guesses.items(), strict=True)
    }
    steps, total, checked = Steps(), sum(truth.values()), 0
    course = Course(steps, guesses, steps.clock)
    for part, seconds in truth.items():
        course.begin(part, part)
        for step in range(20):
            steps.now += seconds / 20
            course.update(step + 1, 20)
            left = total - steps.now
            if steps.now >= total / 5 and left > 0.02 * total:
                assert left / 2 <= course.left <= left * 2
                checked += 1
    assert checked > 30
    shares = [share for _, share in steps.told]
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1.0)
    assert all(abs(share - now / total) < 0.25 for now, share in steps.told if now >= total / 5)


def test_a_part_that_ends_early_and_one_that_was_not_foreseen_do_not_turn_the_bar_back() -> None:
    steps = Steps()
    course = Course(steps, {"a": 10.0, "b": 10.0}, steps.clock)
    for part, seconds in (("a", 1.0), ("other", 30.0), ("b", 5.0)):
        course.begin(part, part)
        steps.now += seconds
        course.update(1, 3)
    shares = [share for _, share in steps.told]
    assert shares == sorted(shares) and 0 < shares[-1] < 1


def test_steps_of_a_part_are_as_long_as_they_cost() -> None:
    steps = Steps()
    first, second = slices(steps, (1.0, 3.0))
    for step in (first, second):
        step.update(0, 4)
        step.update(2, 4)
        step.update(4, 4)
    assert [share for _, share in steps.told] == pytest.approx([0.0, 0.125, 0.25, 0.25, 0.625, 1.0])


def test_the_time_left_has_what_comes_after(monkeypatch: pytest.MonkeyPatch) -> None:
    listening, clock = Listening(), SimpleNamespace(now=0.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    progress = WithEvenTimeLeft(listening, after=600.0)
    progress.update(0, 10)
    clock.now = 10.0
    progress.update(5, 10)
    assert listening.notes[-1] == "about 10 min left"  # 10 s and 600
    monkeypatch.undo()
    eta = Eta(GRAPH)
    eta.left = Left(60.0, 120.0)
    WithTimeLeft(listening, eta, after=600.0).update(1, 2)
    assert listening.notes[-1] == "about 11 min left, at most 12 min"
