"""Ctrl-C, SIGTERM and SIGHUP: one line and exit code 130, 143 or 129, at once.

A cluster ends a job by SIGTERM, a terminal that is closed by SIGHUP; all are taken alike. Nothing
here takes time to import: it stands before what does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
INTERRUPTED = 128 + signal.SIGINT
GRACE_SECONDS = 0.5
"""How long work that can't be interrupted (a product in a worker thread, a library's import) is
waited for.
"""
CLEAR_LINE_SHOW_CURSOR = "\r\x1b[K\x1b[?25h"
"""What a terminal needs if the progress bar had no time to go."""


class Ended(KeyboardInterrupt):
    """A signal has asked the program to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.code = 128 + number


def exit_code(error: KeyboardInterrupt) -> int:
    """What the program ends with after it."""
    return error.code if isinstance(error, Ended) else INTERRUPTED


def leave(last_words: Callable[[], str] = str, code: int = INTERRUPTED) -> NoReturn:
    """Ends the program here, however busy its threads are, once ``last_words`` has put in order
    what they leave.

    What it returns is told before the last line.
    """
    with contextlib.suppress(BaseException):  # nothing may keep the program from ending
        said = last_words()
        last = "Interrupted." if code == INTERRUPTED else f"Ended by {signal.Signals(code - 128).name}."
        os.write(2, f"{CLEAR_LINE_SHOW_CURSOR if os.isatty(2) else ''}{said}{last}\n".encode())
    os._exit(code)


@contextlib.contextmanager
def leaving_at_once() -> Iterator[None]:
    """Inside, a signal ends the program on the spot: for imports, where there is nothing to tidy up."""
    with _on_signals(lambda number: leave(code=128 + number)):
        yield


@contextlib.contextmanager
def leaving_soon(last_words: Callable[[], str] = str) -> Iterator[None]:
    """Inside, a signal raises KeyboardInterrupt, and ends the program if that has not done so in
    GRACE_SECONDS.

    ``last_words`` is called in the latter case, from another thread.
    """

    def interrupt(number: int) -> NoReturn:
        timer = threading.Timer(GRACE_SECONDS, leave, [last_words, 128 + number])
        timer.daemon = True
        timer.start()
        raise Ended(number)

    with _on_signals(interrupt):
        yield


@contextlib.contextmanager
def _on_signals(action: Callable[[int], NoReturn]) -> Iterator[None]:
    """Inside, a signal to end does this. Signals are the main thread's: elsewhere nothing changes.

    One that whoever started the program wants ignored, as ``nohup`` does SIGHUP, stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        action(number)

    taken = [
        number
        for number in SIGNALS
        if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN
    ]
    before = {number: signal.signal(number, handle) for number in taken}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
