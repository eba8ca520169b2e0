"""Files of a folder that someone else may have made: a link in it that leads elsewhere is not followed.

An archive can hold links to any place. What a command reads in a folder that was named to it is what lies in that
folder, and what it writes into it stays in it.
"""

from __future__ import annotations

from pathlib import Path

from circuitfind.errors import CircuitError


def file_in(folder: Path, name: str) -> Path | None:
    """The file of that name in ``folder``; None where there is none.

    Raises CircuitError for a link that leads out of the folder.
    """
    path = folder / name
    if not path.is_file():  # missing, or a pipe, whose reader would wait for ever
        return None
    if leads_outside(path, folder):
        raise CircuitError(f"{path} is a link to a file outside its folder, which is not read. Put the file there.")
    return path


def leads_outside(path: Path, folder: Path) -> bool:
    """Whether a path in ``folder``, its links followed, lies elsewhere; of what is not there yet, would lie."""
    return not path.resolve().is_relative_to(folder.resolve())
