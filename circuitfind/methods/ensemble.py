"""Several methods as one: their scores combined, or one as the start of another.

Methods score in units of their own. So each one's scores are divided by the root mean square, over
all edges, of its mean scores; then, edge by edge (or, where whole nodes are scored, over all nodes
and node by node: ``circuits/units.py``),

- ``mean``: the mean;
- ``max``, ``min``: the score that is largest, or smallest, in size, with its sign; of equal ones
  the first method's;
- ``rank-mean``: the mean of the places, between 0 and 1, that the edge has by the size of its mean
  score with each method. Edges of equal size share the middle of their places. One row: prompts
  have none of their own.

The first three are taken prompt by prompt where every method has scores of single prompts, else of
the means.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitfind.circuits.graph import Graph
from circuitfind.circuits.masks import readable
from circuitfind.circuits.units import KvName, LevelName, without_defaults
from circuitfind.errors import UsageError, unknown
from circuitfind.methods.catalogue import COMBINE
from circuitfind.methods.masks.learned import Learned
from circuitfind.methods.method import Job, Scorer
from circuitfind.methods.saved_state import SoFar, require
from circuitfind.patching.problem import Problem

Scores = Float[Tensor, "_ receiver sender"]
"""A row for each prompt, or one for all of them."""


@dataclass(frozen=True)
class Ensemble:
    """Two methods or more, all of the same level, and how their scores are combined."""

    of: tuple[Scorer, ...]
    combine: str = "mean"
    level: LevelName = "edge"
    kv: KvName = "per-head"
    name: ClassVar[str] = "ensemble"
    resumes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if len(self.of) < 2:
            raise UsageError(
                f"An ensemble of {len(self.of)} is none. Name two methods or more with --of."
            )
        if self.combine not in COMBINE:
            raise UsageError(unknown("way to combine", self.combine, COMBINE, "ways to combine"))

    def to_dict(self) -> dict[str, Any]:
        """The block ``method`` of a circuit file: the methods with every option of each."""
        meaning = f"{self.combine} of the methods' scores, each by its root mean square"
        of = [method.to_dict() for method in self.of]
        units = without_defaults({"level": self.level, "kv": self.kv})
        metrics = {
            method["metric"] for method in of if method.get("metric")
        }  # one, or none where no score needs any
        metric = {"metric": metrics.pop()} if len(metrics) == 1 else {}
        return {"name": self.name, **metric, "combine": self.combine, "of": of, **units, "score": meaning}

    def score(self, problem: Problem, job: Job = Job()) -> Scores:
        """Every edge's score, on each prompt where all methods have such, else one; NaN where the
        graph has no edge.

        What is so far are the ``scores`` of the methods that are done, and what the present one has
        so far.
        """
        units, done, each = problem.units(self.level, self.kv), SoFar({}), []
        for number, method in enumerate(self.of):
            part = str(number)
            own = job.start and job.start.part(part)
            is_done = own is not None and "done" in own.numbers
            if own is None or not is_done:
                job.progress.stage(f"{method.name}, of the ensemble")
                scores = method.score(problem, job.part(part, done))
                own = SoFar({"scores": scores}, {"done": 1}, f"{number + 1} of {len(self.of)} methods")
            each.append(
                own.tensors["scores"]
                if not is_done
                else scores_before(own, problem.batch.n_prompts, units.graph)
            )
            done |= own.as_part(part)
            if not is_done:
                job.save(done)
        return units.spread(combine(each, units.leaders, self.combine)).masked_fill(
            ~units.edges, math.nan
        )


def scores_before(done: SoFar, n_prompts: int, graph: Graph) -> Scores:
    """The scores of a method that was done. Raises StateError for what no method comes to."""
    found = done.tensors.get("scores", torch.empty(0))
    n_rows = len(found) if found.ndim == 3 else 0
    require(n_rows in (1, n_prompts), f"it has scores of {n_rows} prompts")
    dtype = found.dtype if found.dtype == torch.float64 else torch.float32
    scores = done.tensor(
        "scores", torch.empty(n_rows, len(graph.receivers), len(graph.senders), dtype=dtype)
    )
    edges = readable(graph).expand_as(scores)
    require(bool((scores.isfinite() == edges).all()), "a score in it is of no edge, or NaN or infinite")
    return scores


def combine(each: list[Scores], edges: Bool[Tensor, "receiver sender"], how: str) -> Scores:
    """The methods' scores as one, float32 or as they are if that is more. ``edges``: those that are
    looked at.
    """
    dtype = torch.promote_types(each[0].dtype, torch.float32)
    if how == "rank-mean":
        places = torch.stack([rank(scores.double().mean(0)[edges].abs()) for scores in each]).mean(0)
        together = torch.full(edges.shape, math.nan, dtype=torch.float64)
        together[edges] = places
        return together.unsqueeze(0).to(dtype)
    if len({len(scores) for scores in each}) > 1:
        each = [scores.double().mean(0, keepdim=True) for scores in each]
    alike = torch.stack([scores.double() / size(scores, edges) for scores in each])
    if how == "mean":
        return alike.mean(0).to(dtype)
    sizes = alike.abs().masked_fill(~edges, 0.0)
    chosen = sizes.max(0).indices if how == "max" else sizes.min(0).indices
    return alike.gather(0, chosen.unsqueeze(0)).squeeze(0).to(dtype)


def size(scores: Scores, edges: Bool[Tensor, "receiver sender"]) -> float:
    """The root mean square of the mean scores over all edges; 1 where all are zero."""
    return float(scores.double().mean(0)[edges].square().mean().sqrt()) or 1.0


def rank(sizes: Float[Tensor, " edge"]) -> Float[Tensor, " edge"]:
    """Each one's place from the smallest to the largest, as a share of all; equal ones share the
    middle of theirs.
    """
    _, which, counts = np.unique(sizes.numpy(), return_inverse=True, return_counts=True)
    middles = np.cumsum(counts) - (counts - 1) / 2
    return torch.from_numpy(middles[which] / len(sizes))


@dataclass(frozen=True)
class WarmStart:
    """A learned method whose masks start in the order of another method's scores: of the sizes of
    their means.
    """

    method: Learned
    start: Scorer
    resumes: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """The method's own."""
        return self.method.name

    def to_dict(self) -> dict[str, Any]:
        """The block ``method`` of a circuit file: the method's, and the start's as one of its options."""
        return {**self.method.to_dict(), "start_from": self.start.to_dict()}

    def score(self, problem: Problem, job: Job = Job()) -> Scores:
        """The method's scores, after the start's. What is so far is what either has; masks need no
        start any more.
        """
        masks, initial = job.part("masks"), None
        if masks.start is None:
            job.progress.stage(f"{self.start.name}, to start from")
            scores = self.start.score(problem, job.part("start"))
            initial = scores.double().mean(0).abs()
        job.progress.stage(f"{self.method.name} from {self.start.name}")
        return self.method.score(problem, masks, initial)
