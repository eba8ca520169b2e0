"""Information flow routes, literally: one prompt, receiver, position and source at a time, in float64."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

from circuitfind.circuits.graph import SLOTS, Node, Receiver
from circuitfind.prompts.batch import Batch
from tests.oracles.literal import Literal, run


def ifr(literal: Literal, batch: Batch, inputs: str) -> Tensor:
    """Scores [prompt, receiver, sender]; NaN where the graph has no edge."""
    graph = literal.graph
    scores = torch.full(
        (batch.n_prompts, len(graph.receivers), len(graph.senders)), torch.nan, dtype=torch.float64
    )
    for i, end in enumerate(batch.end.tolist()):
        for (receiver, sender), flowed in flows(literal, batch.clean[i, : end + 1], inputs).items():
            scores[i, graph.receiver_index[receiver], graph.sender_index[sender]] = flowed
    return scores


@torch.no_grad()
def flows(literal: Literal, tokens: Tensor, inputs: str) -> dict[tuple[Receiver, Node], float]:
    """What flows along every edge on one prompt."""
    graph, n_pos = literal.graph, len(tokens)
    _, written = run(literal, tokens, frozenset(graph.edges()), {})
    importance: dict[tuple[Node, int], float] = defaultdict(float)
    flowed: dict[tuple[Receiver, Node], float] = defaultdict(float)

    def stream(receiver: Receiver) -> Tensor:
        readable = graph.senders[: graph.n_readable(receiver)]
        return literal.never_ablated(n_pos, receiver) + sum(written[sender] for sender in readable)

    def hand_down(receiver: Receiver, pos: int, amount: float) -> None:
        readable = graph.senders[: graph.n_readable(receiver)]
        whole = stream(receiver)[pos]
        for sender, share in zip(
            readable, shares([written[s][pos] for s in readable], whole), strict=True
        ):
            flowed[receiver, sender] += amount * share
            importance[sender, pos] += amount * share

    hand_down(Receiver(Node("logits")), n_pos - 1, 1.0)
    for node in reversed(graph.senders[1:]):
        for pos in range(n_pos):
            amount = importance[node, pos]
            if node.kind == "mlp":
                hand_down(Receiver(node), pos, amount)
                continue
            terms = source_terms(literal, node, stream(Receiver(node, "q")), pos)
            for slot in SLOTS:
                part = amount / 3 if inputs == "qkv" else amount * (slot == "v")
                if slot == "q":
                    hand_down(Receiver(node, slot), pos, part)
                    continue
                for source, share in enumerate(shares(terms, written[node][pos])):
                    hand_down(Receiver(node, slot), source, part * share)
    return flowed


def source_terms(literal: Literal, node: Node, stream: Tensor, pos: int) -> list[Tensor]:
    """What a head writes at a position because of each position that it looks at."""
    block, head = literal.blocks[node.layer], node.head
    q, k, v = (literal._project(block, slot, head, stream) for slot in SLOTS)
    if literal.config.model_type != "gpt2":
        q, k = literal._rotate(q, k, len(stream))
    pattern = (q[pos] @ k[: pos + 1].T / literal.d_head**0.5).softmax(-1)
    weight = literal._output(block).weight
    rows = slice(head * literal.d_head, (head + 1) * literal.d_head)
    W_O = weight[rows] if literal.config.model_type == "gpt2" else weight[:, rows].T
    return [pattern[source] * v[source] @ W_O for source in range(pos + 1)]


def shares(parts: Iterable[Tensor], whole: Tensor) -> list[float]:
    """Shares by proximity in the 1-norm; all alike where none is near."""
    near = [max(0.0, float(whole.abs().sum() - (part - whole).abs().sum())) for part in parts]
    return [x / sum(near) if sum(near) else 1 / len(near) for x in near]
