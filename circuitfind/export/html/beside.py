"""A circuit beside a known one: which that is, what its nodes do, and what of it the circuit has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Node
from circuitfind.export.html.folder import RunFolder
from circuitfind.known import KnownCircuit

MOST_MISSING = 200
"""So many edges of each kind are named."""


def flatten(circuit: Circuit) -> Circuit:
    """The circuit without roles: an edge has its strongest score at any of them."""
    if not circuit.graph.roles:
        return circuit
    edges: dict[Edge, float] = {}
    for edge, score in circuit.edges.items():
        base = Edge(edge.sender, edge.receiver.base)
        edges[base] = max(edges.get(base, 0.0), score, key=abs)
    return replace(circuit, graph=circuit.graph.base, edges=edges)


def compare(circuit: Circuit, known: KnownCircuit, folder: RunFolder) -> dict[str, Any]:
    """What the circuit has of the known one; the edges that it lacks, if those are known."""
    from circuitfind.evaluation.reference import read_scores
    from circuitfind.known.compare import compare_with_known

    flat, scores = flatten(circuit), None
    if folder.scores is not None and circuit.neurons is None and not circuit.graph.roles:
        scores = read_scores(folder.scores, circuit.graph)
    said = compare_with_known(flat, known, scores).to_dict()
    del said["circuit"]
    said["known"]["name"] = known.name.rpartition("/")[2]
    if known.circuit is not None:
        has, wanted = set(flat.edges), known.circuit.edges
        said["common"] = [str(edge) for edge in wanted if edge in has][:MOST_MISSING]
        said["missing"] = [str(edge) for edge in wanted if edge not in has][:MOST_MISSING]
        said["extra"] = [str(edge) for edge in flat.edges if edge not in wanted][:MOST_MISSING]
    return said


def roles_of(known: KnownCircuit | None) -> dict[Node, str]:
    """What a published circuit says that its nodes do; of one of which the edges are known, nothing."""
    if known is None or known.circuit is not None:
        return {}
    return {node: role for role, nodes in known.nodes.items() for node in nodes}
