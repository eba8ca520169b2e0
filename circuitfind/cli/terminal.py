"""All that is printed. Every text leaves through ``Printed``, which stands for stdout and stderr
while a command runs, or through a console of ``make_console``, whose own codes for colours and bars
pass and whose texts do not (``files/printable.py``).

Progress in a terminal is a line a stage, and under them a bar with the time left; elsewhere the
lines alone. It goes to stderr. Where that is no terminal (a file, a CI log) a stage that takes long
writes a further line every half a minute, so that its reader sees how far it is.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from circuitfind.cli.streams import silence
from circuitfind.files.printable import encodable, printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID
    from rich.segment import Segment

LIFE_SECONDS = 30.0
"""How long a stage is silent in a log before it writes another line."""


class Printed(io.TextIOBase):
    """A text stream that lets nothing through to ``stream`` that a terminal obeys, or that its
    encoding lacks.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self.stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        self.stream.write(encodable(printable(text), self.encoding))
        return len(text)

    def flush(self) -> None:
        if not self.stream.closed:
            self.stream.flush()

    def isatty(self) -> bool:
        return bool(self.stream.isatty())

    def fileno(self) -> int:
        return int(self.stream.fileno())

    def writable(self) -> bool:
        return True


@contextmanager
def printing() -> Iterator[None]:
    """Inside, whatever is printed goes through ``Printed``, a library's warnings and a traceback too."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and Printed(stream) for stream in before)  # none where it was closed
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def behind(stream: Any) -> Any:
    """The stream itself, for bytes and for a console's own codes."""
    return stream.stream if isinstance(stream, Printed) else stream


def make_console(stream: Any = None) -> Console:
    """A console on ``stream``, else on stdout, that prints texts as they are: none is markup or the
    name of an emoji, and none holds what a terminal obeys. Without colours where they are not
    wanted."""
    from rich.console import Console
    from rich.segment import Segment

    class Safe(Console):
        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                text, style, control = segment
                yield segment if control else Segment(encodable(printable(text), self.encoding), style)

    plain: dict[str, Any] = {"color_system": None} if os.environ.get("NO_COLOR") else {}
    return Safe(file=behind(stream or sys.stdout), markup=False, emoji=False, highlight=False, **plain)


class TerminalProgress:
    """A Progress (circuitfind.progress) that writes to stderr in its ``with`` block; ``quiet``:
    only warnings.
    """

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
        """A line; where stderr is full, or its reader gone, the work goes on without."""
        self._last_line = time.monotonic()
        try:
            if self._bar:
                self._bar.console.print(text, soft_wrap=True)
            else:
                print(text, file=self._stream, flush=True)
        except OSError:
            silence(self._stream)

    def _new_bar(self) -> RichProgress:
        from rich.progress import (
            BarColumn,
            Progress,
            Task,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.text import Text

        class TimeLeft(TimeRemainingColumn):
            """From the share that is done; a stage that is not as long as that says so itself, in
            its note.
            """

            def render(self, task: Task) -> Text:
                return Text() if task.fields["note"] else super().render(task)

        columns = (
            BarColumn(),
            TaskProgressColumn(),
            TimeLeft(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        return Progress(*columns, console=make_console(self._stream), transient=True)
