"""A circuit against a known one: which heads of which role it has, and how well its scores rank
them. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.compare import check_same_graph
from circuitfind.circuits.graph import Node
from circuitfind.evaluation.reference import (
    Agreement,
    Order,
    Scores,
    agree_with_circuit,
    agree_with_nodes,
)
from circuitfind.known.published import KINDS, KnownCircuit


@dataclass(frozen=True)
class Recall:
    """Which nodes of a role the circuit has, and which it lacks."""

    found: tuple[Node, ...]
    missing: tuple[Node, ...]

    @property
    def share(self) -> float:
        """What of the role was found; no role is without nodes."""
        return len(self.found) / (len(self.found) + len(self.missing))

    def to_dict(self) -> dict[str, Any]:
        found, missing = (list(map(str, nodes)) for nodes in (self.found, self.missing))
        return {"recall": self.share, "found": found, "missing": missing}


@dataclass(frozen=True)
class KnownComparison:
    """What ``circuit`` has of ``known``. ``is_scored``: whether the edges that it lacks have been
    ranked by scores.
    """

    circuit: Circuit
    known: KnownCircuit
    agreement: Agreement
    is_scored: bool

    @cached_property
    def roles(self) -> Mapping[str, Recall]:
        """Of each role what was found."""
        has = set(self.circuit.nodes)
        return {
            role: Recall(tuple(n for n in nodes if n in has), tuple(n for n in nodes if n not in has))
            for role, nodes in self.known.nodes.items()
        }

    def to_dict(self) -> dict[str, Any]:
        circuit = self.circuit
        return {
            "circuit": {
                "model": circuit.model.get("name"),
                "task": circuit.task.get("name"),
                "method": circuit.method.get("name"),
                "n_edges": len(circuit.edges),
            },
            "known": self.known.to_dict(),
            "roles": {role: recall.to_dict() for role, recall in self.roles.items()},
            "ranked_by": "scores" if self.is_scored else "kept edges",
            **self.agreement.to_dict(),
        }


def compare_with_known(
    circuit: Circuit, known: KnownCircuit, scores: Scores | None = None, order: Order = "absolute"
) -> KnownComparison:
    """The comparison; edges by their ``scores``, without them by the circuit's own.

    Raises CircuitError for models of different shapes and for scores that are no finite numbers.
    """
    check_same_graph(circuit.graph, f"'{known.name}' ({known.model})", known.graph)
    if known.circuit is None:
        agreement = agree_with_nodes(circuit, known.all_nodes, scores, order, KINDS[known.level])
    else:
        agreement = agree_with_circuit(circuit, known.circuit, scores, order)
    return KnownComparison(circuit, known, agreement, scores is not None)
