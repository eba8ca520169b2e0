"""One process at a time writes to a run's folder: a lock in it, beside which stands who holds it
and since when.

The lock is the system's own (``filelock``), so that it goes with the process that held it, however
that ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from circuitfind.errors import BusyError, OutputError
from circuitfind.runs.folder import BESIDE, check_writable

LOCK, HOLDER = "lock", "holder.json"


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Inside, no other process writes to ``folder``; it is made, and goes again if nothing has been
    put into it.

    Raises BusyError where another process holds it, which it names, and OutputError where the
    folder can't be made.
    """
    check_writable(folder)
    made = [place for place in (folder, *folder.absolute().parents) if not place.exists()]
    try:
        (folder / BESIDE).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot write to {folder}: {error.strerror}. Give another --out.") from None
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_empty, folder, made)
        stack.enter_context(_locked(folder))
        yield


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    import filelock

    lock, holder = (
        filelock.FileLock(folder / BESIDE / LOCK, timeout=0, thread_local=False),
        folder / BESIDE / HOLDER,
    )
    try:
        lock.acquire()
    except filelock.Timeout:
        raise BusyError(at_work(folder, *_read_holder(holder))) from None
    except (
        OSError,
        NotImplementedError,
    ):  # a file system without locks: the search's state tells who is at work
        yield
        return
    try:
        with contextlib.suppress(OSError):  # of a full disk: the lock holds all the same
            holder.write_text(json.dumps(_this_process()), encoding="utf-8")
        yield
    finally:
        for file in (holder, folder / BESIDE / LOCK):
            with contextlib.suppress(OSError):
                file.unlink()  # while it is held: whoever waits for this very file looks again
        lock.release()


def _this_process() -> dict[str, str | int]:
    return {"pid": os.getpid(), "host": platform.node(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}


def _read_holder(path: Path) -> tuple[str, str, str]:
    """The number of the process, its machine, and since when; as far as it can be read."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return str(said["pid"])[:20], str(said["host"])[:100], str(said["since"])[:20]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "", "", ""


def at_work(folder: Path, pid: str, host: str, since: str) -> str:
    """The message for a folder that another process writes to."""
    who = f"Process {pid} on {host}" if pid else "Another process"
    return f"{who} is at work on {folder}{f', since {since}' if since else ''}. Wait for it, or end it first."


def _remove_empty(folder: Path, made: list[Path]) -> None:
    """Removes the folders that were made for nothing, the innermost first."""
    with contextlib.suppress(OSError):
        for place in (folder / BESIDE, *made):
            place.rmdir()
