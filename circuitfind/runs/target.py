"""One file that a command writes where the user says: nothing there is lost, and the new one is
whole or not there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from circuitfind.errors import OutputError
from circuitfind.runs.folder import check_writable, write
from circuitfind.runs.ownership import DATA_FILES, FILES, refuse_inputs, written_with


def check_target(
    path: Path, inputs: Iterable[Path], may_replace: bool, instead: str = "Name another file."
) -> None:
    """Raises OutputError where ``path`` can't be written, is one of the command's ``inputs`` or a
    file that a run keeps its results in, or is there already and may not be replaced. ``instead``:
    what to do then. Makes nothing."""
    if path.is_dir():
        raise OutputError(f"Cannot write {path}: it is a folder. Name a file.")
    if not path.absolute().parent.is_dir():
        raise OutputError(f"Cannot write {path}: there is no folder {path.parent}. Make it first.")
    refuse_inputs([path], inputs)
    if is_special(path):
        return
    if path.name in DATA_FILES and any(
        path.name in written_with(path.parent, record) for record in FILES
    ):
        raise OutputError(f"{path} is of the run in {path.parent}. {instead}")
    if os.path.lexists(path) and not may_replace:
        raise OutputError(f"{path} is there already. {instead}")
    check_writable(path.parent)


def write_target(path: Path, content: str | bytes) -> None:
    """Writes the file, whole or not at all. Raises OutputError."""
    if not is_special(path):
        write(path.parent, path.name, content)
        return
    try:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise OutputError(f"Cannot write {path}: {error.strerror}. Name another file.") from None


def is_special(path: Path) -> bool:
    """Whether it is a device or a pipe, such as /dev/stdout, which nothing can take the place of."""
    return path.exists() and not path.is_file()
