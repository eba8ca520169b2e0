"""The grouped schedule, literally: every test a full masked forward of every prompt, every attribution by autograd
through a whole run of its own, one receiver's input at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch
from torch import Tensor

from circuitfind.circuits.graph import SLOTS, Edge, Node, Receiver
from tests.oracles.literal import Literal, Outputs
from tests.oracles.state import State

HOPELESS = 4.0


@dataclass
class Search(State):
    """``margin`` is that of a test to the threshold, of the attributions of two edges on the two sides of a cut to each
    other, of those of a group to where it is halved without a test."""

    groups: list[tuple[Edge, ...]] = field(default_factory=list)
    rises: list[float] = field(default_factory=list)
    n_evaluated: int = 0

    def value(self, kept: set[Edge]) -> float:
        return fmean(self.values(kept))

    def search(self) -> Search:
        self.now = self.value(self.kept)
        for receivers in stages(self.literal.graph.n_layers, self.literal.graph.n_heads):
            live = [
                r
                for r in receivers
                if r.node.kind == "logits" or any(e.sender == r.node for e in self.kept)
            ]
            self.kept -= {edge for edge in self.kept if edge.receiver in set(receivers) - set(live)}
            edges = [
                edge for edge in self.literal.graph.edges() if edge.receiver in live and edge in self.kept
            ]
            if edges:
                attributions = self.attributions(edges)
                self.divide(sorted(edges, key=attributions.__getitem__), attributions)
        return self

    def divide(
        self, group: Sequence[Edge], attributions: dict[Edge, float], is_known: bool = False
    ) -> None:
        """``is_known``: the run without this group was made before, so it counts only if it is accepted."""
        predicted = sum(attributions[edge] for edge in group)
        if len(group) > 1 and not is_known:
            self.margin = min(self.margin, abs(predicted - HOPELESS * self.threshold))
        is_looked_at = is_known or len(group) == 1 or predicted <= HOPELESS * self.threshold
        if is_looked_at:
            rise = self.value(self.kept - set(group)) - self.now
            self.margin = min(self.margin, abs(rise - self.threshold))
            self.n_evaluated += not is_known or rise < self.threshold
            if len(group) == 1 or rise < self.threshold:
                self.settle(group, rise, attributions)
                return
        half = self.middle([abs(attributions[edge]) for edge in group])
        self.margin = min(self.margin, attributions[group[half]] - attributions[group[half - 1]])
        self.divide(group[:half], attributions)
        self.divide(group[half:], attributions, is_looked_at and self.kept.isdisjoint(group[:half]))

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
        for (clean, _, right, wrong), ablated, full in zip(
            self.prompts, self.ablated, self.full, strict=True
        ):
            shares = {edge: torch.tensor(0.5, dtype=torch.float64, requires_grad=True) for edge in edges}
            logits = blended(self.literal, clean, self.kept, ablated, shares)
            value = differentiable(self.metric, full, logits, right, wrong)
            if self.match:
                value = (value - differentiable(self.metric, full, full, right, wrong)).abs()
            slopes = torch.autograd.grad(value, list(shares.values()))
            for edge, slope in zip(edges, slopes, strict=True):
                totals[edge] += float(slope) / len(self.prompts)
        return totals


def blended(
    literal: Literal, tokens: Tensor, kept: set[Edge], ablated: Outputs, shares: dict[Edge, Tensor]
) -> Tensor:
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
            written[node] = literal.head(
                node.layer, node.head, *(read(Receiver(node, slot)) for slot in SLOTS)
            )
        else:
            written[node] = literal.mlp(node.layer, read(Receiver(node)))
    return literal.logits(read(Receiver(Node("logits"))))[-1]


def differentiable(
    metric: str, full: Tensor, logits: Tensor, right: Sequence[int], wrong: Sequence[int]
) -> Tensor:
    """``objective`` as a tensor."""
    if metric == "kl":
        return (full.softmax(-1) * (full.log_softmax(-1) - logits.log_softmax(-1))).sum()
    if metric == "logit-diff":
        return logits[list(wrong)].mean() - logits[list(right)].mean()
    if metric == "best-margin":
        return (
            logits[[t for t in range(len(logits)) if t not in right]].amax() - logits[list(right)].amax()
        )
    if metric == "agreement":
        return -(full.softmax(-1) * logits.log_softmax(-1)).sum()
    q = logits.softmax(-1)
    return (
        q[list(wrong)].sum() - q[list(right)].sum()
        if metric == "prob-diff"
        else -q[list(right)].sum().log()
    )


def stages(n_layers: int, n_heads: int) -> list[list[Receiver]]:
    """The logits; then per layer from the last its MLP, then all inputs of its heads."""
    found = [[Receiver(Node("logits"))]]
    for layer in range(n_layers - 1, -1, -1):
        found.append([Receiver(Node("mlp", layer))])
        found.append(
            [Receiver(Node("head", layer, head), slot) for slot in SLOTS for head in range(n_heads)]
        )
    return found
