"""What a run takes and what it tells, over all its sittings: seconds of each part, memory, warnings."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from circuitfind.progress import Progress
from circuitfind.runs.checkpoint import Spent, State
from circuitfind.runs.memory import peak


class Clock:
    """Seconds that each part of a run took, in all its sittings; ``before`` is what the earlier ones took."""

    def __init__(self, before: Spent | None = None) -> None:
        self._before = before
        self.seconds: dict[str, float] = dict(before.seconds) if before else {}
        self._running: dict[str, float] = {}

    def fork(self, state: State | None) -> Clock:
        """That of one of several runs: what all of them needed counts for each, and what ``state``
        says it took.
        """
        clock = Clock(state.spent if state else None)
        clock.seconds |= {
            part: clock.seconds.get(part, 0.0) + seconds for part, seconds in self.seconds.items()
        }
        return clock

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        self._running[part] = time.perf_counter()
        yield
        self.seconds = self._until_now()
        del self._running[part]

    def spent(self) -> Spent:
        """What the run has taken so far, the part that is going on included."""
        if self._before is None:
            return Spent(self._until_now(), peak())
        return Spent(self._until_now(), max(peak(), self._before.peak_memory), self._before.sittings + 1)

    def _until_now(self) -> dict[str, float]:
        now = time.perf_counter()
        running = {
            part: self.seconds.get(part, 0.0) + now - start
            for part, start in tuple(self._running.items())
        }
        return self.seconds | {part: round(seconds, 3) for part, seconds in running.items()}


class Noted:
    """Progress that passes everything on and keeps the warnings for the record."""

    def __init__(self, progress: Progress, warnings: Sequence[str] = ()) -> None:
        self._progress = progress
        self.warnings: list[str] = []
        for message in warnings:
            self.warn(message)

    def fork(self) -> Noted:
        """That of one of several runs: its own warnings come on top of those told so far."""
        notes = Noted(self._progress)
        notes.warnings = list(self.warnings)
        return notes

    def stage(self, name: str) -> None:
        self._progress.stage(name)

    def update(self, done: float, total: float, note: str = "") -> None:
        self._progress.update(done, total, note)

    def warn(self, message: str) -> None:
        self.warnings.append(message)
        self._progress.warn(message)

    def warn_if(self, message: str | None) -> None:
        if message is not None:
            self.warn(message)
