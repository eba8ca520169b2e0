"""Records the golden runs: what commands leave, so that two versions of circuitfind can be compared byte by byte.

``python -m tests.golden_runs.record --out FOLDER [RUN...]`` writes the runs' files without what changes from run to run
(``diff -r`` compares two such folders); ``--write`` renews the hashes with which the test compares.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import string
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shutil import copytree

from .normalise import normalise

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
HASHES = HERE / "hashes.json"
LINE = re.compile(r"(?P<name>[\w-]+)(?: \(killed after (?P<kill_after>\d+) saves?\))?: +(?P<command>.+)")

Files = Mapping[str, bytes]
"""What has to stay the same of each file of a run, by its path."""


@dataclass(frozen=True)
class Run:
    """One command. ``{other}`` in it is the folder of another run, ``{out}`` its own.

    With ``kill_after`` it is killed when it has saved its state so many times, and then resumed.
    """

    name: str
    command: str
    kill_after: int | None = None

    @property
    def needs(self) -> list[str]:
        return [
            field
            for _, field, _, _ in string.Formatter().parse(self.command)
            if field not in (None, "out")
        ]

    def filled_in(self) -> Run:
        return replace(
            self,
            command=self.command.format_map({"out": self.name} | {name: name for name in self.needs}),
        )


@dataclass(frozen=True)
class Recording:
    """What runs left, and on which machine with which versions."""

    fingerprint: Mapping[str, str]
    runs: Mapping[str, Files]

    def hashes(self) -> dict[str, dict[str, str]]:
        return {
            name: {path: sha256(data) for path, data in files.items()}
            for name, files in self.runs.items()
        }

    def write(self, name: str, folder: Path) -> None:
        """Writes the files of one run into a folder of its name."""
        for path, data in self.runs[name].items():
            place = folder / name / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_runs(text: str) -> dict[str, Run]:
    """The runs of a table by name, in its order: no run needs one below it."""
    runs: dict[str, Run] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            run = read_run(line)
            assert run.name not in runs, f"two runs are named {run.name}"
            assert set(run.needs) <= runs.keys(), f"{run.name} needs a run that does not stand above it"
            runs[run.name] = run
    return runs


def read_run(line: str) -> Run:
    """The run of one line of the table.

    >>> read_run("again (killed after 2 saves): show {first}")
    Run(name='again', command='show {first}', kill_after=2)
    """
    match = LINE.fullmatch(line)
    assert match, f"not a run: {line}"
    return Run(
        match["name"],
        complete(match["command"]),
        int(match["kill_after"]) if match["kill_after"] else None,
    )


def complete(command: str) -> str:
    """The command with what the table leaves out: its own folder, no progress, no picture.

    >>> complete("evaluate {first}")
    'evaluate {first} --out {out} -q'
    """
    words = command.split()
    if words[0] not in ("run", "sweep", "evaluate") or "--help" in words:
        return command
    has_format = words[0] == "evaluate" or "--format" in words
    return f"{command} --out {{out}} -q{'' if has_format else ' --format dot'}"


RUNS = read_runs((HERE / "runs.txt").read_text())


def record(names: Iterable[str], workplace: Path, n_threads: int = 1) -> Recording:
    """Carries out the runs of these names, and those that they need, in an empty folder."""
    copytree(HERE / "inputs", workplace / "inputs")
    runs = [run for name, run in RUNS.items() if name in with_needs(names)]
    settings = {
        "OMP_NUM_THREADS": str(n_threads),
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "100",
        "NO_COLOR": "1",
    }
    subprocess.run(
        [sys.executable, str(HERE / "driver.py")],
        input=json.dumps([asdict(run.filled_in()) for run in runs]),
        text=True,
        cwd=workplace,
        env=os.environ | settings | {"PYTHONPATH": str(ROOT)},
        check=True,
    )
    fingerprint = json.loads((workplace / "fingerprint.json").read_text())
    return Recording(fingerprint, {run.name: read_files(workplace / run.name, workplace) for run in runs})


def with_needs(names: Iterable[str]) -> set[str]:
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting += RUNS[name].needs
    return found


def read_files(folder: Path, workplace: Path) -> Files:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): normalise(path, workplace.resolve(), ROOT) for path in paths
    }


def read_hashes() -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """The fingerprint under which the hashes were recorded, and those of each run's files."""
    stored = json.loads(HASHES.read_text())
    return stored["fingerprint"], stored["runs"]


def write_hashes(recording: Recording) -> None:
    """Renews the hashes; those of runs that were not carried out stay."""
    kept = read_hashes()[1] if HASHES.exists() and recording.runs.keys() < RUNS.keys() else {}
    runs = {name: files for name, files in (kept | recording.hashes()).items() if name in RUNS}
    document = {"fingerprint": dict(recording.fingerprint), "runs": runs}
    HASHES.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.golden_runs.record", description=__doc__)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="Names in runs.txt. Default: all.")
    parser.add_argument("--out", type=Path, help="Write the runs' files here, to compare with diff -r.")
    parser.add_argument("--write", action="store_true", help="Renew hashes.json.")
    parser.add_argument("--threads", type=int, default=1, help="OMP_NUM_THREADS, which changes no byte.")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as workplace:
        recording = record(asked.runs or RUNS, Path(workplace), asked.threads)
    if asked.out:
        for name in recording.runs:
            recording.write(name, asked.out)
    if asked.write:
        write_hashes(recording)


if __name__ == "__main__":
    main()
