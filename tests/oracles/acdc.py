"""ACDC, literally: every test is a full masked forward of every prompt (arXiv:2304.14997)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch

from circuitfind.circuits.graph import Edge, Node, Receiver
from circuitfind.prompts.batch import Batch
from tests.oracles.literal import Literal, ablated_outputs, run
from tests.oracles.metrics import objective


@dataclass(frozen=True)
class Outcome:
    """The kept edges and every tested one's score; ``margin`` is the closest that a score came to the threshold."""

    kept: frozenset[Edge]
    scores: dict[Edge, float]
    margin: float
    value: float


def acdc(
    literal: Literal,
    batch: Batch,
    threshold: float,
    metric: str,
    ablation: str,
    match: bool = False,
    start: Collection[Edge] | None = None,
) -> Outcome:
    """The published algorithm over prompts of any length, one at a time. ``start``: the only edges that are there."""
    prompts = [
        (
            batch.clean[i, : end + 1],
            batch.corrupted[i, : end + 1],
            batch.answers[i],
            batch.wrong_answers[i],
        )
        for i, end in enumerate(batch.end.tolist())
    ]
    ablated = [ablated_outputs(literal, clean, corrupted, ablation) for clean, corrupted, _, _ in prompts]
    graph = literal.graph
    full = [run(literal, clean, set(graph.edges()), {})[0] for clean, _, _, _ in prompts]
    kept = set(graph.edges() if start is None else start)

    def value() -> float:
        total = 0.0
        for (clean, _, right, wrong), outputs, reference in zip(prompts, ablated, full, strict=True):
            logits, _ = run(literal, clean, kept, outputs)
            number = objective(metric, reference, logits, right, wrong)
            target = objective(metric, reference, reference, right, wrong) if match else 0.0
            total += abs(number - target) if match else number
        return total / len(prompts)

    now, scores, margin = value(), {}, torch.inf
    for receiver in order(graph.n_layers, graph.n_heads):
        node = receiver.node
        dead = node.kind != "logits" and not any(edge.sender == node for edge in kept)
        for sender in reversed(graph.senders[: graph.n_readable(receiver)]):
            edge = Edge(sender, receiver)
            if edge not in kept:
                continue
            kept.discard(edge)
            if dead:
                continue
            after = value()
            scores[edge] = after - now
            margin = min(margin, abs(after - now - threshold))
            if after - now < threshold:
                now = after
            else:
                kept.add(edge)
    return Outcome(frozenset(kept), scores, margin, now)


def order(n_layers: int, n_heads: int) -> list[Receiver]:
    """Logits, then per layer from the last: MLP, all v, all k, all q, heads from last to first."""
    receivers = [Receiver(Node("logits"))]
    for layer in range(n_layers - 1, -1, -1):
        receivers.append(Receiver(Node("mlp", layer)))
        for slot in ("v", "k", "q"):
            receivers += [
                Receiver(Node("head", layer, head), slot) for head in range(n_heads - 1, -1, -1)
            ]
    return receivers
