"""What lies beside a circuit: the run's prompts and record, its bootstrap, an evaluation's curve, the sweep it is of.

All of it may be missing, and what is damaged, or of another circuit, counts as missing: a page is made of what is left.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from circuitfind.circuit import Circuit
from circuitfind.circuits.folder import leads_outside
from circuitfind.errors import CircuitfindError
from circuitfind.export.html.data import Prompt, Sureness
from circuitfind.prompts import PromptPair
from circuitfind.record import read_record

MOST_PROMPTS = 64
"""So many prompts of more are shown, and run."""
BOOTSTRAP_FILE = "bootstrap.safetensors"


@dataclass(frozen=True)
class RunFolder:
    """``path``: of a run whose circuit this is; None of a lone file. ``beside``: where an evaluation may lie."""

    circuit: Circuit
    path: Path | None
    record: Mapping[str, Any]
    beside: Sequence[Path]

    @staticmethod
    def of(circuit: Circuit, folder: Path | None) -> RunFolder:
        """What lies in ``folder``, if it is the run's that found the circuit."""
        record = {} if folder is None else read_record(folder, circuit)
        beside = () if folder is None else (folder / "evaluation", *sorted(folder.glob("*-evaluation")))
        return RunFolder(circuit, folder if record else None, record, beside)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the run warned of."""
        said = self.record.get("warnings", [])
        return tuple(map(str, said)) if isinstance(said, list) else ()

    @property
    def scores(self) -> Path | None:
        """The file of every edge's score."""
        return self._file("scores.safetensors")

    def prompts(self) -> tuple[list[Prompt], int]:
        """The run's prompts, the first MOST_PROMPTS of them, and how many there are."""
        from circuitfind.taskfiles.prompts_file import read_prompts

        file = self._file("prompts.jsonl")
        try:
            pairs = [] if file is None else read_prompts(file)
        except CircuitfindError:
            pairs = []
        return [to_prompt(pair) for pair in pairs[:MOST_PROMPTS]], len(pairs)

    def sureness(self) -> dict[str, np.ndarray] | None:
        """What a bootstrap found: ``lower``, ``upper`` and ``inclusion`` in the shape of the graph (or of neurons)."""
        file = self._file(BOOTSTRAP_FILE)
        if file is None:
            return None
        try:
            with safe_open(file, framework="numpy") as tensors:
                metadata = tensors.metadata() or {}
                found = {name: tensors.get_tensor(name) for name in ("lower", "upper", "inclusion")}
        except (OSError, SafetensorError, ValueError):
            return None
        return found if self._fits(metadata, found) else None

    def _fits(self, metadata: Mapping[str, str], found: Mapping[str, np.ndarray]) -> bool:
        if self.circuit.neurons is not None:
            return all(values.shape == (len(self.circuit.all_neurons),) for values in found.values())
        graph = self.circuit.graph
        sides = [json.loads(metadata.get(side, "[]")) for side in ("receivers", "senders")]
        return sides == [[str(node) for node in nodes] for nodes in (graph.receivers, graph.senders)]

    def curve(self) -> dict[str, Any] | None:
        """Faithfulness at every size, where an evaluation of this very circuit measured it."""
        for folder in self.beside:
            report = read_object(folder / "report.json", folder.parent)
            if _edges_sha256(self.circuit) == report.get("circuit", {}).get("edges_sha256") and "curve" in report:
                return dict(report["curve"])
        return None

    def sweep(self) -> list[dict[str, Any]]:
        """The circuits of the sweep that this one is of: edges, faithfulness and KL of each."""
        if self.path is None:
            return []
        rows = read_object(self.path.parent / "sweep.json", self.path.parent).get("circuits", [])
        if self.path.name not in [row.get("folder") for row in rows]:
            return []
        return [
            {"edges": row["n_edges"], "faithfulness": row["faithfulness"], "kl": row["metrics"]["kl"]} for row in rows
        ]

    def _file(self, name: str) -> Path | None:
        if self.path is None or leads_outside(self.path / name, self.path):
            return None
        return self.path / name if (self.path / name).is_file() else None


def to_prompt(pair: PromptPair) -> Prompt:
    """The texts of a pair."""
    return Prompt(pair.clean, pair.corrupted, pair.answers, pair.wrong_answers)


def read_object(file: Path, folder: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one where there is none, or a link leads it out of ``folder``."""
    if leads_outside(file, folder):
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def pick(found: Mapping[str, np.ndarray], place: tuple[int, ...]) -> Sureness:
    """What a bootstrap found of one edge or neuron."""
    return Sureness(*(float(found[name][place]) for name in ("lower", "upper", "inclusion")))


def _edges_sha256(circuit: Circuit) -> str:
    """As an evaluation's report names the circuit."""
    return hashlib.sha256("\n".join(map(str, circuit.edges)).encode()).hexdigest()
