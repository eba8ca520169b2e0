"""The screened schedule of ACDC: the published order and rule, most edges without a test of their own.

A receiver's edges are tried as always from the latest sender to the earliest, along the chain "all so far removed". But
the chain is looked at only here and there: what happens between two looks is estimated from the gradients at both ends
of the chain. An edge's estimate goes in a straight line from its first-order rise at the one end to that at the other;
its drift is how far these two are apart. The edges between two looks all go if

    the largest estimate + drift among them, and what the estimates leave unexplained of the rise that was measured,
    the mean over prompts of each prompt's own size,

come to less than SAFE thresholds together. Otherwise the chain is looked at in between, where the estimates have their
middle, until one edge lies between two looks: that is a test, and the published rule decides. So every edge that stays
was tested alone, in the run as it then was, and so was each that goes and is anywhere near the threshold.

It is not certain that the circuit is the published schedule's: two edges of which the one raises the objective by the
threshold and the other lowers it by as much, on every prompt alike, while the gradient shows neither at either end of
the chain, would go together unseen. What has been measured stands in docs/performance.md.

A removed edge's score is its estimate and an even part of what its neighbours' estimates leave unexplained: the scores
of all removed edges add up to what the circuit costs. An edge that stays has the rise of its test.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuitfind.graph import Receiver
from circuitfind.methods.grouped import middle
from circuitfind.methods.rule import Judge, Verdict, rise
from circuitfind.search import Chain, Search

STAYS = 0.9
"""A chain ends with the first edge whose first-order rise is so many thresholds: it may well stay."""
LONGEST = 256
"""Edges in a chain."""
LEAST = 1 / 64
"""How many thresholds an edge counts for at least where a chain is divided: edges are looked at by as many at most."""
SAFE = 0.75
CALM = 0.25
"""Where estimate and unexplained rest come to fewer thresholds, a receiver's last chain needs no second gradient."""

Slopes = Float[Tensor, "prompt sender"]


@dataclass(frozen=True)
class Estimates:
    """What each edge of a chain is thought to raise the objective by, on each prompt, and how far that may drift."""

    rises: Float[Tensor, "edge prompt"]
    drift: Float[Tensor, " edge"]

    @classmethod
    def at_start(cls, first: Float[Tensor, "edge prompt"]) -> Estimates:
        return cls(first, first.new_zeros(len(first)))

    @classmethod
    def between(cls, first: Float[Tensor, "edge prompt"], last: Float[Tensor, "edge prompt"]) -> Estimates:
        """From the first-order rises at both ends of the chain."""
        passed = ((torch.arange(len(first), dtype=first.dtype) + 0.5) / len(first)).unsqueeze(1)
        return cls((1 - passed) * first + passed * last, (last - first).mean(1).abs())

    def sizes(self, threshold: float) -> Float[Tensor, " edge"]:
        """What each edge counts for where a chain is divided."""
        return (self.rises.mean(1).abs() + self.drift).clamp_min(max(LEAST * threshold, 1e-12))

    def worst(self, chain: Chain, first: int, last: int) -> float:
        """By how much an edge between two cuts may raise the objective: its estimate, its drift, and all of what the
        estimates leave unexplained there."""
        measured = chain.prompts[last] - chain.prompts[first]
        rest = float((measured - self.rises[first:last].sum(0)).abs().mean()) + chain.radii[first] + chain.radii[last]
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
        """As every ``Judge``; a chain is looked at ``n_looks`` times before anything is known of it but its slopes."""
        senders = list(waiting[:LONGEST])
        chain = self._search.begin(receiver, senders, self._tolerance)
        slopes = chain.slopes(0) if self._slopes is None or receiver != self._receiver else self._slopes
        cuts = self._first_looks(slopes[:, senders].mean(0), n_looks)
        chain.reach(cuts)
        first = slopes[:, senders[: cuts[-1]]].T
        estimates, n_removed, stays, known = Estimates.at_start(first), cuts[-1], False, 0
        while True:
            n_removed, found_one = self._look_closer(chain, estimates, n_removed)
            stays |= found_one
            is_last = not stays and n_removed == len(waiting)
            if n_removed == known or self._needs_no_gradient(chain, estimates, n_removed, is_last):
                break
            known, last = n_removed, chain.slopes(n_removed)
            estimates = Estimates.between(first[:known], last[:, senders[:known]].T)
            self._slopes, self._receiver = last, receiver
        if not n_removed:
            self._slopes, self._receiver = slopes, receiver
        elif n_removed != known:
            self._slopes = None
        scores = self._scores(chain, estimates, n_removed)
        if stays:
            scores.append(rise(chain, n_removed + 1, self._threshold))
        chain.settle(n_removed)
        return Verdict(scores, n_removed, len(chain.values) - 1)

    def _first_looks(self, rises: Float[Tensor, " edge"], n_looks: int) -> list[int]:
        """Where a chain is looked at first: before its estimates add up to more than a threshold, and at its end.

        Where they all come to next to nothing, as KL's do at the clean run, they tell nothing: there its first edge is
        looked at alone, as several that stay may stand one behind the other.
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

    def _needs_no_gradient(self, chain: Chain, estimates: Estimates, n_removed: int, is_last: bool) -> bool:
        """Whether the gradient at the end of what is removed would tell nothing that matters."""
        gaps = [(first, last) for first, last in itertools.pairwise(looks(chain, n_removed)) if last - first > 1]
        bar = CALM * self._threshold
        return not gaps or (is_last and all(estimates.worst(chain, first, last) < bar for first, last in gaps))

    def _scores(self, chain: Chain, estimates: Estimates, n_removed: int) -> list[float]:
        """What was measured where an edge stands alone between two looks; else estimates that add up to it."""
        scores, means = [], estimates.rises.mean(1)
        for first, last in itertools.pairwise(looks(chain, n_removed)):
            measured = chain.values[last] - chain.values[first]
            own = means[first:last]
            scores += (own + (measured - own.sum()) / (last - first)).tolist()
        return scores


def looks(chain: Chain, n_edges: int) -> list[int]:
    """The cuts that were looked at, none behind ``n_edges``."""
    return sorted(cut for cut in chain.values if cut <= n_edges)
