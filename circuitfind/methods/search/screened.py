"""The screened schedule of ACDC: the published order and rule, most edges without a test of their own.

A receiver's edges are tried as always from the latest sender to the earliest, along the chain "all
so far removed". But the chain is looked at only here and there: what happens between two looks is
estimated from the gradients at both ends of the chain. An edge's estimate goes in a straight line
from its first-order rise at the one end to that at the other; its drift is how far these two are
apart. The edges between two looks all go if

    the largest estimate + drift among them, and what the estimates leave unexplained of the rise
    that was measured, the mean over prompts of each prompt's own size,

come to less than SAFE thresholds together. Otherwise the chain is looked at in between, where the
estimates have their middle, until one edge lies between two looks: that is a test, and the
published rule decides. So every edge that stays was tested alone, in the run as it then was, and so
was each that goes and is anywhere near the threshold.

Edges can undo each other when they go together: of equality in an MLP neither a gradient at the
ends nor a test of both inputs tells anything. So before a chain is settled, what goes without a
test of its own is looked at in random halves, another half in each prompt (``Halves``). Where they
tell something else than the estimates, in the mean over prompts by UNSEEN thresholds, the range is
divided, down to single edges.

It is not certain that the circuit is the published schedule's, but the chance is known. Say h edges
hide a rise from their ends: it shows only while some of them are gone and others are not, and then
on n prompts by so much that one of them makes up UNSEEN thresholds of the mean. A look shows it on
each of these prompts with a chance of 2^-h at least, two that undo each other either way with 1/2.
So m looks at a range miss it with a chance of (1 - 2^-h)^(n m) at most; m is 16 for one prompt and
1 from 16 prompts on. A range is looked at whenever the one that it is a part of was divided, eight
times at most in a chain of 256. What has been measured stands in docs/performance.md.

A removed edge's score is its estimate and an even part of what its neighbours' estimates leave
unexplained: the scores of all removed edges add up to what the circuit costs. An edge that stays
has the rise of its test.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitfind.circuits.graph import Receiver
from circuitfind.methods.search.chain import Chain, Search
from circuitfind.methods.search.grouped import middle
from circuitfind.methods.search.judge import Judge, Verdict, rise

STAYS = 0.9
"""A chain ends with the first edge whose first-order rise is so many thresholds: it may well stay."""
LONGEST = 256
"""Edges in a chain."""
LEAST = 1 / 64
"""How many thresholds an edge counts for at least where a chain is divided: edges are looked at by
as many at most.
"""
SAFE = 0.75
CALM = 0.25
"""Where estimate and unexplained rest come to fewer thresholds, a receiver's last chain needs no
second gradient.
"""

UNSEEN = 0.25
"""A range is looked into where what halves of it tell lies so many thresholds from the estimates,
in the mean.
"""
HALVES = 16
"""So many halves of a range are drawn at least: one for each prompt in a look, and as many looks as
that takes.
"""

Gap = tuple[int, int]
Slopes = Float[Tensor, "prompt sender"]


@dataclass(frozen=True)
class Estimates:
    """What each edge of a chain is thought to raise the objective by, on each prompt, where its
    turn comes; and how that bends, from the beginning of the chain to its end."""

    rises: Float[Tensor, "edge prompt"]
    bend: Float[Tensor, "edge prompt"]

    @classmethod
    def at_start(cls, first: Float[Tensor, "edge prompt"]) -> Estimates:
        return cls(first, torch.zeros_like(first))

    @classmethod
    def between(
        cls, first: Float[Tensor, "edge prompt"], last: Float[Tensor, "edge prompt"]
    ) -> Estimates:
        """From the first-order rises at both ends of the chain."""
        return cls(first + turns(len(first)) * (last - first), last - first)

    @cached_property
    def drift(self) -> Float[Tensor, " edge"]:
        """How far an estimate may be off."""
        return self.bend.mean(1).abs()

    def sizes(self, threshold: float) -> Float[Tensor, " edge"]:
        """What each edge counts for where a chain is divided."""
        return (self.rises.mean(1).abs() + self.drift).clamp_min(max(LEAST * threshold, 1e-12))

    def fitted(self, chain: Chain, n_edges: int) -> Float[Tensor, "edge prompt"]:
        """The rises with an even part of what they leave unexplained between two looks: they add up
        to what was measured."""
        rises = self.rises[:n_edges].clone()
        for first, last in itertools.pairwise(looks(chain, n_edges)):
            measured = chain.prompts[last] - chain.prompts[first]
            rises[first:last] += (measured - rises[first:last].sum(0)) / (last - first)
        return rises

    def worst(self, chain: Chain, first: int, last: int) -> float:
        """By how much an edge between two cuts may raise the objective: its estimate, its drift,
        and all of what the estimates leave unexplained there."""
        measured = chain.prompts[last] - chain.prompts[first]
        rest = (
            float((measured - self.rises[first:last].sum(0)).abs().mean())
            + chain.radii[first]
            + chain.radii[last]
        )
        return float((self.rises[first:last].mean(1) + self.drift[first:last]).max()) + rest


def make_screen(search: Search, threshold: float, tolerance: float) -> Judge:
    """The judge that looks at a chain where it must."""
    return Screen(search, threshold, tolerance).judge


class Screen:
    """Decides on the edges of one receiver after another, chain by chain."""

    def __init__(self, search: Search, threshold: float, tolerance: float) -> None:
        self._search, self._threshold, self._tolerance = search, threshold, tolerance
        self._receiver: Receiver | None = None
        self._slopes: Slopes | None = None

    def judge(self, receiver: Receiver, waiting: Sequence[int], n_looks: int) -> Verdict:
        """As every ``Judge``; a chain is looked at ``n_looks`` times before anything is known of it
        but its slopes.
        """
        senders = list(waiting[:LONGEST])
        chain = self._search.begin(receiver, senders, self._tolerance)
        slopes = chain.slopes(0) if self._slopes is None or receiver != self._receiver else self._slopes
        cuts = self._first_looks(slopes[:, senders].mean(0), n_looks)
        chain.reach(cuts)
        first = slopes[:, senders[: cuts[-1]]].T
        estimates, n_removed, stays, known = Estimates.at_start(first), cuts[-1], False, 0
        halves = Halves(chain, self._threshold, (str(receiver), senders[0]))
        while True:
            n_removed, found_one = self._look_closer(chain, estimates, n_removed)
            stays |= found_one
            is_last = not stays and n_removed == len(waiting)
            if n_removed != known and not self._needs_no_gradient(chain, estimates, n_removed, is_last):
                known, last = n_removed, chain.slopes(n_removed)
                estimates = Estimates.between(first[:known], last[:, senders[:known]].T)
                self._slopes, self._receiver = last, receiver
            elif wanted := halves.doubtful(estimates, n_removed):
                chain.reach(wanted)
            else:
                break
        if not n_removed:
            self._slopes, self._receiver = slopes, receiver
        elif n_removed != known:
            self._slopes = None
        scores = estimates.fitted(chain, n_removed).mean(1).tolist()
        if stays:
            scores.append(rise(chain, n_removed + 1, self._threshold))
        chain.settle(n_removed)
        return Verdict(scores, n_removed, len(chain.values) - 1 + halves.n_looks)

    def _first_looks(self, rises: Float[Tensor, " edge"], n_looks: int) -> list[int]:
        """Where a chain is looked at first: before its estimates add up to more than a threshold,
        and at its end.

        Where they all come to next to nothing, as KL's do at the clean run, they tell nothing:
        there its first edge is looked at alone, as several that stay may stand one behind the
        other.
        """
        likely = (rises >= STAYS * self._threshold).nonzero().flatten().tolist()
        n_edges = likely[0] + 1 if likely else len(rises)
        sizes = Estimates.at_start(rises[:n_edges].unsqueeze(1)).sizes(self._threshold).tolist()
        alone = likely[:1] + [1] * (len(set(sizes)) == 1)
        cuts, total = [], 0.0
        for place, size in enumerate(sizes):
            if total and (total + size > self._threshold or place in alone):
                cuts.append(place)
                total = 0.0
            total += size
        return [*cuts, n_edges][:n_looks]

    def _look_closer(self, chain: Chain, estimates: Estimates, n_edges: int) -> tuple[int, bool]:
        """How many of the first edges go, and whether one that was tested stays behind them."""
        stays = False
        sizes = estimates.sizes(self._threshold)
        while True:
            wanted = []
            for first, last in itertools.pairwise(looks(chain, n_edges)):
                if last - first > 1 and not estimates.worst(chain, first, last) < SAFE * self._threshold:
                    wanted.append(first + middle(sizes[first:last]))
                if last - first == 1 and not rise(chain, last, self._threshold) < self._threshold:
                    n_edges, stays = first, True
                    break
            if not wanted:
                return n_edges, stays
            chain.reach(wanted)

    def _needs_no_gradient(
        self, chain: Chain, estimates: Estimates, n_removed: int, is_last: bool
    ) -> bool:
        """Whether the gradient at the end of what is removed would tell nothing that matters."""
        gaps = gaps_of(chain, n_removed)
        bar = CALM * self._threshold
        return not gaps or (
            is_last and all(estimates.worst(chain, first, last) < bar for first, last in gaps)
        )


class Halves:
    """Looks at a chain with random halves of the edges between looks gone, others in each prompt.

    Edges that undo each other when they go together are apart in half of all halves. A look is at a
    range of gaps: each prompt sets out from one of the range's cuts, and of the edges in the gaps
    half go or come back, by chance.
    """

    def __init__(self, chain: Chain, threshold: float, seed: tuple[str, int]) -> None:
        self._chain, self._threshold, self._seed = chain, threshold, seed
        self._sound: list[Gap] = []
        self.n_looks = 0

    def doubtful(self, estimates: Estimates, n_edges: int) -> list[int]:
        """The cuts to be looked at, ascending, as halves tell something else there than the estimates do."""
        wanted: list[int] = []
        ranges = [self._unseen(n_edges)]
        while ranges:
            short = [gaps for gaps in ranges if self._n_hidden(gaps) <= self._n_each]
            wanted += [cut for gaps in short for begin, end in gaps for cut in range(begin + 1, end)]
            long = [gaps for gaps in ranges if gaps not in short]
            ranges = []
            for gaps, is_sound in zip(long, self._are_sound(estimates, long, n_edges), strict=True):
                if is_sound:
                    self._sound += gaps
                elif len(gaps) == 1:
                    begin, end = gaps[0]
                    wanted.append(begin + middle(estimates.sizes(self._threshold)[begin:end]))
                else:
                    ranges += [gaps[: len(gaps) // 2], gaps[len(gaps) // 2 :]]
        return sorted(wanted)

    def _n_hidden(self, gaps: Sequence[Gap]) -> int:
        """How many cuts they have inside."""
        return sum(end - begin - 1 for begin, end in gaps)

    @property
    def _n_each(self) -> int:
        """How many looks a range takes."""
        return -(-HALVES // len(self._chain.prompts[0]))

    def _unseen(self, n_edges: int) -> list[Gap]:
        """The gaps that do not lie in one that has been found sound."""
        return [
            gap
            for gap in gaps_of(self._chain, n_edges)
            if not any(begin <= gap[0] and gap[1] <= end for begin, end in self._sound)
        ]

    def _are_sound(
        self, estimates: Estimates, ranges: Sequence[Sequence[Gap]], n_edges: int
    ) -> list[bool]:
        """Of each range whether in every look at it the objective is what the estimates make of it,
        from the cut on that each prompt sets out from."""
        if not ranges:
            return []
        fitted = estimates.fitted(self._chain, n_edges)
        drawn = [self._draw(gaps, n_edges) for gaps in ranges]
        places, turned = torch.cat([cuts for cuts, _ in drawn]), torch.cat([edges for _, edges in drawn])
        gone = torch.arange(n_edges).unsqueeze(1) < places.unsqueeze(1)
        told = self._chain.without((gone ^ turned).to(fitted))
        self.n_looks += len(told)
        start = [
            [self._chain.prompts[cut][prompt] for prompt, cut in enumerate(row)]
            for row in places.tolist()
        ]
        n_known = len(estimates.rises)
        along = places.unsqueeze(1) / n_known - turns(n_known)[:n_edges]
        steps = torch.where(gone, -1, 1) * turned * (fitted + along * estimates.bend[:n_edges])
        off = (told - torch.tensor(start).to(told) - steps.sum(1)).abs().mean(1)
        within = off < UNSEEN * self._threshold
        return [bool(looks_at_one.all()) for looks_at_one in torch.split(within, self._n_each)]

    def _draw(
        self, gaps: Sequence[Gap], n_edges: int
    ) -> tuple[Int[Tensor, "look prompt"], Bool[Tensor, "look edge prompt"]]:
        """What the looks at a range are at."""
        cuts = [cut for cut in looks(self._chain, n_edges) if gaps[0][0] <= cut <= gaps[-1][1]]
        seed = " ".join(map(str, (*self._seed, gaps[0][0], gaps[-1][1])))
        return draw(Random(seed), cuts, gaps, (self._n_each, n_edges, len(self._chain.prompts[0])))


def draw(
    rng: Random, cuts: Sequence[int], gaps: Sequence[Gap], shape: tuple[int, int, int]
) -> tuple[Int[Tensor, "look prompt"], Bool[Tensor, "look edge prompt"]]:
    """From which of the cuts each prompt of each look sets out, and which edges of the gaps are
    turned there: half of them, by chance. Those before the cut come back, and those behind it go.
    """
    n_looks, _, n_prompts = shape
    evenly = [cuts[(2 * place + 1) * len(cuts) // (2 * n_prompts)] for place in range(n_prompts)]
    places = torch.tensor([rng.sample(evenly, n_prompts) for _ in range(n_looks)])
    turned = torch.zeros(shape, dtype=torch.bool)
    for begin, end in gaps:
        size = (n_looks, end - begin, n_prompts)
        turned[:, begin:end] = torch.tensor([rng.random() < 0.5 for _ in range(math.prod(size))]).reshape(
            size
        )
    return places, turned


def turns(n_edges: int) -> Float[Tensor, "edge 1"]:
    """How far along the chain each edge's turn comes, between 0 and 1."""
    return ((torch.arange(n_edges, dtype=torch.float64) + 0.5) / n_edges).unsqueeze(1)


def gaps_of(chain: Chain, n_edges: int) -> list[Gap]:
    """The looks between which there are several edges."""
    return [
        (first, last) for first, last in itertools.pairwise(looks(chain, n_edges)) if last - first > 1
    ]


def looks(chain: Chain, n_edges: int) -> list[int]:
    """The cuts that were looked at, none behind ``n_edges``."""
    return sorted(cut for cut in chain.values if cut <= n_edges)
