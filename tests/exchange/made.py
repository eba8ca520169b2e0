"""Edges to write and to read: drawn at random, in float32 as other tools have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Graph
from circuitfind.evaluation.reference import edges_of
from circuitfind.exchange.edges import ScoredEdges, kept_edges

FIXTURES = Path(__file__).parent / "fixtures"
GRAPHS = st.builds(Graph, st.integers(1, 3), st.integers(1, 3), st.booleans())


def draw_edges(graph: Graph, seed: int = 0, by_node: bool = False) -> ScoredEdges:
    """Every edge with a score, a third of them kept."""
    rng = np.random.default_rng(seed)
    real = edges_of(graph)
    scores = rng.normal(size=real.shape).astype(np.float32).astype(np.float64)
    scores = np.broadcast_to(scores[-1], real.shape) if by_node else scores
    kept = real & (rng.random(real.shape) < 1 / 3)
    return ScoredEdges(graph, kept, np.where(real, scores, np.nan), by_node, d_model=8)


def same(one: ScoredEdges, other: ScoredEdges) -> bool:
    """Whether they say the same of every edge."""
    blocks = [(e.graph, e.by_node, e.d_model) for e in (one, other)]
    return blocks[0] == blocks[1] and bool((one.kept == other.kept).all()) and same_scores(one, other)


def same_scores(one: ScoredEdges, other: ScoredEdges) -> bool:
    return np.array_equal(one.scores, other.scores, equal_nan=True)


def circuit_of(edges: ScoredEdges, **method: Any) -> Circuit:
    """The circuit of the kept edges, as a run would leave it."""
    graph = edges.graph
    model = {
        "name": "drawn",
        "n_layers": graph.n_layers,
        "n_heads": graph.n_heads,
        "d_model": edges.d_model,
        "parallel_attn_mlp": graph.parallel,
    }
    return Circuit(graph, dict(kept_edges(edges)), model, {"name": "ioi"}, {"name": "eap", **method})
