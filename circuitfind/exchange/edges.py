"""Every edge of a graph, whether it is kept and what its score is: what formats of circuits have in
common.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from circuitfind.circuits.circuit import Circuit, check_size, parse_edges
from circuitfind.circuits.compare import describe_shape
from circuitfind.circuits.graph import Counts, Edge, Graph
from circuitfind.errors import CircuitError
from circuitfind.evaluation.reference import SCORES_FILE, edges_of, read_scores
from circuitfind.files.links import file_in

MOST_PLACES = 100_000_000
"""A file whose model has more places for edges (receivers times senders) is wrong: the largest
models have as many.
"""


@dataclass(frozen=True)
class ScoredEdges:
    """``scores``: NaN where there is no edge and where no score is known. ``by_node``: an edge's
    score is that of the node which sends it. ``d_model``: the width of the residual stream, where
    it is known."""

    graph: Graph
    kept: Bool[np.ndarray, "receiver sender"]
    scores: Float[np.ndarray, "receiver sender"]
    by_node: bool = False
    d_model: int | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the score of every edge is known."""
        return bool(np.isfinite(self.scores[edges_of(self.graph)]).all())

    @property
    def filled(self) -> Float[np.ndarray, "receiver sender"]:
        """The scores with 0 where none is known, as other tools' own files have it."""
        filled: Float[np.ndarray, "receiver sender"] = np.nan_to_num(self.scores)
        return filled

    @property
    def is_single(self) -> bool:
        """Whether float32 holds every score as it is."""
        known = self.scores[np.isfinite(self.scores)]
        with np.errstate(
            over="ignore"
        ):  # what float32 can't hold becomes infinite, which is not the same
            return bool((known.astype(np.float32) == known).all())


def make_graph(n_layers: int, n_heads: int, parallel: bool, source: str) -> Graph:
    """The graph of a file's model. Raises CircuitError for a shape that no model has."""
    check_size(n_layers, n_heads, source)
    graph = Graph(n_layers, n_heads, parallel)
    counts = Counts.of(n_layers, n_heads)
    if counts.senders * counts.receivers > MOST_PLACES:
        raise CircuitError(f"{source}: {describe_shape(graph)}: no model has so many heads and MLPs.")
    return graph


def empty(
    graph: Graph,
) -> tuple[Bool[np.ndarray, "receiver sender"], Float[np.ndarray, "receiver sender"]]:
    """No edge kept and no score known, to be filled."""
    shape = len(graph.receivers), len(graph.senders)
    return np.zeros(shape, bool), np.full(shape, np.nan)


def place_of(graph: Graph, edge: Edge, source: str) -> tuple[int, int]:
    """The edge's receiver and sender, as indices. Raises CircuitError naming an edge that the graph
    hasn't got.
    """
    if edge not in graph:
        raise CircuitError(
            f"{source}: the edge '{edge}' cannot exist in {describe_shape(graph)}: "
            "no such node, or it reads what comes later."
        )
    return graph.order(edge)


def places_of(graph: Graph, names: Iterable[str], source: str) -> Iterator[tuple[int, int]]:
    """The places of edges by their names. Raises CircuitError naming the first that the graph hasn't got."""
    try:
        for edge in parse_edges(names):
            yield place_of(graph, edge, source)
    except CircuitError as error:
        said = str(error)
        raise CircuitError(said if said.startswith(source) else f"{source}: {said}") from None


def check_scores(edges: ScoredEdges, source: str, of_all: bool = False) -> ScoredEdges:
    """The same. Raises CircuitError naming the first kept edge (``of_all``: the first edge) without
    a finite score, and any that is infinite."""
    asked = edges_of(edges.graph) if of_all else edges.kept
    wrong = (asked & ~np.isfinite(edges.scores)) | np.isinf(edges.scores)
    if wrong.any():
        row, sender = np.unravel_index(int(wrong.argmax()), wrong.shape)
        edge = Edge(edges.graph.senders[sender], edges.graph.receivers[row])
        raise CircuitError(
            f"{source}: the edge '{edge}' has the score {edges.scores[row, sender]}; it must be finite."
        )
    return edges


def kept_edges(edges: ScoredEdges) -> Iterable[tuple[Edge, float]]:
    """The kept edges with their scores, in graph order."""
    for row, sender in np.argwhere(edges.kept).tolist():
        yield (
            Edge(edges.graph.senders[sender], edges.graph.receivers[row]),
            float(edges.scores[row, sender]),
        )


def of_circuit(circuit: Circuit, folder: Path | None = None) -> ScoredEdges:
    """All edges of a circuit: the scores of those outside it from the scores.safetensors in
    ``folder``, where that is of this circuit; else they are not known.

    Raises CircuitError for a circuit that no other tool's format holds: of neurons, or of
    positions.
    """
    refuse_finer(circuit)
    kept, scores = empty(circuit.graph)
    for place, score in circuit.places():
        kept[place], scores[place] = True, score
    known = _scores_beside(circuit, folder, kept, scores)
    by_node = circuit.method.get("level") == "node"
    return ScoredEdges(circuit.graph, kept, np.where(kept, scores, known), by_node, _width(circuit))


def refuse_finer(circuit: Circuit) -> None:
    """Raises CircuitError where edges alone would say something else than the circuit."""
    if circuit.neurons is not None:
        raise CircuitError(
            "The circuit is of neurons (of heads' z and MLPs' hidden layers), and other tools' files have no"
            " such neurons. Export one of edges or nodes."
        )
    if circuit.graph.roles:
        raise CircuitError(
            f"The circuit tells edges apart by position ({', '.join(circuit.graph.roles)}), and other tools'"
            " files hold edges of all positions. Export one found without --positions."
        )


def _width(circuit: Circuit) -> int | None:
    width = circuit.model.get("d_model")
    return width if isinstance(width, int) and width > 0 else None


def _scores_beside(
    circuit: Circuit,
    folder: Path | None,
    kept: Bool[np.ndarray, "receiver sender"],
    scores: Float[np.ndarray, "receiver sender"],
) -> Float[np.ndarray, "receiver sender"]:
    """The scores of all edges in a run's folder; NaN where there are none, or not those of this circuit."""
    unknown = np.full_like(scores, math.nan)
    file = None if folder is None else file_in(folder, SCORES_FILE)
    if file is None:
        return unknown
    try:
        known = read_scores(file, circuit.graph)
    except CircuitError:
        return unknown
    with np.errstate(over="ignore"):
        own = scores[kept].astype(np.float32) == known[kept].astype(np.float32)
    return np.where(edges_of(circuit.graph), known, math.nan) if own.all() else unknown
