"""The state of a search on disk: a run that was cut off goes on from it and ends with the same bytes.

It is one file in the run's folder, ``search.safetensors``: what the method has come to so far, be
it decisions, scores or masks (``methods/saved_state.py``), and in its metadata what the outcome
depends on, what the run has taken so far, and which process is at work on it. It is replaced whole,
every SAVE_SECONDS, and goes when the run's other files are there. A checksum over all of it tells a
damaged file. Reading it takes no torch: what speaks against going on is told before anything is
loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import psutil
from msgspec import Meta

from circuitfind.errors import OutputError, StateError, cut, shown
from circuitfind.files.json_file import Schema, fit
from circuitfind.files.links import file_in
from circuitfind.runs.folder import claim, write
from circuitfind.runs.lock import hold
from circuitfind.runs.ownership import STATE_FILE

if TYPE_CHECKING:
    from circuitfind.methods.saved_state import SoFar

FORMAT = "circuitfind.search"
VERSION = 2
SAVE_SECONDS = 10.0
"""What a kill costs at the most, one batch of tests aside. A run that ends sooner leaves no state at all."""
LONGEST_SECONDS = 60.0
"""What a kill costs where a state takes long to save."""
PATIENCE = 20.0
"""A state is saved again no sooner than after so many times what it took to save the last one."""


@dataclass(frozen=True)
class Worker:
    """A process, told from a later one of the same number by when it began."""

    host: str
    pid: int
    began: float

    @staticmethod
    def this() -> Worker:
        return Worker(platform.node(), os.getpid(), psutil.Process().create_time())

    @property
    def since(self) -> str:
        """When it began, on this machine's clock."""
        return f"{datetime.fromtimestamp(self.began):%Y-%m-%d %H:%M:%S}"

    def is_another_at_work(self) -> bool:
        """Whether this is another process of this machine and it still runs."""
        if self.host != platform.node() or self.pid == os.getpid():
            return False
        try:
            process = psutil.Process(self.pid)
            return process.create_time() == self.began and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


@dataclass(frozen=True)
class Spent:
    """What a run has taken in all its sittings: seconds of each part, and bytes of memory at the peak."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_memory: int = 0
    sittings: int = 1


@dataclass(frozen=True)
class State:
    """What a state file holds. ``identity`` is all that the outcome depends on; ``data`` the file itself."""

    folder: Path
    identity: Mapping[str, Any]
    spent: Spent
    worker: Worker
    numbers: Mapping[str, float]
    told: str
    data: bytes = field(repr=False)

    def so_far(self) -> SoFar:
        """What the method had come to."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        from circuitfind.methods.saved_state import SoFar

        try:
            return SoFar(load(self.data), self.numbers, self.told)
        except (
            SafetensorError,
            ValueError,
            KeyError,
            AttributeError,
        ) as error:  # a dtype that this torch has not
            raise StateError(f"{self.folder / STATE_FILE}: {error}") from None


def encode_state(so_far: SoFar, identity: Mapping[str, Any], spent: Spent, worker: Worker) -> bytes:
    """The state file: a safetensors file whose metadata hold the rest, and a checksum over that and
    the tensors.
    """
    from safetensors.torch import save

    plain = save({name: tensor.contiguous() for name, tensor in so_far.tensors.items()})
    head, body = _split(plain)
    state = {
        "format": FORMAT,
        "version": VERSION,
        "identity": dict(identity),
        "spent": asdict(spent),
        "worker": asdict(worker),
        "numbers": dict(so_far.numbers),
        "told": so_far.told,
    }
    text = json.dumps(state)
    head["__metadata__"] = {"state": text, "sha256": _checksum(head, text, body)}
    start = json.dumps(head).encode()
    start = start.ljust(len(start) + -len(start) % 8)  # tensors begin where a processor likes them to
    return b"".join((len(start).to_bytes(8, "little"), start, body))


