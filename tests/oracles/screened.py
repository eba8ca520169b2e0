"""The screened schedule, literally: every look a full masked forward of every prompt, every slope by autograd through a
whole run of its own, in the share of each edge that is removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

import torch

from circuitfind.graph import Edge
from tests.oracles.acdc import order
from tests.oracles.grouped import blended, differentiable
from tests.oracles.state import State

EXACT = 1e-15
"""Sums of the least size that an edge can have are the same to the last bit wherever they are taken."""


@dataclass
class Screened(State):
    """``n_looks``: how many runs were computed; ``n_together``: how many edges went without a test of their own."""

    n_looks: int = 0
    n_together: int = 0

    def less(self, a: float, b: float) -> bool:
        if abs(a - b) > EXACT:
            self.margin = min(self.margin, abs(a - b))
        return a < b

    def slopes(self, kept: set[Edge], edges: Sequence[Edge]) -> list[list[float]]:
        """For each edge, by how much each prompt's objective rises as it goes, to first order."""
        columns = []
        for (clean, _, right, wrong), ablated, full in zip(self.prompts, self.ablated, self.full, strict=True):
            gone = {edge: torch.tensor(float(edge not in kept), dtype=torch.float64) for edge in edges}
            shares = {edge: share.requires_grad_() for edge, share in gone.items()}
            value = differentiable(self.metric, full, blended(self.literal, clean, kept, ablated, shares), right, wrong)
            if self.match:
                value = (value - differentiable(self.metric, full, full, right, wrong)).abs()
            columns.append([float(slope) for slope in torch.autograd.grad(value, list(shares.values()))])
        return [list(row) for row in zip(*columns, strict=True)]

    def search(self) -> Screened:
        for receiver in order(self.literal.graph.n_layers, self.literal.graph.n_heads):
            edges = [edge for edge in self.literal.graph.edges() if edge.receiver == receiver and edge in self.kept][
                ::-1
            ]
            if receiver.node.kind != "logits" and not any(edge.sender == receiver.node for edge in self.kept):
                self.kept -= set(edges)
                continue
            n_kept = since = 0
            while edges:
                n_looks = min(64, max(16, since)) if n_kept else 64
                n_removed, stays = self.chain(edges, n_looks)
                n_kept += stays
                since = 0 if stays else since + n_removed
                edges = edges[n_removed + stays :]
        return self

    def chain(self, waiting: list[Edge], n_looks: int) -> tuple[int, bool]:
        tau = self.threshold
        first = self.slopes(self.kept, waiting)
        n_edges = len(waiting)
        for place, own in enumerate(first):
            if not self.less(fmean(own), 0.9 * tau):
                n_edges = place + 1
                break
        rises, drift = first[:n_edges], [0.0] * n_edges
        looks = {0: self.values(self.kept)}

        def look(cut: int) -> None:
            looks[cut] = self.values(self.kept - set(waiting[:cut]))

        def size(place: int) -> float:
            return max(abs(fmean(rises[place])) + drift[place], tau / 64)

        def worst(begin: int, end: int) -> float:
            rest = [looks[end][p] - looks[begin][p] - sum(rises[i][p] for i in range(begin, end)) for p in prompts]
            return max(fmean(rises[i]) + drift[i] for i in range(begin, end)) + fmean(map(abs, rest))

        prompts = range(len(self.prompts))
        cuts, total = [], 0.0
        for place in range(n_edges):
            likely = place == n_edges - 1 and fmean(first[place]) >= 0.9 * tau
            flat = place == 1 and all(size(i) == tau / 64 for i in range(n_edges))
            if total and (not self.less(total + size(place), tau) or likely or flat):
                cuts.append(place)
                total = 0.0
            total += size(place)
        cuts = [*cuts, n_edges][:n_looks]
        for cut in cuts:
            look(cut)
        rises, drift, n_removed, stays, known = rises[: cuts[-1]], drift[: cuts[-1]], cuts[-1], False, 0
        while True:
            again = True
            while again:
                again, wanted = False, []
                for begin, end in pairwise(sorted(cut for cut in looks if cut <= n_removed)):
                    if end - begin > 1 and not self.less(worst(begin, end), 0.75 * tau):
                        wanted.append(begin + self.middle([size(i) for i in range(begin, end)]))
                    if end - begin == 1 and not self.less(fmean(looks[end]) - fmean(looks[begin]), tau):
                        n_removed, stays = begin, True
                        break
                for cut in wanted:
                    look(cut)
                    again = True
            gaps = [p for p in pairwise(sorted(cut for cut in looks if cut <= n_removed)) if p[1] - p[0] > 1]
            if n_removed == known or not gaps:
                break
            if not stays and n_removed == len(waiting) and all(self.less(worst(*gap), 0.25 * tau) for gap in gaps):
                break
            known = n_removed
            last = self.slopes(self.kept - set(waiting[:known]), waiting[:known])
            way = [(place + 0.5) / known for place in range(known)]
            rises = [
                [(1 - way[i]) * a + way[i] * b for a, b in zip(first[i], last[i], strict=True)] for i in range(known)
            ]
            drift = [abs(fmean(last[i]) - fmean(first[i])) for i in range(known)]
        self.settle(waiting, looks, rises, n_removed, stays)
        return n_removed, stays

    def settle(
        self, waiting: list[Edge], looks: dict[int, list[float]], rises: list[list[float]], n_removed: int, stays: bool
    ) -> None:
        for begin, end in pairwise(sorted(cut for cut in looks if cut <= n_removed)):
            self.n_together += end - begin if end - begin > 1 else 0
            measured = fmean(looks[end]) - fmean(looks[begin])
            rest = measured - sum(fmean(rises[i]) for i in range(begin, end))
            for i in range(begin, end):
                self.scores[waiting[i]] = fmean(rises[i]) + rest / (end - begin)
        if stays:
            self.scores[waiting[n_removed]] = fmean(looks[n_removed + 1]) - fmean(looks[n_removed])
        self.kept -= set(waiting[:n_removed])
        self.n_looks += len(looks) - 1

    def middle(self, sizes: list[float]) -> int:
        """How many edges, from the first on, have at most half of the sizes; neither none nor all."""
        half, sums = 0, 0.0
        for size in sizes:
            sums += size
            if self.less(sum(sizes) / 2, sums):
                break
            half += 1
        return min(max(half, 1), len(sizes) - 1)
