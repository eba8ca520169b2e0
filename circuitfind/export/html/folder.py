"""What lies beside a circuit: the run's prompts and record, its bootstrap, an evaluation's curve,
the sweep it is of.

All of it may be missing, and what is damaged, or of another circuit, counts as missing: a page is
made of what is left.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from msgspec import Meta

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.record import read_record
from circuitfind.circuits.schema import Count, Metrics, Number
from circuitfind.errors import CircuitError, CircuitfindError
from circuitfind.evaluation.reference import edges_of, is_of
from circuitfind.export.html.data import Prompt, Sureness
from circuitfind.files.json_file import Name, Schema, read_json
from circuitfind.files.links import leads_outside
from circuitfind.files.tensor_file import read_metadata, read_tensors
from circuitfind.prompts.pairs import PromptPair

MOST_PROMPTS = 64
"""So many prompts of more are shown, and run."""
BOOTSTRAP_FILE = "bootstrap.safetensors"


T = TypeVar("T")


class Point(Schema, frozen=True):
    """A circuit of some size in an evaluation's curve."""

    budget: Number
    chosen: Count
    edges: Count
    value: Number | None = None
    kl: Number | None = None
    faithfulness: Number | None = None


Points = Annotated[list[Point], Meta(max_length=10_000)]


class StoredCurve(Schema, frozen=True):
    """An evaluation's curve over sizes."""

    metric: Name
    shares_of: Name
    graph_edges: Count
    signed: Points
    absolute: Points
    cpr: Number | None = None
    cmd: Number | None = None
    full: Number | None = None
    ablated: Number | None = None
    ablated_kl: Number | None = None


class Judged(Schema, frozen=True):
    """Which circuit an evaluation is of."""

    edges_sha256: Name


class Report(Schema, frozen=True):
    """An evaluation's report.json, as far as a page shows it."""

    circuit: Judged
    curve: StoredCurve | None = None


class Row(Schema, frozen=True):
    """One circuit of a sweep."""

    folder: Name
    n_edges: Count
    metrics: Metrics
    faithfulness: Number | None


class Sweep(Schema, frozen=True):
    """A sweep.json, as far as a page shows it."""

    circuits: Annotated[list[Row], Meta(max_length=10_000)]


@dataclass(frozen=True)
class RunFolder:
    """``path``: of a run whose circuit this is; None of a lone file. ``beside``: where an
    evaluation may lie.
    """

    circuit: Circuit
    path: Path | None
    record: Mapping[str, Any]
    beside: Sequence[Path]

    @staticmethod
    def of(circuit: Circuit, folder: Path | None) -> RunFolder:
        """What lies in ``folder``, if it is the run's that found the circuit."""
        if folder is None:
            return RunFolder(circuit, None, {}, ())
        beside = (folder / "evaluation", *sorted(folder.glob("*-evaluation")))
        try:
            record = read_record(folder, circuit)
        except CircuitError as error:
            return RunFolder(
                circuit, None, {"warnings": [f"what the run left is not shown: {error}"]}, beside
            )
        return RunFolder(circuit, folder if record else None, record, beside)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the run warned of."""
        return tuple(self.record.get("warnings", ()))

    @property
    def scores(self) -> Path | None:
        """The file of every edge's score."""
        return self._file("scores.safetensors")

    def prompts(self) -> tuple[list[Prompt], int]:
        """The run's prompts, the first MOST_PROMPTS of them, and how many there are."""
        from circuitfind.prompts.files.prompts_file import read_prompts

        file = self._file("prompts.jsonl")
        try:
            pairs = [] if file is None else read_prompts(file)
        except CircuitfindError:
            pairs = []
        return [to_prompt(pair) for pair in pairs[:MOST_PROMPTS]], len(pairs)

    def sureness(self) -> dict[str, np.ndarray] | None:
        """What a bootstrap found: ``lower``, ``upper`` and ``inclusion`` in the shape of the graph
        (or of neurons).
        """
        file = self._file(BOOTSTRAP_FILE)
        if file is None:
            return None
        graph, neurons = self.circuit.graph, self.circuit.neurons is not None
        shape = (
            (len(self.circuit.all_neurons),) if neurons else (len(graph.receivers), len(graph.senders))
        )
        try:
            is_its = neurons or is_of(graph, read_metadata(file), file)
            found = read_tensors(file, dict.fromkeys(("lower", "upper", "inclusion"), shape))
        except CircuitError:
            return None
        real = np.ones(shape, bool) if neurons else edges_of(graph)
        return (
            found
            if is_its and all(np.isfinite(values[real]).all() for values in found.values())
            else None
        )

    def curve(self) -> dict[str, Any] | None:
        """Faithfulness at every size, where an evaluation of this very circuit measured it."""
        for folder in self.beside:
            report = read_file(folder / "report.json", folder.parent, Report)
            if (
                report is not None
                and report.curve
                and _edges_sha256(self.circuit) == report.circuit.edges_sha256
            ):
                return msgspec.to_builtins(report.curve)  # type: ignore[no-any-return]
        return None

    def sweep(self) -> list[dict[str, Any]]:
        """The circuits of the sweep that this one is of: edges, faithfulness and KL of each."""
        if self.path is None:
            return []
        table = read_file(self.path.parent / "sweep.json", self.path.parent, Sweep)
        if table is None or self.path.name not in [row.folder for row in table.circuits]:
            return []
        return [
            {"edges": row.n_edges, "faithfulness": row.faithfulness, "kl": row.metrics.get("kl")}
            for row in table.circuits
        ]

    def _file(self, name: str) -> Path | None:
        if self.path is None or leads_outside(self.path / name, self.path):
            return None
        return self.path / name if (self.path / name).is_file() else None


def to_prompt(pair: PromptPair) -> Prompt:
    """The texts of a pair."""
    return Prompt(pair.clean, pair.corrupted, pair.answers, pair.wrong_answers)


def read_file(file: Path, folder: Path, schema: type[T]) -> T | None:
    """What a JSON file holds; None where there is none, or another, or a link leads it out of ``folder``."""
    try:
        return None if leads_outside(file, folder) else read_json(file, schema)
    except CircuitError:
        return None


def pick(found: Mapping[str, np.ndarray], place: tuple[int, ...]) -> Sureness:
    """What a bootstrap found of one edge or neuron."""
    return Sureness(*(float(found[name][place]) for name in ("lower", "upper", "inclusion")))


def _edges_sha256(circuit: Circuit) -> str:
    """As an evaluation's report names the circuit."""
    return hashlib.sha256("\n".join(map(str, circuit.edges)).encode()).hexdigest()
