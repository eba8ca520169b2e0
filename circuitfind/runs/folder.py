"""The folder of a run: where it lies, what is in it, and that nothing is overwritten unasked."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path

from circuitfind.circuits.record import RUN_FILE
from circuitfind.errors import OutputError
from circuitfind.files.json_file import json_file
from circuitfind.files.links import keep_inside, open_new
from circuitfind.runs.ownership import FILES, STATE_FILE, refuse_foreign, sha256_of, stale, written_with

BESIDE, NEW, READY = ".circuitfind", "new", "ready"
"""In a run's folder: where new files are written, and where they are when all of them are whole."""
RUN_FILES = frozenset().union(*FILES.values(), {STATE_FILE})
"""Every file that any run may leave. Other files in the folder are the user's, and so are these
where no record says that circuitfind wrote them."""


def default_folder(task: str, model: str, method: str, seed: int, now: datetime) -> Path:
    """results/<task>/<model>/<method>/<time>-<seed>, below the working directory."""
    return Path("results") / task / model.replace("/", "--") / method / f"{now:%Y%m%d-%H%M%S}-{seed}"


def next_free(folder: Path) -> Path:
    """``folder``, or where another run took that name in the same second the first free one of -2, -3, ..."""
    names = (
        folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        for number in itertools.count(1)
    )
    return next(name for name in names if not name.exists())


def check_free(
    folder: Path,
    force: bool,
    names: Iterable[str] = (),
    record: str = RUN_FILE,
    inputs: Iterable[Path] = (),
) -> None:
    """Raises OutputError where ``folder`` can't be written, or holds something unless ``force``.
    Makes nothing.

    With ``force`` whatever of these ``names`` lies there must be what was written with an older
    ``record``, and none of the command's ``inputs``.
    """
    check_writable(folder)
    if any(what_is_in(folder)) and not force:
        raise OutputError(_what_it_holds(folder))
    refuse_foreign(folder, names, record, inputs)


def what_is_in(folder: Path) -> Iterator[Path]:
    """What lies in the folder, but for what an interrupted write left of itself."""
    if folder.is_dir():
        yield from (
            path for path in folder.iterdir() if path.name != BESIDE and not _is_partial(path.name)
        )


def check_writable(folder: Path) -> None:
    """Raises OutputError where nothing can be written to ``folder``, or it can't be made. Makes nothing."""
    try:
        nearest = next(place for place in (folder, *folder.absolute().parents) if _is_there(place))
        if not nearest.is_dir():
            what = "a link to nothing" if nearest.is_symlink() and not nearest.exists() else "a file"
            raise OutputError(f"Cannot write to {folder}: {nearest} is {what}. Give another --out.")
        with tempfile.TemporaryFile(dir=nearest):
            pass
        beside = keep_inside(folder / BESIDE, folder)
        for place in beside.iterdir() if beside.is_dir() else ():
            keep_inside(place, folder)
    except OSError as error:
        raise OutputError(f"Cannot write to {folder}: {error.strerror}. Give another --out.") from None
    except ValueError as error:  # a NUL in a name
        raise OutputError(
            f"Cannot write to {str(folder)[:200]!r}: {error}. Give another --out."
        ) from None


def _is_there(place: Path) -> bool:
    """Whether there is something of that name, be it a link to nothing. Raises OSError or
    ValueError where there can't be such a name."""
    try:
        place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _what_it_holds(folder: Path) -> str:
    if (folder / STATE_FILE).exists():
        return (
            f"{folder} holds an unfinished run. "
            "Give --resume to go on with it, another --out, or --force to replace it."
        )
    return f"{folder} is not empty. Give another --out, or --force to replace the run in it."


