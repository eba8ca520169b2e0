"""Scores, or a circuit, against a reference circuit: is what should be found on top, and is it what was kept?

What was kept is told by precision, recall and Jaccard. What is on top is told by two numbers that
need no size: the area under the ROC curve (the probability that an edge of the reference, drawn at
random, has a higher score than one that is not; of equal scores half counts) and the average
precision (the mean, over the edges of the reference, of the share of reference edges among those
that score at least as high). Edges, over all of the graph, are ranked by |score| unless signed
scores are asked for. A node's score is the largest of those of the edges that leave it; nodes are
heads and MLPs, or heads alone where the reference names no others, and never the input or the
logits, which every circuit has. Of a circuit without scores for all edges those that it lacks count
as 0.

No torch here: scores are numpy arrays.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.compare import Overlap, check_same_graph, describe_shape, overlap
from circuitfind.circuits.graph import Graph, Node
from circuitfind.errors import CircuitError
from circuitfind.files.tensor_file import names_in, read_metadata, read_tensors

Order = Literal["absolute", "signed"]
Kind = Literal["head", "mlp"]
KINDS: tuple[Kind, ...] = ("head", "mlp")
Scores = Float[np.ndarray, "receiver sender"]
SCORES_FILE = "scores.safetensors"


@dataclass(frozen=True)
class Ranking:
    """How far the ``n_positive`` of the reference stand above the ``n_negative`` others.

    ``auc`` and ``average_precision`` are None where there is none of either.
    """

    n_positive: int
    n_negative: int
    auc: float | None
    average_precision: float | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "positive": self.n_positive,
            "negative": self.n_negative,
            "auc": self.auc,
            "average_precision": self.average_precision,
        }


@dataclass(frozen=True)
class Agreement:
    """What a circuit has in common with a reference, and how well scores tell the reference's edges
    and nodes.

    In each Overlap the reference stands before, the circuit after: so precision is the share of the
    circuit that the reference has, recall the share of the reference that the circuit has. Edges
    are None where the reference has none.
    """

    order: Order
    nodes: Overlap
    node_ranking: Ranking
    edges: Overlap | None = None
    edge_ranking: Ranking | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "order": self.order,
            "nodes": _block(self.nodes, self.node_ranking),
            "edges": None
            if self.edges is None or self.edge_ranking is None
            else _block(self.edges, self.edge_ranking),
        }


def _block(common: Overlap, ranking: Ranking) -> dict[str, Any]:
    return {
        "reference": common.n_before,
        "circuit": common.n_after,
        "common": common.n_common,
        "precision": common.precision,
        "recall": common.recall,
        "jaccard": common.jaccard,
        "auc": ranking.auc,
        "average_precision": ranking.average_precision,
        "negative": ranking.n_negative,
    }


def agree_with_circuit(
    circuit: Circuit, reference: Circuit, scores: Scores | None = None, order: Order = "absolute"
) -> Agreement:
    """The circuit against a reference of which the edges are known.

    ``scores``: those the ranking is of; without them the circuit's own. Raises CircuitError for
    graphs of different shapes and for scores that are no finite numbers.
    """
    check_same_graph(circuit.graph, "the reference", reference.graph)
    nodes = agree_with_nodes(circuit, reference.nodes, scores, order)
    size = _sizes(circuit, scores, order)
    edges = edges_of(circuit.graph)
    positive = scores_of(reference, 1.0) > 0
    ranking = rank(size[edges], positive[edges])
    return Agreement(
        order, nodes.nodes, nodes.node_ranking, overlap(reference.edges, circuit.edges), ranking
    )


def agree_with_nodes(
    circuit: Circuit,
    reference: Collection[Node],
    scores: Scores | None = None,
    order: Order = "absolute",
    kinds: Collection[Kind] = KINDS,
) -> Agreement:
    """The circuit against a reference of which the nodes of these ``kinds`` are known. Raises as above."""
    graph = circuit.graph
    size = _sizes(circuit, scores, order)
    universe = [node for node in graph.senders if node.kind in kinds]
    wanted, found = (
        [node for node in universe if node in nodes] for nodes in (set(reference), set(circuit.nodes))
    )
    heights = np.where(edges_of(graph), size, -np.inf).max(0)
    of_nodes = heights[[graph.sender_index[node] for node in universe]]
    ranking = rank(of_nodes, np.array([node in set(wanted) for node in universe], bool))
    return Agreement(order, overlap(wanted, found), ranking)


def rank(scores: Float[np.ndarray, " item"], positive: Bool[np.ndarray, " item"]) -> Ranking:
    """How far the positive items stand above the others, by their scores."""
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not (n_positive and n_negative):
        return Ranking(n_positive, n_negative, None, None)
    above = rankdata(scores)[positive].sum() - n_positive * (n_positive + 1) / 2  # Mann and Whitney's U
    at_least = partial(rankdata, method="max")  # of -scores: how many score at least as high
    precision = at_least(-scores[positive]) / at_least(-scores)[positive]
    return Ranking(
        n_positive,
        n_negative,
        float(above / (n_positive * n_negative)),
        math.fsum(precision) / n_positive,
    )


def edges_of(graph: Graph) -> Bool[np.ndarray, "receiver sender"]:
    """Where the graph has an edge."""
    counts = np.array(graph.n_readable_each)
    return np.arange(len(graph.senders)) < counts[:, None]


def scores_of(circuit: Circuit, value: float | None = None) -> Scores:
    """The circuit's scores (or one ``value`` for each), 0 at the edges that it lacks."""
    graph = circuit.graph
    scores = np.zeros((len(graph.receivers), len(graph.senders)))
    for place, score in circuit.places():
        scores[place] = score if value is None else value
    return scores


def _sizes(circuit: Circuit, scores: Scores | None, order: Order) -> Scores:
    """What edges are ranked by. Raises CircuitError for a score that is no finite number."""
    given = scores_of(circuit) if scores is None else scores.astype(np.float64)
    n_wrong = int((edges_of(circuit.graph) & ~np.isfinite(given)).sum())
    if n_wrong:
        raise CircuitError(
            f"{n_wrong:,} scores are no finite numbers. Leave the scores out, or find them again."
        )
    return np.abs(given) if order == "absolute" else given


def read_scores(path: Path, graph: Graph) -> Scores:
    """The scores in a scores.safetensors, float64. Raises CircuitError for a file that is none or
    of another graph.
    """
    try:
        if not is_of(graph, read_metadata(path), path):
            raise CircuitError(f"{path}: its scores are of another graph than {describe_shape(graph)}.")
        return read_tensors(path, {"scores": (len(graph.receivers), len(graph.senders))})["scores"]
    except CircuitError as error:
        raise CircuitError(f"{error}\nGive the run's folder, with its {SCORES_FILE}.") from None


def is_of(graph: Graph, metadata: Mapping[str, str], path: Path) -> bool:
    """Whether a file's rows and columns are the graph's receivers and senders. Raises CircuitError."""
    names = [names_in(metadata, side, path) for side in ("receivers", "senders")]
    return names == [[str(node) for node in nodes] for nodes in (graph.receivers, graph.senders)]
