"""How sure a circuit is: a bootstrap over prompts of attribution scores, without running the model again.

An edge's score is a mean over prompts, so other prompts of the same kind would have given another
one, and another circuit. What they would have given is estimated by drawing as many prompts from
the same ones with replacement, often (the nonparametric bootstrap, Efron 1979). Each resample has a
mean score for every edge, and from them a circuit, made by the same rule as the circuit itself.
From all resamples come

- a confidence interval of each edge's score, by the studentised bootstrap and Student's t
  (``circuits/intervals.py``, which says from how many prompts on it holds);
- the inclusion probability of each edge: the share of the resamples whose circuit has it;
- the consensus circuit: the edges (or nodes, with all edges among them) whose inclusion probability
  reaches a bar, pruned as every circuit is;
- how alike two resampled circuits are: the mean over all pairs of |A and B| / |A or B| (Jaccard
  1901). Both sizes come from one product of the resamples' 0-1 matrix with its transpose, exactly.

Sums are those of whole numbers of draws times scores, in float64: of scores in float16 they are
exact. Edges are taken in slices and resamples in blocks: what grows with both is one byte for each
edge in each resample.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitfind.circuits.graph import Graph
from circuitfind.circuits.intervals import mean_intervals
from circuitfind.circuits.selection import check_finite, prune, select
from circuitfind.circuits.size import Selection
from circuitfind.circuits.units import Units
from circuitfind.errors import UsageError

EDGES = 8192
"""How many edges' means over all resamples stand in memory at once."""
BYTES = 128 << 20
"""What the means of a block of resamples over all edges may take; one resample may always stand in memory."""


@dataclass(frozen=True)
class Bootstrap:
    """What to draw and to report. Raises UsageError for what cannot be.

    ``resamples`` are drawn with ``seed``; ``level`` is that of the confidence intervals; an edge is
    in the consensus where its inclusion probability is at least ``bar``.
    """

    resamples: int = 200
    level: float = 0.95
    bar: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 2:
            raise UsageError(
                f"--bootstrap is {self.resamples}; give it 2 resamples or more, such as 200."
            )
        if not 0 < self.level < 1:
            raise UsageError(
                f"The level is {self.level}; give a number above 0 and below 1, such as 0.95."
            )
        if not 0 < self.bar <= 1:
            raise UsageError(
                f"The bar is {self.bar}; give an inclusion probability above 0 and at most 1."
            )

    def check(self, n_prompts: int) -> None:
        """Raises UsageError for fewer than two prompts."""
        if n_prompts < 2:
            raise UsageError(
                f"A bootstrap needs two prompts or more, not {n_prompts}: raise --prompts, or leave out"
                " --bootstrap."
            )

    def draw(self, n_prompts: int) -> Int[Tensor, "resample prompt"]:
        """How often each prompt stands in each resample. Raises UsageError for fewer than two prompts."""
        self.check(n_prompts)
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randint(n_prompts, (self.resamples, n_prompts), generator=generator)
        return torch.zeros_like(drawn).scatter_add_(1, drawn, torch.ones_like(drawn))


@dataclass(frozen=True)
class Uncertainty:
    """What a bootstrap found; scores in their own unit, NaN where the graph has no edge, float64.

    ``mean``: over the prompts themselves; ``lower`` and ``upper``: its confidence interval.
    ``inclusion``: the share of resampled circuits (pruned) that have the edge. ``consensus``: a
    pruned circuit. ``jaccard``: between 0 and 1; two circuits without edges count as alike.
    """

    mean: Float[Tensor, "receiver sender"]
    lower: Float[Tensor, "receiver sender"]
    upper: Float[Tensor, "receiver sender"]
    inclusion: Float[Tensor, "receiver sender"]
    consensus: Bool[Tensor, "receiver sender"]
    jaccard: float


@dataclass(frozen=True)
class Scores:
    """Per-prompt scores of which the graph's edges are looked at alone: ``places`` are theirs in a
    flat row.
    """

    flat: Float[Tensor, "prompt place"]
    places: Int[Tensor, " edge"]
    shape: torch.Size

    def resampled(
        self, draws: Int[Tensor, "resample prompt"], places: Int[Tensor, " some"]
    ) -> Float[Tensor, "some resample"]:
        """The mean scores of some edges in each resample, float64."""
        sums = self.flat[:, places].double().T @ draws.double().T
        return sums / len(self.flat)

    def deviations(
        self, mean: Float[Tensor, " some"], places: Int[Tensor, " some"]
    ) -> Float[np.ndarray, "some prompt"]:
        """How far each prompt's score lies from the ``mean``, of some edges, float64."""
        deviations: Float[np.ndarray, "some prompt"] = (
            (self.flat[:, places].double() - mean).T.contiguous().numpy()
        )
        return deviations

    def means(self, draws: Int[Tensor, "resample prompt"]) -> Float[Tensor, "resample edge"]:
        """The mean scores of all edges in some resamples, float64."""
        means = torch.empty(len(draws), len(self.places), dtype=torch.float64)
        for into, places in zip(
            torch.split(means, EDGES, 1), torch.split(self.places, EDGES), strict=True
        ):
            into.copy_(self.resampled(draws, places).T)
        return means

    def spread(self, values: Float[Tensor, " edge"]) -> Float[Tensor, "receiver sender"]:
        """A value for each edge in its place, NaN elsewhere."""
        whole = values.new_full(self.shape, math.nan)
        whole.view(-1)[self.places] = values
        return whole


