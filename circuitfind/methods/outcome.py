"""What a search has decided: the outcome of a method, and the state that a long run is taken up from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitfind.circuits.graph import Graph
from circuitfind.circuits.masks import readable
from circuitfind.methods.method import Job
from circuitfind.methods.saved_state import SoFar, require


@dataclass(frozen=True)
class Found:
    """Which edges stay, and every edge's score (NaN where the graph has no edge, float64).

    ``decided`` are the edges on which the search has decided: at its end all of them. Before that
    an undecided edge is in ``kept`` as False, with the score 0. ``n_tests`` edges were decided by a
    test, the others had none to make; ``n_evaluated`` tests were computed for it, those behind an
    edge that had to stay included.
    """

    kept: Bool[Tensor, "receiver sender"]
    scores: Float[Tensor, "receiver sender"]
    decided: Bool[Tensor, "receiver sender"]
    n_tests: int
    n_evaluated: int

    def copy(self) -> Found:
        """The same with tensors of its own."""
        return replace(
            self, kept=self.kept.clone(), scores=self.scores.clone(), decided=self.decided.clone()
        )

    def to_so_far(self) -> SoFar:
        """What a file keeps of it."""
        tensors = {"kept": self.kept, "scores": self.scores, "decided": self.decided}
        return SoFar(tensors, {"n_tests": self.n_tests, "n_evaluated": self.n_evaluated}, self.summary)

    @staticmethod
    def from_so_far(so_far: SoFar, graph: Graph) -> Found | None:
        """What ``to_so_far`` was made of; None where the search had not begun.

        Raises StateError for what no search of this graph comes to.
        """
        if not {"kept", "scores", "decided"} & so_far.tensors.keys():
            return None
        like = nothing_decided(graph)
        kept, decided = (so_far.tensor(name, like.kept) for name in ("kept", "decided"))
        scores, edges = so_far.tensor("scores", like.scores), readable(graph)
        require(
            not bool((kept & ~decided | decided & ~edges).any()),
            "it keeps what is not decided, or is no edge",
        )
        require(
            bool((scores.isnan() == ~edges).all()),
            "it has a score where there is no edge, or none at one",
        )
        return Found(kept, scores, decided, so_far.count("n_tests"), so_far.count("n_evaluated"))

    def n_decided(self, among: Bool[Tensor, "receiver sender"]) -> int:
        """On how many of these edges the search has decided."""
        return int((self.decided & among).sum())

    @property
    def summary(self) -> str:
        return f"{self.n_tests:,} tests, {int(self.kept.sum()):,} edges kept"


def start_of(job: Job, graph: Graph) -> Found | None:
    """What the job's state says is decided; None where the search begins anew."""
    return None if job.start is None else Found.from_so_far(job.start, graph)


def nothing_decided(graph: Graph) -> Found:
    """The beginning of every search."""
    edges = readable(graph)
    scores = torch.where(edges, 0.0, math.nan).double()
    return Found(torch.zeros_like(edges), scores, torch.zeros_like(edges), n_tests=0, n_evaluated=0)


def in_question(
    graph: Graph, shortlist: Bool[Tensor, "receiver sender"] | None
) -> Bool[Tensor, "receiver sender"]:
    """The edges that a search may test: those of its shortlist, or all."""
    return readable(graph) if shortlist is None else shortlist


def take_up(
    graph: Graph, start: Found | None, shortlist: Bool[Tensor, "receiver sender"] | None
) -> Found:
    """Where a search begins: at ``start`` if there is one. All that is in no shortlist is decided:
    it goes, score 0.
    """
    found = start.copy() if start else nothing_decided(graph)
    return replace(found, decided=found.decided | (readable(graph) & ~in_question(graph, shortlist)))
