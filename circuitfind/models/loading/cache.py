"""Folders that are made once and kept in the user's cache.

A folder is made beside its place and moved there whole, under a lock: two processes that want the
same model make it once, and one that is killed leaves nothing that looks like a model.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from circuitfind.errors import ModelError
from circuitfind.progress import Progress


def cache_dir() -> Path:
    """Where models are kept: CIRCUITFIND_CACHE, else the system's place for a user's cache."""
    import platformdirs

    return Path(
        os.environ.get("CIRCUITFIND_CACHE") or platformdirs.user_cache_dir("circuitfind")
    ).expanduser()


def make_once(folder: Path, make: Callable[[Path], None], progress: Progress) -> Path:
    """``folder``, filled by ``make`` unless it is there already. ``make`` is given an empty folder
    on the same disk.
    """
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder, progress):
            if not folder.is_dir():
                _make(folder, make)
    except OSError as error:
        raise ModelError(
            f"Can't write the cache folder {folder.parent}: {error.strerror or error}. "
            "Set CIRCUITFIND_CACHE to a folder that can be written and has room."
        ) from error
    return folder


@contextlib.contextmanager
def _locked(folder: Path, progress: Progress) -> Iterator[None]:
    import filelock

    lock = filelock.FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        progress.stage(f"waiting for another process that makes {folder.name}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _make(folder: Path, make: Callable[[Path], None]) -> None:
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(
        part, ignore_errors=True
    )  # of a process that was killed: the lock says that nobody is at it now
    part.mkdir()
    try:
        make(part)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
