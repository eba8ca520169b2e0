"""AtP*, literally: one prompt, one edge and one dropped layer at a time, in float64.

The gradient at an attention pattern, as at a receiver, is that at a zero which is added there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from circuitfind.circuits.graph import SLOTS, Edge, Node, Receiver
from circuitfind.prompts.batch import Batch
from tests.oracles.altered import Altered
from tests.oracles.grouped import differentiable
from tests.oracles.literal import Outputs, ablated_outputs, run

Gradients = dict[Receiver | Node, Tensor]
"""At what each receiver reads, and at each head's pattern."""


class AtPatterns(Altered):
    """Adds something to each head's pattern."""

    added: dict[Node, Tensor]

    def pattern(self, layer: int, head: int, x_q: Tensor, x_k: Tensor) -> Tensor:
        return super().pattern(layer, head, x_q, x_k) + self.added[Node("head", layer, head)]


def atp(
    model: object,
    batch: Batch,
    metric: str,
    ablation: str,
    qk_fix: bool,
    grad_drop: bool,
    units: Sequence[tuple[Edge, ...]] = (),
    of_senders: bool = False,
) -> Tensor:
    """Scores [prompt, receiver, sender]; NaN where the graph has no edge.

    ``units``: edges that are scored together, each by itself where there are none. The pass that drops their receivers'
    layer doesn't count, or, ``of_senders``, their sender's.
    """
    literal = AtPatterns(model)
    graph = literal.graph
    scores = torch.full(
        (batch.n_prompts, len(graph.receivers), len(graph.senders)), torch.nan, dtype=torch.float64
    )
    for i, end in enumerate(batch.end.tolist()):
        clean, corrupted = batch.clean[i, : end + 1], batch.corrupted[i, : end + 1]
        literal.added = {
            node: torch.zeros(end + 1, end + 1, dtype=torch.float64) for node in graph.senders
        }
        ablated = ablated_outputs(literal, clean, corrupted, ablation)
        full, now = run(literal, clean, frozenset(graph.edges()), {})
        passes: dict[int | None, Gradients] = {
            dropped: gradients_without(literal, now, dropped, metric, full, batch, i)
            for dropped in (range(graph.n_layers) if grad_drop else [None])
        }
        for unit in units or [(edge,) for edge in graph.edges()]:
            own = unit[0].sender.layer if of_senders else unit[0].receiver.node.layer
            effects = [
                sum(effect(literal, edge, now, ablated, gradients, qk_fix) for edge in unit)
                for dropped, gradients in passes.items()
                if dropped is None or dropped != own
            ]
            for edge in unit:
                row, column = graph.order(edge)
                scores[i, row, column] = (
                    sum(map(abs, effects)) / len(effects) if grad_drop else effects[0]
                )
    return scores


@torch.no_grad()
def effect(
    literal: AtPatterns, edge: Edge, now: Outputs, ablated: Outputs, gradients: Gradients, qk_fix: bool
) -> float:
    change, receiver = ablated[edge.sender] - now[edge.sender], edge.receiver
    if not qk_fix or receiver.slot not in ("q", "k"):
        return float((change * gradients[receiver]).sum())
    clean = literal.never_ablated(len(change), receiver)
    for sender in literal.graph.senders[: literal.graph.n_readable(receiver)]:
        clean = clean + now[sender]
    moved = {"q": (clean + change, clean), "k": (clean, clean + change)}[receiver.slot]
    node = receiver.node
    gained = literal.pattern(node.layer, node.head, *moved) - literal.pattern(
        node.layer, node.head, clean, clean
    )
    return float((gained * gradients[node]).sum())


def gradients_without(
    literal: AtPatterns,
    now: Outputs,
    dropped: int | None,
    metric: str,
    full: Tensor,
    batch: Batch,
    i: int,
) -> Gradients:
    """The gradients of one prompt's objective in the clean run when none goes back through what a layer writes."""
    graph, source = literal.graph, Node("input")
    n_pos, d_model = now[source].shape
    sizes: dict[Receiver | Node, tuple[int, int]] = dict.fromkeys(graph.receivers, (n_pos, d_model))
    sizes |= {node: (n_pos, n_pos) for node in graph.senders if node.kind == "head"}
    zeros = {
        place: torch.zeros(size, dtype=torch.float64, requires_grad=True) for place, size in sizes.items()
    }
    literal.added = {node: zeros[node] for node in graph.senders if node.kind == "head"}
    written = {source: now[source]}

    def read(receiver: Receiver) -> Tensor:
        total = literal.never_ablated(n_pos, receiver).detach() + zeros[receiver]
        for sender in graph.senders[: graph.n_readable(receiver)]:
            total = total + written[sender]
        return total

    for node in graph.senders[1:]:
        if node.kind == "head":
            out = literal.head(node.layer, node.head, *(read(Receiver(node, slot)) for slot in SLOTS))
        else:
            out = literal.mlp(node.layer, read(Receiver(node)))
        written[node] = out.detach() if node.layer == dropped else out
    logits = literal.logits(read(Receiver(Node("logits"))))[-1]
    value = differentiable(metric, full, logits, batch.answers[i], batch.wrong_answers[i])
    found = torch.autograd.grad(value, list(zeros.values()), allow_unused=True)
    return {
        place: torch.zeros_like(zero) if gradient is None else gradient
        for (place, zero), gradient in zip(zeros.items(), found, strict=True)
    }
