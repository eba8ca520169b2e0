"""Progress in a terminal: a line a stage, and under them a bar with the time left; elsewhere the lines alone.

All of it goes to stderr. Where stderr is no terminal (a file, a CI log) a stage that takes long writes a further line
every half a minute, so that its reader sees how far it is.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

LIFE_SECONDS = 30.0
"""How long a stage is silent in a log before it writes another line."""


class TerminalProgress:
    """A Progress (circuitfind.progress) that writes to stderr in its ``with`` block; ``quiet``: only warnings."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._stream = sys.stderr  # held, so that a loader's silenced stderr does not silence the bar
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._last_line = time.monotonic()

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
        """A new stage begins: its line stays, and the bar under it starts again."""
        if self._quiet:
            return
        self._line(name)
        if self._bar:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task("", total=None, note="")

    def update(self, done: float, total: float, note: str = "") -> None:
        """Moves the bar; where there is none, writes a line if the last one is long ago."""
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, note=note)
        elif not self._bar and not self._quiet and time.monotonic() - self._last_line >= LIFE_SECONDS:
            share = f"{done / total:.0%}" if total else f"{done:,.0f}"
            self._line("  " + ", ".join(filter(None, (f"{share} done", note))))

    def warn(self, message: str) -> None:
        """A line of its own, above the bar."""
        self._line(f"warning: {message}")

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)

    def _new_bar(self) -> RichProgress:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
        from rich.text import Text

        class TimeLeft(TimeRemainingColumn):
            """From the share that is done; a stage that is not as long as that says so itself, in its note."""

            def render(self, task: Task) -> Text:
                return Text() if task.fields["note"] else super().render(task)

        columns = (
            BarColumn(),
            TaskProgressColumn(),
            TimeLeft(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        return Progress(*columns, console=Console(file=self._stream), transient=True)