def bootstrap(
    graph: Graph,
    scores: Float[Tensor, "prompt receiver sender"],
    selection: Selection,
    options: Bootstrap,
    units: Units | None = None,
) -> Uncertainty:
    """The uncertainty of scores per prompt (positive or negative, any float dtype) and of the
    circuits made of them.

    ``units``: what the selection chooses, single edges by default. The same arguments give the same
    outcome; torch's own random state is neither read nor changed. Raises UsageError for fewer than
    two prompts, a score that is no finite number, or a selection that the graph does not allow.
    """
    scores = scores.detach().cpu()
    units = units or Units(graph)
    draws, edges = options.draw(len(scores)), units.edges
    selection.count(units)  # what it refuses, it refuses now
    for of_prompt in scores:
        check_finite(graph, of_prompt.double().numpy(), edges.numpy())
    table = Scores(scores.flatten(1), edges.flatten().nonzero().flatten(), edges.shape)

    def close(often_in: Bool[Tensor, "receiver sender"]) -> Bool[Tensor, "receiver sender"]:
        return prune(graph, units.circuit(often_in) if units.level == "node" else often_in)

    return estimate(table, draws, options, lambda mean: select(graph, mean, selection, units).kept, close)


def estimate(
    table: Scores,
    draws: Int[Tensor, "resample prompt"],
    options: Bootstrap,
    choose: Callable[[Float[Tensor, "receiver sender"]], Bool[Tensor, "receiver sender"]],
    close: Callable[[Bool[Tensor, "receiver sender"]], Bool[Tensor, "receiver sender"]],
) -> Uncertainty:
    """The uncertainty of scores of which ``choose`` makes a circuit; ``close`` makes a circuit of
    what is in most.
    """
    mean, lower, upper = intervals(table, draws, options.level)
    members = resample_circuits(table, draws, choose)
    often = torch.from_numpy(
        members.numpy().sum(0, dtype=np.int64)
    )  # torch's sum would copy the matrix as int64
    inclusion = table.spread(often.double() / len(draws))
    consensus = close(inclusion >= options.bar)
    return Uncertainty(mean, lower, upper, inclusion, consensus, mean_jaccard(members))


def intervals(
    table: Scores, draws: Int[Tensor, "resample prompt"], level: float
) -> tuple[
    Float[Tensor, "receiver sender"], Float[Tensor, "receiver sender"], Float[Tensor, "receiver sender"]
]:
    """Each edge's mean score, and the lower and upper ends of its confidence interval
    (``circuits/intervals.py``).
    """
    every, counts = torch.ones_like(draws[:1]), draws.double().numpy()
    found = torch.empty(
        3, len(table.places), dtype=torch.float64
    )  # first, lest it be strewn among what is freed
    for into, places in zip(torch.split(found, EDGES, 1), torch.split(table.places, EDGES), strict=True):
        into[0] = table.resampled(every, places)[:, 0]
        ends = mean_intervals(table.deviations(into[0], places), counts, level)
        into[1], into[2] = (into[0] + torch.from_numpy(end) for end in ends)
    return table.spread(found[0]), table.spread(found[1]), table.spread(found[2])


def resample_circuits(
    table: Scores,
    draws: Int[Tensor, "resample prompt"],
    choose: Callable[[Float[Tensor, "receiver sender"]], Bool[Tensor, "receiver sender"]],
) -> Bool[Tensor, "resample edge"]:
    """Which edges the circuit of each resample has."""
    members = torch.empty(len(draws), len(table.places), dtype=torch.bool)
    for rows in torch.split(torch.arange(len(draws)), max(1, BYTES // (8 * len(table.places)))):
        for row, mean in zip(rows, table.means(draws[rows]), strict=True):
            members[row] = choose(table.spread(mean)).reshape(-1)[table.places]
    return members


def mean_jaccard(members: Bool[Tensor, "resample edge"]) -> float:
    """The mean over pairs of rows of what they share by what either has; two empty rows are alike.

    The numbers are whole and below 2^24, so that float32 counts them exactly. Edges in no row are
    left out first.
    """
    shared = torch.zeros(len(members), len(members), dtype=torch.float64)
    for places in torch.split(members.any(0).nonzero().flatten(), EDGES):
        some = members[:, places].float()
        shared += some @ some.T
    size = shared.diagonal()
    either = size + size.unsqueeze(1) - shared
    alike = torch.where(either > 0, shared / either, 1.0)
    n_rows = len(members)
    return float(alike.triu(1).sum() / (n_rows * (n_rows - 1) / 2))