def claim(folder: Path, is_new: bool, force: bool) -> Path:
    """Makes the folder of a run that has not ended yet; the one made. Raises OutputError where that
    can't be done.

    ``is_new``: no user named it, so it may be another where a run that began in the same second
    took the name.
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


def write_run(
    folder: Path,
    files: Mapping[str, str | bytes],
    force: bool,
    more: Callable[[Path], Mapping[str, str | bytes]] = lambda place: {},
) -> dict[str, str]:
    """The files of a run, a sweep or an evaluation in their folder, made now, its record among them.

    They are written beside first, and take the place of the older ones together, when all are
    whole: until then the older run stays as it was, and the search's state until after that. Of the
    older run what is not written anew goes. ``more`` makes further files of these, in the folder
    that it is given. Raises OutputError where the folder has been filled since it was checked,
    would lose what is not of an older run, or can't be written. The files' SHA-256, as the record
    names them.
    """
    record = next((name for name in FILES if name in files), RUN_FILE)
    is_new = False
    try:
        is_new = not folder.exists()
        complete(folder)
        discard(folder, is_new=False)
        check_free(folder, force, files, record)
        place = folder / BESIDE / NEW
        place.mkdir(parents=True)
        for name, content in files.items():
            write(place, name, content)
        for name, content in more(place).items():
            write(place, name, content)
        written = {path.name: sha256_of(path) for path in sorted(place.iterdir()) if path.name != record}
        if record in files:
            known = json.loads((place / record).read_text(encoding="utf-8"))
            write(place, record, json_file({**known, "files": written}))
        refuse_foreign(folder, (*written, record), record)
        place.rename(folder / BESIDE / READY)
        complete(folder)
        return written
    except OSError as error:
        raise OutputError(f"Cannot write to {folder}: {error.strerror}. Give another --out.") from None
    finally:
        discard(folder, is_new)


def is_cut_off(folder: Path) -> bool:
    """Whether an exchange of files was cut off there."""
    return (folder / BESIDE / READY).is_dir()


def complete(folder: Path) -> None:
    """Ends an exchange that was cut off when all new files were whole: they take the place of the
    older ones, the record last, and the search's state goes. Where none was begun it does nothing.
    """
    ready = folder / BESIDE / READY
    if not is_cut_off(folder):
        return
    new = {path.name for path in ready.iterdir()}
    record = next((name for name in FILES if name in new), None)
    if record is not None:
        for path in stale(folder, record, (*new, *written_with(ready, record))):
            path.unlink()
    for name in sorted(new, key=lambda name: name == record):
        (ready / name).replace(folder / name)
    for path in (_partial(folder, STATE_FILE), folder / STATE_FILE):
        path.unlink(missing_ok=True)
    discard(folder, is_new=False)


def discard(folder: Path, is_new: bool) -> None:
    """Removes what a write that failed has left beside; the folder too if it ``is_new`` and nothing
    is in it.
    """
    with contextlib.suppress(OSError):
        shutil.rmtree(folder / BESIDE / NEW, ignore_errors=True)
        for empty in (folder / BESIDE / READY, folder / BESIDE, *([folder] if is_new else [])):
            with contextlib.suppress(FileNotFoundError):
                empty.rmdir()


def write(folder: Path, name: str, content: str | bytes) -> Path:
    """One file of the run, whole or the old one whatever happens. Raises OutputError where that
    can't be done.
    """
    path, data = folder / name, _encode(content) if isinstance(content, str) else content
    partial = _partial(folder, name)
    try:
        with open_new(partial) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a power failure may leave the new name with nothing behind it
        partial.replace(path)
    except OSError as error:
        shown = (
            folder.parent.parent / name if folder.parent.name == BESIDE else path
        )  # where it was to end up
        raise OutputError(
            f"Cannot write {shown}: {error.strerror}. Free some space or give another --out."
        ) from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return path


def _partial(folder: Path, name: str) -> Path:
    """Where a file grows before it takes its name."""
    return folder / f".{name}.partial"


def _is_partial(name: str) -> bool:
    """Whether a file of this name is what a killed ``write`` left of one of ours."""
    return name.startswith(".") and name.removeprefix(".").removesuffix(".partial") in RUN_FILES


def _encode(text: str) -> bytes:
    """UTF-8; half a character, as in the name of a folder that is no text, stays as JSON spells it."""
    return text.encode(errors="backslashreplace")
