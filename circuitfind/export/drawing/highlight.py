"""Another circuit that a picture is held against: what both have, what the picture's circuit lacks,
what it adds.

Edges are marked where both circuits have edges of their own, else nodes: of a published circuit,
whose paper names heads and what they do, and at neuron level, where all edges are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from circuitfind.circuits.bases import by_node
from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.compare import describe_shape
from circuitfind.circuits.graph import Edge, Graph, Node
from circuitfind.errors import CircuitError
from circuitfind.known import KnownCircuit, find_known


@dataclass(frozen=True)
class Words:
    """Names of ``style.MARKS`` for what both have, what the shown circuit lacks, and what it alone has."""

    both: str
    lacks: str
    adds: str


KNOWN = Words("common", "missing", "extra")
EARLIER = Words("both", "lost", "gained")


@dataclass(frozen=True)
class Highlight:
    """``name``: for the caption. ``edges``: with scores, None where nodes alone are known.
    ``nodes``: those it has, of the ``kinds`` that it speaks of."""

    name: str
    nodes: frozenset[Node]
    kinds: tuple[str, ...] = ("head", "mlp")
    edges: Mapping[Edge, float] | None = None
    words: Words = KNOWN

    @staticmethod
    def of(circuit: Circuit, name: str = "", words: Words = KNOWN) -> Highlight:
        """Another circuit, edge by edge; one of neurons by its nodes."""
        if circuit.neurons is not None:
            return Highlight(name, frozenset(by_node(circuit.neurons)), words=words)
        return Highlight(name, frozenset(circuit.nodes), edges=circuit.edges, words=words)

    def compares_edges(self, circuit: Circuit) -> bool:
        """Whether edges are marked, not nodes."""
        return self.edges is not None and circuit.neurons is None

    def lacking(self, circuit: Circuit) -> dict[Edge, float]:
        """The edges that the circuit lacks, with the scores that they have here."""
        if self.edges is None or not self.compares_edges(circuit):
            return {}
        return {edge: score for edge, score in self.edges.items() if edge not in circuit.edges}

    def mark(self, ours: bool, theirs: bool) -> str:
        """The mark of what one of the circuits has, or both."""
        return (self.words.both if theirs else self.words.adds) if ours else self.words.lacks


def read_highlight(circuit: Circuit, name: str) -> Highlight:
    """The known circuit of that name, or in that circuit.json or run folder, to show ``circuit`` against.

    Raises CircuitError where there is none, where it is damaged, and where it is of a model of
    another shape or of other positions.
    """
    known = find_known(name)
    _check_shape(circuit.graph, known)
    if known.circuit is None:
        return Highlight(known.name, frozenset(known.all_nodes), _kinds(known))
    return Highlight.of(known.circuit, Path(known.name).resolve().name)


def _kinds(known: KnownCircuit) -> tuple[str, ...]:
    return ("head",) if known.level == "heads" else ("head", "mlp")


def _check_shape(graph: Graph, known: KnownCircuit) -> None:
    if graph.base != known.graph.base:
        raise CircuitError(
            f"--highlight {known.name} is of {describe_shape(known.graph)} ({known.model}), the circuit of "
            f"{describe_shape(graph)}.\nHighlight a circuit of a model of the same shape."
        )
    if graph.roles != known.graph.roles:
        ours, theirs = (", ".join(g.roles) or "none" for g in (graph, known.graph))
        raise CircuitError(
            f"--highlight {known.name} is of other positions ({theirs}) than the circuit ({ours}).\n"
            "Highlight a circuit that was found with the same --positions."
        )
