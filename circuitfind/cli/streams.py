"""Stdout and stderr that are closed, full or read no more: one line where there is still a place
for it, no traceback.

Nothing here takes time to import.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any


def open_closed() -> bool:
    """Whether there is a stdout. Whatever of stdin, stdout and stderr was closed (``>&-``) is
    /dev/null from now on: else the next file that is opened would take its place, and what is
    printed would go into it."""
    has_stdout = sys.stdout is not None
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  it is for good
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    return has_stdout


def say(text: str) -> None:
    """Prints a line to stderr; where that is gone too there is no one to tell."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        silence(sys.stderr)


def finish_stdout() -> OSError | None:
    """Writes what still waits to be written to stdout; what went wrong with that, if anything did."""
    try:
        sys.stdout.flush()
    except OSError as error:
        silence(sys.stdout)
        return error
    return None


def silence(stream: Any) -> None:
    """Sends a stream that can't be written to nowhere, so that nothing fails again as the program ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
