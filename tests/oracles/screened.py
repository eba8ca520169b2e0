"""The screened schedule, literally: every look a full masked forward of every prompt, every slope by autograd through a
whole run of its own, in the share of each edge that is removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from statistics import fmean

import torch

from circuitfind.circuits.graph import Edge
from circuitfind.methods.search import screened
from tests.oracles.acdc import order
from tests.oracles.grouped import blended, differentiable
from tests.oracles.literal import run
from tests.oracles.metrics import objective
from tests.oracles.state import State

EXACT = 1e-15
"""Sums of the least size that an edge can have are the same to the last bit wherever they are taken."""


@dataclass
class Screened(State):
    """``n_looks``: how many runs were computed; ``n_together``: how many edges went without a test of their own;
    ``n_found_out``: how many looks halves of a range asked for."""

    n_looks: int = 0
    n_together: int = 0
    n_found_out: int = 0

    def less(self, a: float, b: float) -> bool:
        if abs(a - b) > EXACT:
            self.margin = min(self.margin, abs(a - b))
        return a < b

    def slopes(self, kept: set[Edge], edges: Sequence[Edge]) -> list[list[float]]:
        """For each edge, by how much each prompt's objective rises as it goes, to first order."""
        columns = []
        for (clean, _, right, wrong), ablated, full in zip(
            self.prompts, self.ablated, self.full, strict=True
        ):
            gone = {edge: torch.tensor(float(edge not in kept), dtype=torch.float64) for edge in edges}
            shares = {edge: share.requires_grad_() for edge, share in gone.items()}
            value = differentiable(
                self.metric, full, blended(self.literal, clean, kept, ablated, shares), right, wrong
            )
            if self.match:
                value = (value - differentiable(self.metric, full, full, right, wrong)).abs()
            columns.append([float(slope) for slope in torch.autograd.grad(value, list(shares.values()))])
        return [list(row) for row in zip(*columns, strict=True)]

    def search(self) -> Screened:
        for receiver in order(self.literal.graph.n_layers, self.literal.graph.n_heads):
            edges = [
                edge
                for edge in self.literal.graph.edges()
                if edge.receiver == receiver and edge in self.kept
            ][::-1]
            if receiver.node.kind != "logits" and not any(
                edge.sender == receiver.node for edge in self.kept
            ):
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
            rest = [
                looks[end][p] - looks[begin][p] - sum(rises[i][p] for i in range(begin, end))
                for p in prompts
            ]
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
        bend = [[0.0 for _ in prompts] for _ in rises]
        sound: list[tuple[int, int]] = []
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
            gaps = [
                p for p in pairwise(sorted(cut for cut in looks if cut <= n_removed)) if p[1] - p[0] > 1
            ]
            is_calm = not stays and n_removed == len(waiting)
            is_calm = is_calm and all(self.less(worst(*gap), 0.25 * tau) for gap in gaps)
            if n_removed == known or not gaps or is_calm:
                unseen = [gap for gap in gaps if not inside(gap, sound)]
                wanted = self.doubtful(waiting, looks, rises, bend, unseen, sound)
                self.n_found_out += len(wanted)
                if not wanted:
                    break
                for cut in wanted:
                    look(cut)
                continue
            known = n_removed
            last = self.slopes(self.kept - set(waiting[:known]), waiting[:known])
            way = [(place + 0.5) / known for place in range(known)]
            rises = [
                [(1 - way[i]) * a + way[i] * b for a, b in zip(first[i], last[i], strict=True)]
                for i in range(known)
            ]
            bend = [[b - a for a, b in zip(first[i], last[i], strict=True)] for i in range(known)]
            drift = [abs(fmean(last[i]) - fmean(first[i])) for i in range(known)]
        self.settle(waiting, looks, rises, n_removed, stays)
        return n_removed, stays

    def doubtful(
        self,
        waiting: list[Edge],
        looks: dict[int, list[float]],
        rises: list[list[float]],
        bend: list[list[float]],
        gaps: list[tuple[int, int]],
        sound: list[tuple[int, int]],
    ) -> list[int]:
        """Where the chain must be looked at, as random halves of these gaps tell something else than estimates do."""
        n_each = -(-screened.HALVES // len(self.prompts))
        if sum(end - begin - 1 for begin, end in gaps) <= n_each:
            return [cut for begin, end in gaps for cut in range(begin + 1, end)]
        found = [
            self.is_sound(waiting, looks, rises, bend, gaps, number) for number in range(n_each)
        ]  # all are made
        if all(found):
            sound += gaps
            return []
        if len(gaps) == 1:
            begin, end = gaps[0]
            sizes = [
                max(abs(fmean(rises[i])) + abs(fmean(bend[i])), self.threshold / 64)
                for i in range(begin, end)
            ]
            return [begin + self.middle(sizes)]
        half = len(gaps) // 2
        parts = (gaps[:half], gaps[half:])
        return [cut for part in parts for cut in self.doubtful(waiting, looks, rises, bend, part, sound)]

    def is_sound(
        self,
        waiting: list[Edge],
        looks: dict[int, list[float]],
        rises: list[list[float]],
        bend: list[list[float]],
        gaps: list[tuple[int, int]],
        number: int,
    ) -> bool:
        """Whether one look at these gaps tells what the estimates do."""
        n_each, n_prompts, n_edges = (
            -(-screened.HALVES // len(self.prompts)),
            len(self.prompts),
            max(end for _, end in gaps),
        )
        self.n_looks += 1
        graph = self.literal.graph
        names = (waiting[0].receiver, graph.senders.index(waiting[0].sender), gaps[0][0], gaps[-1][1])
        cuts = sorted(cut for cut in looks if gaps[0][0] <= cut <= gaps[-1][1])
        places, turned = screened.draw(
            Random(" ".join(map(str, names))), cuts, gaps, (n_each, n_edges, n_prompts)
        )
        off = []
        for prompt in range(n_prompts):
            cut = int(places[number, prompt])
            expected, kept = looks[cut][prompt], self.kept - set(waiting[:cut])
            for begin, end in pairwise(sorted(look for look in looks if look <= n_edges)):
                rest = (
                    looks[end][prompt]
                    - looks[begin][prompt]
                    - sum(rises[i][prompt] for i in range(begin, end))
                )
                for i in range(begin, end):
                    if not turned[number, i, prompt]:
                        continue
                    along = cut / len(rises) - (i + 0.5) / len(rises)
                    rise = rises[i][prompt] + rest / (end - begin) + along * bend[i][prompt]
                    expected += -rise if i < cut else rise
                    kept = kept | {waiting[i]} if i < cut else kept - {waiting[i]}
            off.append(abs(self.value(prompt, kept) - expected))
        return self.less(fmean(off), 0.25 * self.threshold)

    def value(self, prompt: int, kept: set[Edge]) -> float:
        """One prompt's objective with these edges kept."""
        (clean, _, right, wrong), ablated, full = (
            self.prompts[prompt],
            self.ablated[prompt],
            self.full[prompt],
        )
        number = objective(self.metric, full, run(self.literal, clean, kept, ablated)[0], right, wrong)
        return abs(number - objective(self.metric, full, full, right, wrong)) if self.match else number

    def settle(
        self,
        waiting: list[Edge],
        looks: dict[int, list[float]],
        rises: list[list[float]],
        n_removed: int,
        stays: bool,
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


def inside(gap: tuple[int, int], others: list[tuple[int, int]]) -> bool:
    """Whether it lies in one of them."""
    return any(begin <= gap[0] and gap[1] <= end for begin, end in others)
