"""What is exported: a circuit, the run folder it lies in, and how its picture is to look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Node
from circuitfind.errors import UsageError, unknown
from circuitfind.export.drawing.highlight import Highlight
from circuitfind.export.drawing.style import find_palette

if TYPE_CHECKING:
    from circuitfind.export.html.data import Observations
    from circuitfind.known import KnownCircuit

MOST_EDGES = 2000
"""More than these on one page are a grey cloud: the strongest are drawn, and the caption says so."""

Collapse = Literal["heads", "layers"]
COLLAPSES: Mapping[str, Collapse] = {"heads": "heads", "layers": "layers"}


@dataclass(frozen=True)
class Look:
    """How a picture is to look. Raises UsageError for what it can't be.

    ``style``: one of ``style.PALETTES``. ``collapse``: ``heads`` draws one edge between two nodes
    in place of one for each of q, k and v; ``layers`` draws all heads of a layer as one node.
    ``labels``: what stands under a node's name and colours it; it takes the place of the role that
    the node has in a published circuit, which is shown where ``roles``. ``highlight``: another
    circuit, whose edges or nodes are marked.
    """

    most_edges: int = MOST_EDGES
    style: str = "paper"
    collapse: Collapse | None = None
    labels: Mapping[Node, str] = field(default_factory=dict)
    roles: bool = True
    highlight: Highlight | None = None

    def __post_init__(self) -> None:
        find_palette(self.style)
        if self.most_edges < 1:
            raise UsageError(f"--max-edges is {self.most_edges}; it must be 1 or more.")


def find_collapse(name: str) -> Collapse:
    """The way to collapse of that name. Raises UsageError, suggesting the nearest, if there is none."""
    if name not in COLLAPSES:
        raise UsageError(unknown("way to collapse", name, COLLAPSES, "ways to collapse"))
    return COLLAPSES[name]


@dataclass(frozen=True)
class Subject:
    """``folder``: the run folder that the circuit lies in, with scores, prompts and record; None of
    a lone file.

    ``observations``: what the model's runs showed of it, ``known``: a circuit to set beside it; for
    a page.
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
