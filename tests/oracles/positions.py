"""A transformer whose edges are ablated at the positions of a role alone: one prompt, one sum over senders at a time.

Shares nothing with circuitfind but the names of nodes and edges: a receiver reads, position by position, what the edges
at that position's role bring.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from circuitfind.circuits.graph import SLOTS, Edge, Graph, Node, Receiver, Slot
from circuitfind.prompts.batch import Batch
from tests.oracles.atp import AtPatterns, effect, gradients_without
from tests.oracles.literal import Literal, Outputs, ablated_outputs
from tests.oracles.literal import run as run_everywhere
from tests.oracles.metrics import objective


def role_graph(literal: Literal, batch: Batch) -> Graph:
    assert batch.roles is not None
    return Graph(literal.graph.n_layers, literal.graph.n_heads, literal.graph.parallel, batch.roles.names)


def roles_of(batch: Batch, prompt: int) -> list[str]:
    """The role of each of a prompt's positions."""
    assert batch.roles is not None
    return [batch.roles.names[number] for number in batch.roles.of[prompt].tolist() if number >= 0]


@torch.no_grad()
def run(
    literal: Literal, tokens: Tensor, roles: Sequence[str], kept: Collection[Edge], ablated: Outputs
) -> Tensor:
    """Logits at one prompt's last position when only ``kept`` edges carry the run."""
    written: Outputs = {Node("input"): literal.embed(tokens)}

    def read(node: Node, slot: Slot | None) -> Tensor:
        total = literal.never_ablated(len(tokens), Receiver(node, slot))
        for sender in literal.graph.senders[: literal.graph.n_readable(Receiver(node, slot))]:
            is_kept = {
                role: Edge(sender, Receiver(node, slot, None if node.kind == "logits" else role)) in kept
                for role in set(roles)
            }
            here = torch.tensor([is_kept[role] for role in roles]).unsqueeze(1)
            total = total + torch.where(here, written[sender], ablated[sender])
        return total

    for node in literal.graph.senders[1:]:
        if node.kind == "head":
            written[node] = literal.head(node.layer, node.head, *(read(node, slot) for slot in SLOTS))
        else:
            written[node] = literal.mlp(node.layer, read(node, None))
    return literal.logits(read(Node("logits"), None))[-1]


class Prompts:
    """The objective of all prompts under any set of edges."""

    def __init__(
        self, literal: Literal, batch: Batch, metric: str, ablation: str, match: bool = False
    ) -> None:
        self.literal, self.metric, self.match = literal, metric, match
        self.prompts = []
        everything = frozenset(literal.graph.edges())
        for i, end in enumerate(batch.end.tolist()):
            clean, corrupted = batch.clean[i, : end + 1], batch.corrupted[i, : end + 1]
            ablated = ablated_outputs(literal, clean, corrupted, ablation)
            full = run_everywhere(literal, clean, everything, {})[0]
            self.prompts.append(
                (clean, roles_of(batch, i), ablated, full, batch.answers[i], batch.wrong_answers[i])
            )

    def logits(self, kept: Collection[Edge]) -> list[Tensor]:
        return [
            run(self.literal, clean, roles, kept, ablated) for clean, roles, ablated, *_ in self.prompts
        ]

    def values(self, kept: Collection[Edge]) -> list[float]:
        numbers = []
        for logits, (_, _, _, full, right, wrong) in zip(self.logits(kept), self.prompts, strict=True):
            number = objective(self.metric, full, logits, right, wrong)
            target = objective(self.metric, full, full, right, wrong) if self.match else 0.0
            numbers.append(abs(number - target) if self.match else number)
        return numbers


def exact(literal: Literal, batch: Batch, metric: str, ablation: str) -> Tensor:
    """Every edge ablated alone at its role: scores [prompt, receiver, sender]; NaN where the graph has no edge."""
    graph, prompts = role_graph(literal, batch), Prompts(literal, batch, metric, ablation)
    everything = set(graph.edges())
    full = prompts.values(everything)
    scores = torch.full(
        (batch.n_prompts, len(graph.receivers), len(graph.senders)), torch.nan, dtype=torch.float64
    )
    for edge in graph.edges():
        values = prompts.values(everything - {edge})
        scores[(slice(None), *graph.order(edge))] = torch.tensor(
            values, dtype=torch.float64
        ) - torch.tensor(full, dtype=torch.float64)
    return scores


@dataclass(frozen=True)
class Outcome:
    """The kept edges and every tested one's score; ``margin`` is the closest that a score came to the threshold."""

    kept: frozenset[Edge]
    scores: dict[Edge, float]
    margin: float


