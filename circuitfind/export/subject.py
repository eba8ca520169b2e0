"""What is exported: a circuit, the run folder it lies in, and how its picture is to look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from circuitfind.circuit import Circuit
from circuitfind.graph import Edge

if TYPE_CHECKING:
    from circuitfind.export.html.data import Observations
    from circuitfind.known import KnownCircuit

MOST_EDGES = 2000
"""More than these on one page are a grey cloud: the strongest are drawn, and the caption says so."""


@dataclass(frozen=True)
class Look:
    """How a picture is to look. ``marks``: edges that are drawn as one of ``style.MARKS``."""

    most_edges: int = MOST_EDGES
    marks: Mapping[Edge, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """``folder``: the run folder that the circuit lies in, with scores, prompts and record; None of a lone file.

    ``observations``: what the model's runs showed of it, ``known``: a circuit to set beside it; for a page.
    """

    circuit: Circuit
    look: Look = Look()
    folder: Path | None = None
    observations: Observations | None = None
    known: KnownCircuit | None = None

    @staticmethod
    def load(path: Path, look: Look = Look()) -> Subject:
        """The circuit in a circuit.json or a run folder. Raises CircuitError if there is none."""
        folder = path if path.is_dir() else path.parent
        return Subject(Circuit.load(path), look, folder)
