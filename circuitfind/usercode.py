"""A user's own code, whose mistakes come back as a TaskError that names the file and the line."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from circuitfind.errors import CircuitfindError, TaskError

Result = TypeVar("Result")


def report_errors(path: Path, action: Callable[[], Result], what: str = "") -> Result:
    """What ``action``, the user's own code, returns. Raises TaskError for whatever goes wrong in it.

    ``what`` stands in the message behind the file and the line, e.g. ``", metric 'margin'"``.
    """
    try:
        return action()
    except CircuitfindError:
        raise
    except SyntaxError as error:
        raise TaskError(f"{path}, line {error.lineno}: {error.msg}.") from error
    except (Exception, SystemExit) as error:
        message = str(error).strip().partition("\n")[0]
        reason = f"{type(error).__name__}: {message}" if message else type(error).__name__
        raise TaskError(f"{path}{_line_in(path, error)}{what}: {reason}") from error


def _line_in(path: Path, error: BaseException) -> str:
    """Where in the file the error came about, as far as it came about there."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""
