"""A user's own code, whose mistakes come back as a TaskError that names the file and the line."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import NoReturn, TypeVar

from circuitfind.errors import CircuitfindError, TaskError, cut

Result = TypeVar("Result")


def report_errors(path: Path, action: Callable[[], Result], what: str = "") -> Result:
    """What ``action``, the user's own code, returns. Raises TaskError for whatever goes wrong in it.

    ``what`` stands in the message behind the file and the line, e.g. ``", metric 'margin'"``. Only
    Ctrl-C goes through.
    """
    try:
        return action()
    except (CircuitfindError, KeyboardInterrupt):
        raise
    except (
        BaseException
    ) as error:  # sys.exit, and a class of the user's own that is no Exception, end no run either
        raise TaskError(f"{path}{_line_in(path, error)}{what}: {_reason(error)}") from error


@contextmanager
def contained() -> Iterator[None]:
    """While a user's file runs, what it prints goes to stderr, and ``os._exit`` raises: stdout has
    results alone, and no process ends without a word. A process that the file forks ends as it
    would."""
    real, process = os._exit, os.getpid()

    def refuse(status: int) -> NoReturn:
        if os.getpid() != process:
            real(status)
        raise SystemExit(f"it called os._exit({status})")

    os._exit = refuse
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os._exit = real


def _reason(error: BaseException) -> str:
    """What went wrong, as one line. An error's own text is the user's code, too, and may fail."""
    try:
        message = (
            str((error.msg or "") if isinstance(error, SyntaxError) else error).strip().partition("\n")[0]
        )
    except Exception:
        message = ""
    if isinstance(error, SyntaxError) and message:
        return f"{cut(message)}."
    return f"{type(error).__name__}: {cut(message)}" if message else type(error).__name__


def _line_in(path: Path, error: BaseException) -> str:
    """Where in the file the error came about, as far as it came about there."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f", line {error.lineno}"
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
    ]
    return f", line {lines[-1]}" if lines else ""
