"""Which files in a folder circuitfind wrote: only those may be replaced, and none that has been
changed since.

A folder's record (run.json, sweep.json or report.json) names the files that were written with it
and their SHA-256. Whatever no record names is the user's, whatever it is called.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from circuitfind.circuits.record import RUN_FILE
from circuitfind.errors import OutputError
from circuitfind.export import FORMATS
from circuitfind.files.links import leads_outside

STATE_FILE = "search.safetensors"
"""What a search has decided so far (``runs/checkpoint.py``); a folder that holds it holds an
unfinished run.
"""
CONSTANTS_FILE = "constants.safetensors"
"""What senders write under optimal ablation (``patching/learned_ablation.py``)."""
SWEEP_FILE, REPORT_FILE = "sweep.json", "report.json"
SUFFIXES = frozenset(format.suffix for format in FORMATS.values())
DATA_FILES = frozenset(
    {
        "circuit.json",
        "scores.safetensors",
        "prompt_scores.safetensors",
        "bootstrap.safetensors",
        "consensus.json",
        "prompts.jsonl",
        "reference.jsonl",
        CONSTANTS_FILE,
        RUN_FILE,
    }
)
"""What a run leaves for programs: commands that are given a run's folder read these."""
FILES: Mapping[str, frozenset[str]] = {
    RUN_FILE: frozenset({*DATA_FILES, "report.md", *(f"circuit.{suffix}" for suffix in SUFFIXES)}),
    SWEEP_FILE: frozenset({SWEEP_FILE, "sweep.md", *(f"sweep.{suffix}" for suffix in SUFFIXES)}),
    REPORT_FILE: frozenset({REPORT_FILE, "report.md", "curve.svg", "curve.png"}),
}
"""Every file that a run, a sweep or an evaluation may leave, by the name of its record."""
CHUNK = 1 << 20
LEAST_READ = 1 << 16
"""So many bytes of a safetensors file tell whose it is."""


def names_of_run(formats: Iterable[str]) -> frozenset[str]:
    """Every file that a run with pictures in these formats may write."""
    pictures = {f"circuit.{FORMATS[name].suffix}" for name in ("dot", *formats)}
    return DATA_FILES | {"report.md", STATE_FILE} | pictures


def names_of_sweep(formats: Iterable[str]) -> frozenset[str]:
    """Every file that a sweep writes beside its runs' folders."""
    return frozenset(
        {SWEEP_FILE, "sweep.md", STATE_FILE, *(f"sweep.{FORMATS[name].suffix}" for name in formats)}
    )


def written_with(folder: Path, record: str) -> dict[str, str | None]:
    """The files that were written with this record in ``folder``, and their SHA-256.

    A record from before they were named tells the names alone. Nothing where there is no such
    record.
    """
    said = read_record(folder / record)
    if said is None:
        return {}
    known = FILES[record]
    named = said.get("files")
    if isinstance(named, dict):
        return {record: None, **{name: str(sha) for name, sha in named.items() if name in known}}
    formats = said.get("command", {}).get("formats") if record == RUN_FILE else None
    if isinstance(formats, list):
        known = known & names_of_run(name for name in formats if name in FORMATS)
    return dict.fromkeys(known)


def read_record(path: Path) -> dict[str, Any] | None:
    """The record, if it is one of circuitfind's, and lies there itself."""
    if leads_outside(path, path.parent):
        return None
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    if path.name == RUN_FILE:
        return said if isinstance(said.get("command"), dict) else None
    return said if str(said.get("format", "")).startswith("circuitfind.") else None


def is_own(folder: Path, name: str, record: str) -> bool:
    """Whether the command that writes this record wrote the file, and it is as it was then."""
    if (folder / name).is_dir() or leads_outside(folder / name, folder):
        return False
    if name == STATE_FILE:
        return _has(folder / name, b"circuitfind.search")
    written = written_with(folder, record)
    if name in written:
        return written[name] in (None, sha256_of(folder / name))
    is_rescued = name == "scores.safetensors" and not any((folder / each).exists() for each in FILES)
    return is_rescued and _has(folder / name, b'"receivers')  # of masks that diverged: there is no record


def _has(path: Path, word: bytes) -> bool:
    """Whether the file begins with a head that has this word in it, or is empty."""
    try:
        with path.open("rb") as file:
            start = file.read(LEAST_READ)
            size = min(int.from_bytes(start[:8], "little"), 1 << 28)
            return not start or word in start + file.read(max(0, size + 8 - len(start)))
    except OSError:
        return False


def sha256_of(path: Path) -> str:
    """Of the file's bytes; "" where it can't be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError:
        return ""
    return digest.hexdigest()


def stale(folder: Path, record: str, new: Iterable[str]) -> list[Path]:
    """The files that an older ``record`` in ``folder`` names, are as they were then, and are not
    among the new ones.
    """
    written, kept = written_with(folder, record), {*new, record}
    return [
        folder / name
        for name, sha in written.items()
        if name not in kept and (folder / name).is_file() and sha in (None, sha256_of(folder / name))
    ]


def refuse_foreign(folder: Path, names: Iterable[str], record: str, inputs: Iterable[Path] = ()) -> None:
    """Raises OutputError, by name, for a file of these in ``folder`` that was not written with its
    ``record``, that has been changed since, or that is one of the command's own inputs."""
    there = [name for name in sorted(names) if os.path.lexists(folder / name)]
    refuse_inputs([folder / name for name in there], inputs)
    for name in there:
        if not is_own(folder, name, record):
            raise OutputError(
                f"{folder / name} is not as this command left it there, if it did, and nothing else is"
                " replaced.\nMove it away, or give another --out."
            )


def refuse_inputs(targets: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raises OutputError for a place to write to that is what the command reads."""
    read = [file for path in inputs for file in files_read(path)]
    for target in targets:
        for file in read:
            if is_same_file(target, file):
                raise OutputError(
                    f"{target} is what this command reads: writing there would destroy it.\n"
                    "Give another place to write to."
                )


def files_read(path: Path) -> Iterator[Path]:
    """What a command reads that is given this file or folder."""
    yield path
    if path.is_dir():
        yield from (path / name for name in sorted(DATA_FILES))


def is_same_file(one: Path, other: Path) -> bool:
    """Whether both are there and the same, under whatever names."""
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return False