def acdc(
    literal: Literal, batch: Batch, threshold: float, metric: str, ablation: str, match: bool = False
) -> Outcome:
    """The published algorithm, receivers at each role from the last role to the first."""
    graph, prompts = role_graph(literal, batch), Prompts(literal, batch, metric, ablation, match)
    kept = set(graph.edges())

    def value() -> float:
        return sum(prompts.values(kept)) / batch.n_prompts

    now, scores, margin = value(), {}, torch.inf
    for receiver in order(graph):
        dead = not is_live(receiver, kept)
        for sender in reversed(graph.senders[: graph.n_readable(receiver)]):
            edge = Edge(sender, receiver)
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
    return Outcome(frozenset(kept), scores, margin)


def is_live(receiver: Receiver, kept: Collection[Edge]) -> bool:
    """Whether what is made of this input is read: at the same role, or for k and v at any."""
    if receiver.node.kind == "logits":
        return True
    read_at = [
        "END" if edge.receiver.node.kind == "logits" else edge.receiver.role
        for edge in kept
        if edge.sender == receiver.node
    ]
    return bool(read_at) if receiver.slot in ("k", "v") else receiver.role in read_at


def order(graph: Graph) -> list[Receiver]:
    """Logits, then per layer from the last: MLP, all v, all k, all q, heads from last to first; each from END back."""
    receivers, backwards = [Receiver(Node("logits"))], list(reversed(graph.roles))
    for layer in range(graph.n_layers - 1, -1, -1):
        receivers += [Receiver(Node("mlp", layer), None, role) for role in backwards]
        for slot in reversed(SLOTS):
            for head in range(graph.n_heads - 1, -1, -1):
                receivers += [Receiver(Node("head", layer, head), slot, role) for role in backwards]
    return receivers


def prune(graph: Graph, chosen: Collection[Edge]) -> set[Edge]:
    """The edges on a path from the input to the logits, walking over nodes at roles from both ends."""
    last = graph.roles[-1]

    def enters(edge: Edge) -> list[tuple[Node, str]]:
        receiver = edge.receiver
        if receiver.node.kind == "logits":
            return [(receiver.node, last)]
        assert receiver.role is not None
        return [
            (receiver.node, role)
            for role in (graph.roles if receiver.slot in ("k", "v") else (receiver.role,))
        ]

    def leaves(edge: Edge) -> tuple[Node, str]:
        return edge.sender, edge.receiver.role or last

    fed, heard = {(Node("input"), role) for role in graph.roles}, {(Node("logits"), last)}
    for _ in range(2 * graph.n_layers + 2):
        fed |= {site for edge in chosen if leaves(edge) in fed for site in enters(edge)}
        heard |= {leaves(edge) for edge in chosen if any(site in heard for site in enters(edge))}
    return {
        edge for edge in chosen if leaves(edge) in fed and any(site in heard for site in enters(edge))
    }


def atp(model: object, batch: Batch, metric: str, ablation: str, grad_drop: bool) -> Tensor:
    """AtP* at roles: an edge's change is taken at the positions of its role alone, everything else as it is there."""
    literal = AtPatterns(model)
    graph = role_graph(literal, batch)
    scores = torch.full(
        (batch.n_prompts, len(graph.receivers), len(graph.senders)), torch.nan, dtype=torch.float64
    )
    for i, end in enumerate(batch.end.tolist()):
        clean, corrupted = batch.clean[i, : end + 1], batch.corrupted[i, : end + 1]
        literal.added = {
            node: torch.zeros(end + 1, end + 1, dtype=torch.float64) for node in graph.senders
        }
        ablated = ablated_outputs(literal, clean, corrupted, ablation)
        full, now = run_everywhere(literal, clean, frozenset(literal.graph.edges()), {})
        passes = {
            dropped: gradients_without(literal, now, dropped, metric, full, batch, i)
            for dropped in (range(graph.n_layers) if grad_drop else [None])
        }
        for edge in graph.edges():
            role = edge.receiver.role or graph.roles[-1]
            here = torch.tensor([own == role for own in roles_of(batch, i)]).unsqueeze(1)
            partly = ablated | {edge.sender: torch.where(here, ablated[edge.sender], now[edge.sender])}
            effects = [
                effect(literal, Edge(edge.sender, edge.receiver.base), now, partly, gradients, True)
                for dropped, gradients in passes.items()
                if dropped is None or dropped != edge.receiver.node.layer
            ]
            value = sum(map(abs, effects)) / len(effects) if grad_drop else effects[0]
            scores[(i, *graph.order(edge))] = value
    return scores
