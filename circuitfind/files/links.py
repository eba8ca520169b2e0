"""Files of a folder that someone else may have made: a link in it that leads elsewhere is not followed.

An archive can hold links to any place. What a command reads in a folder that was named to it is
what lies in that folder, and what it writes into it stays in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from circuitfind.errors import CircuitError, OutputError


def file_in(folder: Path, name: str) -> Path | None:
    """The file of that name in ``folder``; None where there is none.

    Raises CircuitError for a link that leads out of the folder.
    """
    path = folder / name
    if not path.is_file():  # missing, or a pipe, whose reader would wait for ever
        return None
    if leads_outside(path, folder):
        raise CircuitError(
            f"{path} is a link to a file outside its folder, which is not read. Put the file there."
        )
    return path


def keep_inside(path: Path, folder: Path) -> Path:
    """``path``, a place to write to in ``folder``. Raises OutputError where a link in the folder
    leads it elsewhere.
    """
    if leads_outside(path, folder):
        raise OutputError(f"Cannot write to {path}: a link leads it out of {folder}. Give another --out.")
    return path


def open_new(path: Path) -> BinaryIO:
    """A new file to write to. What lies there goes; of a link the link, and nothing is written
    where it leads.
    """
    path.unlink(missing_ok=True)
    return path.open("xb")


def leads_outside(path: Path, folder: Path) -> bool:
    """Whether a path in ``folder``, its links followed, lies elsewhere; of what is not there yet,
    would lie.
    """
    try:
        return not path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a link to itself
        return True
    except ValueError:  # a NUL: no file can be named so
        return False
