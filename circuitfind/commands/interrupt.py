"""Ctrl-C: one line and exit code 130, at once. Nothing here takes time to import: it stands before what does."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130
GRACE_SECONDS = 0.5
"""How long work that can't be interrupted (a product in a worker thread, a library's import) is waited for."""
CLEAR_LINE_SHOW_CURSOR = "\r\x1b[K\x1b[?25h"
"""What a terminal needs if the progress bar had no time to go."""


def leave(last_words: Callable[[], str] = str) -> NoReturn:
    """Ends the program here, however busy its threads are, once ``last_words`` has put in order what they leave.

    What it returns is told before the last line.
    """
    with contextlib.suppress(Exception):  # nothing may keep the program from ending
        said = last_words()
        os.write(2, f"{CLEAR_LINE_SHOW_CURSOR if os.isatty(2) else ''}{said}Interrupted.\n".encode())
    os._exit(INTERRUPTED)


@contextlib.contextmanager
def leaving_at_once() -> Iterator[None]:
    """Inside, a Ctrl-C ends the program on the spot: for imports, where there is nothing to tidy up."""
    with _on_interrupt(leave):
        yield


@contextlib.contextmanager
def leaving_soon(last_words: Callable[[], str] = str) -> Iterator[None]:
    """Inside, a Ctrl-C raises KeyboardInterrupt, and ends the program if that has not done so in GRACE_SECONDS.

    ``last_words`` is called in the latter case, from another thread.
    """

    def interrupt() -> NoReturn:
        timer = threading.Timer(GRACE_SECONDS, leave, [last_words])
        timer.daemon = True
        timer.start()
        raise KeyboardInterrupt

    with _on_interrupt(interrupt):
        yield


@contextlib.contextmanager
def _on_interrupt(action: Callable[[], NoReturn]) -> Iterator[None]:
    """Inside, a Ctrl-C does this. Signals are the main thread's: elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        action()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
