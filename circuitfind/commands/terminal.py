"""Progress in a terminal: a bar with the time left on stderr; where stderr is no terminal, one line a stage."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class TerminalProgress:
    """A Progress (circuitfind.progress) that writes to stderr in its ``with`` block; ``quiet``: only warnings."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._stream = sys.stderr  # held, so that a loader's silenced stderr does not silence the bar
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> TerminalProgress:
        if self._stream.isatty() and not self._quiet:
            self._bar = self._new_bar()
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = self._task = None

    def stage(self, name: str) -> None:
        """A new stage begins: the bar starts again."""
        if self._bar:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(name, total=None, note="")
        elif not self._quiet:
            print(name, file=self._stream, flush=True)

    def update(self, done: float, total: float, note: str = "") -> None:
        """Moves the bar. Where there is none, nothing is written."""
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, note=note)

    def warn(self, message: str) -> None:
        """A line of its own, above the bar."""
        if self._bar:
            self._bar.console.print(f"warning: {message}", markup=False, highlight=False)
        else:
            print(f"warning: {message}", file=self._stream, flush=True)

    def _new_bar(self) -> RichProgress:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        return Progress(*columns, console=Console(file=self._stream), transient=True)
