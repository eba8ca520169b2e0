"""The folder of a run: where it lies, what is in it, and that nothing is overwritten unasked."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from circuitfind.errors import OutputError
from circuitfind.export import FORMATS
from circuitfind.record import RUN_FILE

STATE_FILE = "search.safetensors"
"""What a search has decided so far (``checkpoint.py``); a folder that holds it holds an unfinished run."""
CONSTANTS_FILE = "constants.safetensors"
"""What senders write under optimal ablation (``optimal.py``)."""
RUN_FILES = frozenset(
    {
        "circuit.json",
        "scores.safetensors",
        "prompt_scores.safetensors",
        "bootstrap.safetensors",
        "consensus.json",
        "prompts.jsonl",
        "reference.jsonl",
        CONSTANTS_FILE,
        "report.md",
        RUN_FILE,
        STATE_FILE,
        *(f"{name}.{format.suffix}" for name in ("circuit", "sweep") for format in FORMATS.values()),
        "sweep.json",
        "sweep.md",
        "curve.svg",
        "curve.png",
        "report.json",
    }
)
"""Every file that any run may leave: what --force replaces. Other files in the folder are the user's."""


def default_folder(task: str, model: str, method: str, seed: int, now: datetime) -> Path:
    """results/<task>/<model>/<method>/<time>-<seed>, below the working directory."""
    return Path("results") / task / model.replace("/", "--") / method / f"{now:%Y%m%d-%H%M%S}-{seed}"


def next_free(folder: Path) -> Path:
    """``folder``, or where another run took that name in the same second the first free one of -2, -3, ..."""
    names = (folder if number == 1 else folder.with_name(f"{folder.name}-{number}") for number in itertools.count(1))
    return next(name for name in names if not name.exists())


def check_free(folder: Path, force: bool) -> None:
    """Raises OutputError where ``folder`` can't be written, or holds something unless ``force``. Makes nothing."""
    try:
        if folder.is_dir() and any(folder.iterdir()) and not force:
            raise OutputError(_what_it_holds(folder))
        nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if not nearest.is_dir():
            raise OutputError(f"Cannot write to {folder}: {nearest} is a file. Give another --out.")
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise OutputError(f"Cannot write to {folder}: {error.strerror}. Give another --out.") from None


def _what_it_holds(folder: Path) -> str:
    if (folder / STATE_FILE).exists():
        return (
            f"{folder} holds an unfinished run. "
            "Give --resume to go on with it, another --out, or --force to replace it."
        )
    return f"{folder} is not empty. Give another --out, or --force to replace the run in it."


def claim(folder: Path, is_new: bool, force: bool) -> Path:
    """Makes the folder of a run that has not ended yet; the one made. Raises OutputError where that can't be done.

    ``is_new``: no user named it, so it may be another where a run that began in the same second took the name.
    """
    try:
        if not is_new:
            check_free(folder, force)
            folder.mkdir(parents=True, exist_ok=True)
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        while True:
            with contextlib.suppress(FileExistsError):
                (free := next_free(folder)).mkdir()
                return free
    except OSError as error:
        raise OutputError(f"Cannot write to {folder}: {error.strerror}. Give another --out.") from None


def write_run(folder: Path, files: Mapping[str, str | bytes], force: bool) -> None:
    """The files of a run in their folder, made now. With ``force`` an older run's files go first, and no others.

    The state of the search goes last: until everything else is there the run can be taken up again. Raises OutputError
    where the folder has been filled since it was checked, or can't be written.
    """
    check_free(folder, force)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in RUN_FILES - {STATE_FILE}:
            (folder / name).unlink(missing_ok=True)
            _partial(folder, name).unlink(missing_ok=True)
        for name, content in files.items():
            write(folder, name, content)
        for path in (_partial(folder, STATE_FILE), folder / STATE_FILE):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot write to {folder}: {error.strerror}. Give another --out.") from None


def write(folder: Path, name: str, content: str | bytes) -> Path:
    """One file of the run, whole or the old one whatever happens. Raises OutputError where that can't be done."""
    path, data = folder / name, _encode(content) if isinstance(content, str) else content
    partial = _partial(folder, name)
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a power failure may leave the new name with nothing behind it
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"Cannot write {path}: {error.strerror}. Free some space or give another --out.") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return path


def _partial(folder: Path, name: str) -> Path:
    """Where a file grows before it takes its name."""
    return folder / f".{name}.partial"


def _encode(text: str) -> bytes:
    """UTF-8; half a character, as in the name of a folder that is no text, stays as JSON spells it."""
    return text.encode(errors="backslashreplace")


def json_file(value: Any) -> str:
    """A JSON document for people and programs."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
