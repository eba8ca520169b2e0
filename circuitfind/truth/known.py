"""The models whose circuit is known, as they lie in their folders: no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from circuitfind.circuits.circuit import Circuit
from circuitfind.errors import UsageError, unknown

MODELS = Path(__file__).parent / "models"


@dataclass(frozen=True)
class Known:
    """A model in the hub's layout with its prompts and its true circuit."""

    name: str
    folder: Path

    @property
    def prompts(self) -> Path:
        return self.folder / f"{self.name}.jsonl"

    @property
    def circuit(self) -> Circuit:
        """The true edges. Raises CircuitError if the file can't be read."""
        return Circuit.load(self.folder)


def known_models(folder: Path = MODELS) -> dict[str, Known]:
    """All of them by name."""
    return {
        path.parent.name: Known(path.parent.name, path.parent)
        for path in sorted(folder.glob("*/circuit.json"))
    }


def choose_models(names: Sequence[str]) -> list[Known]:
    """Those of these names, or all. Raises UsageError for one that there is not."""
    known = known_models()
    for name in names:
        if name not in known:
            raise UsageError(unknown("model", name, known))
    return [known[name] for name in names or known]
