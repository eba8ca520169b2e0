"""The baselines that score nodes, literally: one prompt and one sender at a time, in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from circuitfind.circuits.graph import SLOTS, Node, Receiver
from circuitfind.prompts.batch import Batch
from tests.oracles.grouped import differentiable
from tests.oracles.literal import Literal, Outputs, ablated_outputs, run


def hisp(literal: Literal, batch: Batch, metric: str, ablation: str) -> Tensor:
    """Scores [prompt, receiver, sender]; NaN where the graph has no edge."""

    def importance(i: int, clean: Tensor, now: Outputs, ablated: Outputs) -> dict[Node, float]:
        answers = (batch.answers[i], batch.wrong_answers[i])
        gradients = output_gradients(
            literal, clean, lambda full, logits: differentiable(metric, full, logits, *answers)
        )
        return {node: abs(float(((ablated[node] - now[node]) * gradients[node]).sum())) for node in now}

    return of_nodes(literal, batch, ablation, importance)


def magnitude(literal: Literal, batch: Batch, ablation: str) -> Tensor:
    """Scores [prompt, receiver, sender]; NaN where the graph has no edge."""

    def size(i: int, clean: Tensor, now: Outputs, ablated: Outputs) -> dict[Node, float]:
        return {node: float((ablated[node] - now[node]).square().sum().sqrt()) for node in now}

    return of_nodes(literal, batch, ablation, size)


def of_nodes(
    literal: Literal,
    batch: Batch,
    ablation: str,
    value: Callable[[int, Tensor, Outputs, Outputs], dict[Node, float]],
) -> Tensor:
    """For each edge the lesser value of those of its ends that are heads or MLPs."""
    graph = literal.graph
    scores = torch.full(
        (batch.n_prompts, len(graph.receivers), len(graph.senders)), torch.nan, dtype=torch.float64
    )
    for i, end in enumerate(batch.end.tolist()):
        clean, corrupted = batch.clean[i, : end + 1], batch.corrupted[i, : end + 1]
        _, now = run(literal, clean, frozenset(graph.edges()), {})
        values = value(i, clean, now, ablated_outputs(literal, clean, corrupted, ablation))
        del values[Node("input")]
        for edge in graph.edges():
            ends = [values[node] for node in (edge.sender, edge.receiver.node) if node in values]
            scores[(i, *graph.order(edge))] = min(ends or [max(values.values())])
    return scores


def output_gradients(
    literal: Literal, clean: Tensor, measure: Callable[[Tensor, Tensor], Tensor]
) -> Outputs:
    """The gradient of one prompt's objective at what each sender writes: at a zero that is added to it."""
    graph, n_pos = literal.graph, len(clean)
    zeros = {
        node: torch.zeros(n_pos, literal.config.hidden_size, dtype=torch.float64, requires_grad=True)
        for node in graph.senders
    }
    written = {Node("input"): literal.embed(clean).detach() + zeros[Node("input")]}

    def read(receiver: Receiver) -> Tensor:
        readable = graph.senders[: graph.n_readable(receiver)]
        return literal.never_ablated(n_pos, receiver).detach() + sum(
            written[sender] for sender in readable
        )

    for node in graph.senders[1:]:
        if node.kind == "head":
            out = literal.head(node.layer, node.head, *(read(Receiver(node, slot)) for slot in SLOTS))
        else:
            out = literal.mlp(node.layer, read(Receiver(node)))
        written[node] = out + zeros[node]
    full, _ = run(literal, clean, frozenset(graph.edges()), {})
    value = measure(full, literal.logits(read(Receiver(Node("logits"))))[-1])
    return dict(zip(zeros, torch.autograd.grad(value, list(zeros.values())), strict=True))
