"""Progress through runs that do not cost the same."""

from __future__ import annotations

import pytest

from circuitfind.evaluation.work import Phase, Work, count, total

PHASES = (Phase(2, 3.0), Phase(4, 0.5))


def test_progress_goes_by_what_runs_cost_and_not_by_their_number() -> None:
    work = Work(PHASES)
    assert [work.done(i) for i in range(7)] == pytest.approx([0.0, 3.0, 6.0, 6.5, 7.0, 7.5, 8.0])
    assert work.total == total(PHASES) == 8.0 and work.n_runs == count(PHASES) == 6


def test_no_runs_are_no_work() -> None:
    assert Work(()).total == 0.0 and Work(()).done(0) == 0.0
