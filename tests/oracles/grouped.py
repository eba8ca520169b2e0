"""The grouped schedule, literally: every test a full masked forward of every prompt, every attribution by autograd
through a whole run of its own, one receiver's input at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from circuitfind.batch import Batch
from circuitfind.graph import SLOTS, Edge, Node, Receiver
from tests.oracles.literal import Literal, Outputs, ablated_outputs, run
from tests.oracles.metrics import objective

HOPELESS = 4.0


@dataclass
class Search:
    """``margin``: how near a decision came to falling otherwise: a test to the threshold, the attributions of two
    edges on the two sides of a cut to each other, those of a group to where it is halved without a test."""

    literal: Literal
    batch: Batch
    threshold: float
    metric: str
    ablation: str
    match: bool
    kept: set[Edge] = field(default_factory=set)
    scores: dict[Edge, float] = field(default_factory=dict)
    groups: list[tuple[Edge, ...]] = field(default_factory=list)
    rises: list[float] = field(default_factory=list)
    n_evaluated: int = 0
    margin: float = torch.inf

    def __post_init__(self) -> None:
        self.kept = set(self.literal.graph.edges())
        self.prompts = [
            (self.batch.clean[i, : end + 1], self.batch.corrupted[i, : end + 1], answers, wrong)
            for i, (end, answers, wrong) in enumerate(
                zip(self.batch.end.tolist(), self.batch.answers, self.batch.wrong_answers, strict=True)
            )
        ]
        self.ablated = [ablated_outputs(self.literal, c, x, self.ablation) for c, x, _, _ in self.prompts]
        self.full = [run(self.literal, clean, self.kept, {})[0] for clean, _, _, _ in self.prompts]

    def value(self, kept: set[Edge]) -> float:
        total = 0.0
        for (clean, _, right, wrong), ablated, full in zip(self.prompts, self.ablated, self.full, strict=True):
            number = objective(self.metric, full, run(self.literal, clean, kept, ablated)[0], right, wrong)
            target = objective(self.metric, full, full, right, wrong) if self.match else 0.0
            total += abs(number - target) if self.match else number
        return total / len(self.prompts)

    def search(self) -> Search:
        self.now = self.value(self.kept)
        for receivers in stages(self.literal.graph.n_layers, self.literal.graph.n_heads):
            live = [r for r in receivers if r.node.kind == "logits" or any(e.sender == r.node for e in self.kept)]
            self.kept -= {edge for edge in self.kept if edge.receiver in set(receivers) - set(live)}
            edges = [edge for edge in self.literal.graph.edges() if edge.receiver in live]
            if edges:
                attributions = self.attributions(edges)
                self.divide(sorted(edges, key=attributions.__getitem__), attributions)
        return self

    def divide(self, group: Sequence[Edge], attributions: dict[Edge, float]) -> None:
        predicted = sum(attributions[edge] for edge in group)
        if len(group) > 1:
            self.margin = min(self.margin, abs(predicted - HOPELESS * self.threshold))
        if len(group) == 1 or predicted <= HOPELESS * self.threshold:
            rise = self.value(self.kept - set(group)) - self.now
            self.margin = min(self.margin, abs(rise - self.threshold))
            self.n_evaluated += 1
            if len(group) == 1 or rise < self.threshold:
                self.settle(group, rise, attributions)
                return
        half = self.middle([abs(attributions[edge]) for edge in group])
        self.margin = min(self.margin, attributions[group[half]] - attributions[group[half - 1]])
        self.divide(group[:half], attributions)
        self.divide(group[half:], attributions)

    def middle(self, sizes: Sequence[float]) -> int:
        """How many edges, from the first on, have at most half of the sizes; neither none nor all."""
        half = 1
        while half < len(sizes) - 1 and sum(sizes[: half + 1]) <= sum(sizes) / 2:
            half += 1
        for n_edges in (half, half + 1):
            self.margin = min(self.margin, abs(sum(sizes[:n_edges]) - sum(sizes) / 2))
        return half

    def settle(self, group: Sequence[Edge], rise: float, attributions: dict[Edge, float]) -> None:
        if rise < self.threshold:
            self.kept -= set(group)
            self.now += rise
        self.groups.append(tuple(group))
        self.rises.append(rise)
        total = sum(abs(attributions[edge]) for edge in group)
        for edge in group:
            self.scores[edge] = rise * (abs(attributions[edge]) / total if total else 1 / len(group))

    def attributions(self, edges: Sequence[Edge]) -> dict[Edge, float]:
        """How the objective rises with the removed share of each edge, where half of every one of them is removed."""
        totals = dict.fromkeys(edges, 0.0)
        for (clean, _, right, wrong), ablated, full in zip(self.prompts, self.ablated, self.full, strict=True):
            shares = {edge: torch.tensor(0.5, dtype=torch.float64, requires_grad=True) for edge in edges}
            logits = blended(self.literal, clean, self.kept, ablated, shares)
            value = differentiable(self.metric, full, logits, right, wrong)
            if self.match:
                value = (value - differentiable(self.metric, full, full, right, wrong)).abs()
            slopes = torch.autograd.grad(value, list(shares.values()))
            for edge, slope in zip(edges, slopes, strict=True):
                totals[edge] += float(slope) / len(self.prompts)
        return totals


def blended(literal: Literal, tokens: Tensor, kept: set[Edge], ablated: Outputs, shares: dict[Edge, Tensor]) -> Tensor:
    """The logits when each edge of ``shares`` carries the sender's output only in part, the rest its ablated one."""
    written: Outputs = {Node("input"): literal.embed(tokens).detach()}

    def carry(edge: Edge) -> Tensor:
        now, gone = written[edge.sender], ablated[edge.sender]
        if edge in shares:
            return (1 - shares[edge]) * now + shares[edge] * gone
        return now if edge in kept else gone

    def read(receiver: Receiver) -> Tensor:
        total = literal.never_ablated(len(tokens), receiver)
        for sender in literal.graph.senders[: literal.graph.n_readable(receiver)]:
            total = total + carry(Edge(sender, receiver))
        return total

    for node in literal.graph.senders[1:]:
        if node.kind == "head":
            written[node] = literal.head(node.layer, node.head, *(read(Receiver(node, slot)) for slot in SLOTS))
        else:
            written[node] = literal.mlp(node.layer, read(Receiver(node)))
    return literal.logits(read(Receiver(Node("logits"))))[-1]


def differentiable(metric: str, full: Tensor, logits: Tensor, right: Sequence[int], wrong: Sequence[int]) -> Tensor:
    """``objective`` as a tensor."""
    if metric == "kl":
        return (full.softmax(-1) * (full.log_softmax(-1) - logits.log_softmax(-1))).sum()
    if metric == "logit-diff":
        return logits[list(wrong)].mean() - logits[list(right)].mean()
    q = logits.softmax(-1)
    return q[list(wrong)].sum() - q[list(right)].sum() if metric == "prob-diff" else -q[list(right)].sum().log()


def stages(n_layers: int, n_heads: int) -> list[list[Receiver]]:
    """The logits; then per layer from the last its MLP, then all inputs of its heads."""
    found = [[Receiver(Node("logits"))]]
    for layer in range(n_layers - 1, -1, -1):
        found.append([Receiver(Node("mlp", layer))])
        found.append([Receiver(Node("head", layer, head), slot) for slot in SLOTS for head in range(n_heads)])
    return found
