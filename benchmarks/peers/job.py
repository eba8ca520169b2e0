"""What the two sides of a comparison share: the prompts, what to compute of them, and how its cost is taken.

A peer's interpreter reads this file too: nothing but the standard library and numpy.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")
MODEL = "model"
"""The folder of the model within the job's, as Hugging Face writes it, and a ``words.json`` for ``tokenizers``."""


@dataclass(frozen=True)
class Case:
    """One attribution: a method, by our name for it, and a metric."""

    method: str
    metric: str

    def __str__(self) -> str:
        return f"{self.method}:{self.metric}"

    @staticmethod
    def parse(text: str) -> Case:
        """From ``method:metric``."""
        method, _, metric = text.partition(":")
        return Case(method, metric or "logit-diff")


@dataclass(frozen=True)
class Job:
    """Token ids of prompt pairs, BOS and all, each with its answer and a wrong one; and what to compute of them."""

    cases: Sequence[Case]
    batch_sizes: Sequence[int]
    steps: int
    clean: Sequence[Sequence[int]]
    corrupted: Sequence[Sequence[int]]
    answers: Sequence[tuple[int, int]]

    def write(self, folder: Path) -> None:
        """The job as ``job.json``."""
        (folder / "job.json").write_text(json.dumps(asdict(self)))

    @staticmethod
    def read(folder: Path) -> Job:
        """The job of that folder."""
        fields = json.loads((folder / "job.json").read_text())
        return Job(**{**fields, "cases": [Case(**case) for case in fields["cases"]]})


@dataclass(frozen=True)
class Cost:
    """Wall-clock time, that of all processors together, which other work hardly moves, and the most memory the process
    held meanwhile, its model and libraries included."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Side:
    """What one side found. ``scores`` and ``costs`` are by names of its own; ``losses``: of clean and corrupted."""

    edges: Sequence[str]
    scores: dict[str, npt.NDArray[np.float64]]
    costs: dict[str, Cost]
    losses: tuple[float, float]
    versions: str

    def write(self, folder: Path, name: str) -> None:
        """The side as ``NAME.npz`` and ``NAME.json``."""
        np.savez(folder / f"{name}.npz", **self.scores)  # type: ignore[arg-type]
        rest: dict[str, Any] = {**asdict(self), "scores": None}
        (folder / f"{name}.json").write_text(json.dumps(rest))

    @staticmethod
    def read(folder: Path, name: str) -> Side:
        """The side of that name."""
        rest = json.loads((folder / f"{name}.json").read_text())
        with np.load(folder / f"{name}.npz") as file:
            scores = {key: file[key].astype(np.float64) for key in file.files}
        return Side(
            rest["edges"],
            scores,
            {key: Cost(**cost) for key, cost in rest["costs"].items()},
            (rest["losses"][0], rest["losses"][1]),
            rest["versions"],
        )


def measured(work: Callable[[], T]) -> tuple[T, Cost]:
    """The outcome, and what it cost."""
    gc.collect()
    with suppress(OSError):  # else the peak is that of the process so far
        Path("/proc/self/clear_refs").write_text("5")
    start, cpu_start = time.perf_counter(), time.process_time()
    outcome = work()
    return outcome, Cost(time.perf_counter() - start, time.process_time() - cpu_start, _peak())


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
