"""Circuits to draw: random, but shaped like found ones."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import cache
from itertools import accumulate

import pytest

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Graph, Node, Receiver


@cache
def _grow(graph: Graph, n_edges: int, seed: int = 0) -> Circuit:
    """Paths from input to logits, some nodes far more used than others, scores over orders of magnitude."""
    rng = random.Random(seed)
    weights = list(
        accumulate(math.exp(rng.gauss(0, 1.3)) + 4 * (node.kind != "head") for node in graph.senders)
    )
    edges: dict[Edge, float] = {}
    while len(edges) < n_edges:
        receiver = Receiver(Node("logits"))
        while receiver is not None:
            n_readable = graph.n_readable(receiver)
            sender = rng.choices(graph.senders[:n_readable], cum_weights=weights[:n_readable])[0]
            edges[Edge(sender, receiver)] = math.exp(rng.gauss(-4, 1.5)) * (
                -1 if rng.random() < 0.15 else 1
            )
            receiver = rng.choice(graph.receivers_of(sender) or (None,))
    model = {
        "name": "random",
        "n_layers": graph.n_layers,
        "n_heads": graph.n_heads,
        "parallel_attn_mlp": graph.parallel,
    }
    return Circuit(graph, dict(list(edges.items())[:n_edges]), model, {"name": "ioi"}, {"name": "acdc"})


@pytest.fixture(scope="session")
def grow() -> Callable[..., Circuit]:
    """``grow(graph, n_edges, seed)`` makes a random circuit."""
    return _grow
