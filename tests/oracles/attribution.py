"""Edge attribution, literally: float64 autograd on an explicit sum over senders, one prompt and one receiver at a time.

In every run each receiver reads the sum of what its senders write plus a zero of its own; the gradient at the receiver
is the gradient at that zero. Nothing is padded: a prompt ends at its answer.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from circuitfind.circuits.graph import SLOTS, Node, Receiver
from circuitfind.prompts.batch import Batch
from tests.oracles.grouped import differentiable
from tests.oracles.literal import Literal, Outputs, ablated_outputs, run

Gradients = dict[Receiver, Tensor]


def attribution(
    literal: Literal, batch: Batch, method: str, metric: str, ablation: str, steps: int = 5
) -> Tensor:
    """Scores [prompt, receiver, sender]; NaN where the graph has no edge."""
    graph = literal.graph
    scores = torch.full(
        (batch.n_prompts, len(graph.receivers), len(graph.senders)), torch.nan, dtype=torch.float64
    )
    for i, end in enumerate(batch.end.tolist()):
        clean, corrupted = batch.clean[i, : end + 1], batch.corrupted[i, : end + 1]
        ablated = ablated_outputs(literal, clean, corrupted, ablation)
        full, now = run(literal, clean, frozenset(graph.edges()), {})
        points = places(literal, method, steps, now, ablated)
        answers = (batch.answers[i], batch.wrong_answers[i])
        for fixed in points:
            gradients = gradients_at(literal, len(clean), fixed, metric, full, *answers)
            for edge in graph.edges():
                row, column = graph.order(edge)
                product = ((ablated[edge.sender] - now[edge.sender]) * gradients[edge.receiver]).sum()
                scores[i, row, column] = scores[i, row, column].nan_to_num(0) + product / len(points)
    return scores


def places(literal: Literal, method: str, steps: int, now: Outputs, ablated: Outputs) -> list[Outputs]:
    """Where a method takes gradients: for each run the outputs that are replaced, always that of the input."""
    source = Node("input")

    def between(nodes: Collection[Node], share: float) -> Outputs:
        replaced = {node: ablated[node] + share * (now[node] - ablated[node]) for node in nodes}
        return {source: now[source]} | replaced

    if method == "eap":
        return [between([], 1)]
    if method == "clean-corrupted":
        return [between([source], 1), between([source], 0)]
    if method == "eap-ig":
        return [between([source], k / steps) for k in range(steps)]
    groups = [[source]]
    for layer in range(literal.graph.n_layers):
        groups += [
            [Node("head", layer, head) for head in range(literal.graph.n_heads)],
            [Node("mlp", layer)],
        ]
    return [between(group, k / steps) for group in groups for k in range(1, steps + 1)]


def gradients_at(
    literal: Literal,
    n_pos: int,
    fixed: Outputs,
    metric: str,
    full: Tensor,
    right: Sequence[int],
    wrong: Sequence[int],
) -> Gradients:
    """The gradient of one prompt's objective at what each receiver reads, when some outputs are replaced."""
    graph = literal.graph
    zeros = {
        receiver: torch.zeros(n_pos, literal.config.hidden_size, dtype=torch.float64, requires_grad=True)
        for receiver in graph.receivers
    }
    written = {node: x.detach() for node, x in fixed.items()}

    def read(receiver: Receiver) -> Tensor:
        total = literal.never_ablated(n_pos, receiver).detach() + zeros[receiver]
        for sender in graph.senders[: graph.n_readable(receiver)]:
            total = total + written[sender]
        return total

    for node in graph.senders[1:]:
        if node not in fixed and node.kind == "head":
            written[node] = literal.head(
                node.layer, node.head, *(read(Receiver(node, slot)) for slot in SLOTS)
            )
        elif node not in fixed:
            written[node] = literal.mlp(node.layer, read(Receiver(node)))
    value = differentiable(metric, full, literal.logits(read(Receiver(Node("logits"))))[-1], right, wrong)
    return {
        receiver: torch.zeros_like(zero) if gradient is None else gradient
        for (receiver, zero), gradient in zip(
            zeros.items(),
            torch.autograd.grad(value, list(zeros.values()), allow_unused=True),
            strict=True,
        )
    }
