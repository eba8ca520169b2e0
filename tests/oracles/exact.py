"""Every edge ablated alone, literally: one prompt at a time, a whole forward pass of the model for each edge."""

from __future__ import annotations

import torch
from torch import Tensor

from circuitfind.prompts.batch import Batch
from tests.oracles.literal import Literal
from tests.oracles.state import State


def exact(literal: Literal, batch: Batch, metric: str, ablation: str) -> Tensor:
    """Scores [prompt, receiver, sender]; NaN where the graph has no edge."""
    graph = literal.graph
    state = State(literal, batch, 0.0, metric, ablation)
    full = state.values(state.kept)
    scores = torch.full(
        (batch.n_prompts, len(graph.receivers), len(graph.senders)), torch.nan, dtype=torch.float64
    )
    for edge in graph.edges():
        row, column = graph.order(edge)
        values = state.values(state.kept - {edge})
        scores[:, row, column] = torch.tensor(
            [a - b for a, b in zip(values, full, strict=True)], dtype=torch.float64
        )
    return scores