def read_state(folder: Path) -> State:
    """The state in a run's folder. Raises OutputError where it can't be read, is not whole or of
    another version.
    """
    path = folder / STATE_FILE
    try:
        file_in(folder, STATE_FILE)  # no link that leads out of the folder
        data = path.read_bytes()
    except OSError as error:
        raise OutputError(f"Cannot read {path}: {error.strerror}.") from None
    try:
        head, body = _split(data)
        metadata = head.pop("__metadata__")
        state = json.loads(metadata["state"])
        is_whole = metadata["sha256"] == _checksum(head, metadata["state"], body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        is_whole = False
    if not is_whole:
        raise OutputError(
            f"{path} is truncated or damaged; its search can't go on.\nBegin anew with --force instead of"
            " --resume."
        )
    if isinstance(state, dict) and (state.get("format"), state.get("version")) != (FORMAT, VERSION):
        raise OutputError(
            f"{path} is of version {shown(state.get('version'))}; this circuitfind reads {VERSION}.\n"
            "Take the circuitfind that wrote it, or begin anew with --force instead of --resume."
        )
    said = fit(state, _Said, str(path), _DamagedError)
    spent = Spent(said.spent.seconds, said.spent.peak_memory, said.spent.sittings)
    worker = Worker(said.worker.host, said.worker.pid, said.worker.began)
    return State(folder, said.identity, spent, worker, said.numbers, said.told, data)


class _DamagedError(OutputError):
    """The state's metadata do not fit their schema."""

    def __init__(self, message: str) -> None:
        super().__init__(
            f"The saved state is damaged: {message}\nBegin anew with --force in place of --resume."
        )


class _Spent(Schema, frozen=True):
    seconds: dict[str, Annotated[float, Meta(ge=0, le=1e12)]]
    peak_memory: Annotated[int, Meta(ge=0, le=1 << 53)]
    sittings: Annotated[int, Meta(ge=1, le=1 << 31)]


class _Worker(Schema, frozen=True):
    host: Annotated[str, Meta(max_length=256)]
    pid: Annotated[int, Meta(ge=0, lt=1 << 31)]
    began: Annotated[float, Meta(ge=0, le=1e11)]


class _Said(Schema, frozen=True):
    """The metadata ``state``, behind its format and version."""

    identity: dict[str, Any]
    spent: _Spent
    worker: _Worker
    numbers: dict[str, int | float]
    told: Annotated[str, Meta(max_length=1000)]


def _split(data: bytes) -> tuple[dict[str, Any], memoryview]:
    """A safetensors file's head, which is JSON behind its length, and the tensors. Raises ValueError."""
    size = int.from_bytes(data[:8], "little")
    if size > len(data):
        raise ValueError("the head is longer than the file")
    return json.loads(data[8 : 8 + size]), memoryview(data)[8 + size :]


def _checksum(head: Mapping[str, Any], text: str, body: memoryview) -> str:
    """Over the tensors' names and places, the metadata and the tensors."""
    checksum = hashlib.sha256(json.dumps([head, text], sort_keys=True).encode())
    checksum.update(body)
    return checksum.hexdigest()


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is known of both and not the same, for a message.

    >>> differences({"threshold": 0.1, "seed": 0, "bos": False}, {"threshold": 0.2, "seed": 0})
    ['threshold 0.1 (now 0.2)']
    """
    differing = [key for key, value in now.items() if saved.get(key, value) != value]
    return [f"{key} {_short(saved[key])} (now {_short(now[key])})" for key in differing]


def _short(value: Any) -> str:
    """A hash is told from another by its beginning."""
    text = cut(str(value))
    return f"{text[:12]}..." if len(text) == 64 else text


def check_same(folder: Path, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises OutputError, naming what differs, where a run asks for something else than the one in
    ``folder``.
    """
    differing = differences(saved, now)
    if differing:
        raise OutputError(
            f"{folder} is a run of something else: {', '.join(differing)}.\n"
            "Resume with the options it was begun with, or give another --out without --resume."
        )


class Keeper:
    """Keeps what a method has come to in the run's folder, which it makes when there is first
    something to keep.

    A state that can't be saved is no reason to lose the search: it is warned of, the last one that
    was saved stays, and the next is tried as much later as after any. ``save_now`` may be called
    from another thread, when Ctrl-C ends the program. Inside ``with``, no other process writes to
    the folder: from the start where the user named it, else from when it is made.
    """

    def __init__(
        self, folder: Path, is_new: bool = False, force: bool = False, state: State | None = None
    ) -> None:
        self.folder, self._is_new, self._force, self._state = folder, is_new, force, state
        self.has_folder = state is not None
        self._held: contextlib.ExitStack | None = None
        self._lock = threading.Lock()
        self._latest: SoFar | None = None
        self._is_saved, self._next_try, self._complaint = True, time.monotonic() + SAVE_SECONDS, ""
        self._identity: Mapping[str, Any] = {}
        self._spent: Callable[[], Spent] = Spent
        self._warn: Callable[[str], None] = lambda message: None

    def __enter__(self) -> Keeper:
        self._held = contextlib.ExitStack()
        if self.has_folder or not self._is_new:
            self._held.enter_context(hold(self.folder))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self.save_now()
        if self._held is not None:
            self._held.close()
            self._held = None

    def take_folder(self) -> Path:
        """The run's folder, made now if it is not there, and held. Raises OutputError where that
        can't be done.
        """
        if not self.has_folder:
            self.folder, self.has_folder = claim(self.folder, self._is_new, self._force), True
            if self._held is not None and self._is_new:
                self._held.enter_context(hold(self.folder))
        return self.folder

    def start(
        self, identity: Mapping[str, Any], spent: Callable[[], Spent], warn: Callable[[str], None]
    ) -> SoFar | None:
        """A search begins: what an earlier one had come to, if there was one and it was of the same.

        ``spent`` tells at any time what the run has taken so far. Raises OutputError where
        something differs.
        """
        self._identity, self._spent, self._warn = identity, spent, warn
        self._next_try = time.monotonic() + SAVE_SECONDS
        if self._state is None:
            return None
        check_same(self.folder, self._state.identity, identity)
        self._check_unchanged(self._state)
        so_far = self._state.so_far()
        self.save(so_far)
        self.save_now()  # which says that this process is at work on it
        return so_far

    def _check_unchanged(self, state: State) -> None:
        """Raises OutputError where another process has gone on with the state since it was read."""
        if read_state(self.folder).data != state.data:
            raise OutputError(
                f"Another process has gone on with {self.folder} meanwhile. Give the command again."
            )

    def save(self, so_far: SoFar) -> None:
        """Keep a copy of what there is so far; on disk if the last one there is old."""
        self._latest = so_far.copy()
        self._is_saved = False
        if time.monotonic() >= self._next_try:
            self.save_now()

    def save_now(self) -> None:
        """Put the latest copy on disk. Says so where that fails, and goes on."""
        with self._lock:
            if self._is_saved or self._latest is None:
                return
            latest, began = self._latest, time.monotonic()
            try:
                self.take_folder()
                write(
                    self.folder,
                    STATE_FILE,
                    encode_state(latest, self._identity, self._spent(), Worker.this()),
                )
                self._is_saved, self._complaint = latest is self._latest, ""
            except OutputError as error:
                self._complain(str(error))
            now = time.monotonic()
            self._next_try = now + max(SAVE_SECONDS, min(PATIENCE * (now - began), LONGEST_SECONDS))

    def _complain(self, reason: str) -> None:
        """Warns once of whatever keeps on failing."""
        if reason != self._complaint:
            self._complaint = reason
            self._warn(
                f"the search goes on but can't be saved, and is lost if it is cut off now. {reason}"
            )

    def rescue(self, name: str, data: bytes) -> Path:
        """Write a file of a run that has failed: there is nothing to go on with. Raises OutputError
        where it can't.

        A file of that name, such as an older run's, stays: the new one is called otherwise.
        """
        self.take_folder()
        self._identity, self._latest = {}, None
        if os.path.lexists(self.folder / name):
            name = f"rescued-{name}"
        written = write(self.folder, name, data)
        (self.folder / STATE_FILE).unlink(missing_ok=True)
        return written

    def finish(self) -> None:
        """The search has ended: if some of it is on disk, so shall be all of it."""
        if self.has_folder:
            self.save_now()

    @property
    def can_resume(self) -> bool:
        """Whether there is a state on disk of the search that was asked for."""
        return bool(self._identity) and self.has_folder and (self.folder / STATE_FILE).exists()
