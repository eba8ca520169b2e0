"""ACDC's rule on single neurons (arXiv:2304.14997 has it for edges).

Neurons are visited in reverse forward order: for each layer from the last its MLP's neurons, then
its heads', from the last head to the first, each from last to first. A neuron is ablated for good
if the metric then rises by less than the threshold (strictly). Neurons not visited yet are kept.
Every neuron is tested, so that there are as many tests as neurons.

The tests of one stage run side by side along the chain "all so far removed": the outcome is taken
up to the first neuron that must stay, and the chain goes on behind it. This changes no decision,
only how many are computed at a time. Every test is computed in full.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitfind.errors import UsageError
from circuitfind.methods.exact import ROWS_AT_ONCE, ROWS_ON_GPU
from circuitfind.methods.method import Job
from circuitfind.methods.saved_state import SoFar, require
from circuitfind.methods.search.acdc import chain_length
from circuitfind.methods.search.chain import Chain
from circuitfind.methods.search.judge import judge
from circuitfind.metrics.measures import MetricName
from circuitfind.metrics.objective import make_objective
from circuitfind.models.workers import Threads
from circuitfind.patching.ablation import AblationName
from circuitfind.patching.blocks import mean_over_prompts
from circuitfind.patching.problem import Problem
from circuitfind.patching.units import Mask, NeuronRunner, neurons_of


@dataclass(frozen=True)
class FoundNeurons:
    """Which neurons stay, and each one's rise when it was tested, in forward order; ``n_evaluated``
    tests were computed for it, those behind a neuron that had to stay included.

    The last ``n_decided`` neurons have been decided on: at the end all. Before that the others are
    in ``kept``, with the score 0. ``value``: the metric, the mean over prompts, as it then is.
    """

    kept: Mask
    scores: Float[Tensor, " neuron"]
    n_evaluated: int
    n_decided: int
    value: float

    def to_so_far(self, metric: MetricName) -> SoFar:
        """What a file keeps of it."""
        numbers = {"n_evaluated": self.n_evaluated, "n_decided": self.n_decided, "value": self.value}
        return SoFar(
            {"kept": self.kept, "scores": self.scores},
            numbers,
            f"{self.summary}, {metric} {self.value:.4g}",
        )

    @staticmethod
    def from_so_far(so_far: SoFar, n_neurons: int) -> FoundNeurons:
        """What ``to_so_far`` was made of. Raises StateError for what no search of so many neurons
        comes to.
        """
        like = nothing_decided(n_neurons, 0.0)
        kept, scores = so_far.tensor("kept", like.kept), so_far.tensor("scores", like.scores)
        n_decided = so_far.count("n_decided", n_neurons)
        require(
            bool(kept[: n_neurons - n_decided].all()), "it has removed neurons that are not decided on"
        )
        require(not bool(scores.isnan().any()), "a score in it is NaN")
        return FoundNeurons(kept, scores, so_far.count("n_evaluated"), n_decided, so_far.number("value"))

    @property
    def summary(self) -> str:
        n_undecided = len(self.kept) - self.n_decided
        return f"{self.n_decided:,} tests, {int(self.kept[n_undecided:].sum()):,} neurons kept"


@dataclass(frozen=True)
class ACDCNeurons:
    """The method's options, and so its record. ``threshold`` is in the metric's unit, for the mean
    over prompts; ``objective`` as for edges."""

    threshold: float
    metric: MetricName = "kl"
    ablation: AblationName = "corrupted"
    objective: str = "improve"
    name: ClassVar[str] = "acdc"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.threshold) and self.threshold >= 0):
            raise UsageError(
                f"The threshold is {self.threshold}; it must be a finite number, 0 or above."
            )

    def to_dict(self) -> dict[str, Any]:
        """The block ``method`` of a circuit file."""
        return {"name": self.name, **asdict(self), "order": "reverse forward", "level": "neuron"}

    def find(self, problem: Problem, job: Job = Job()) -> FoundNeurons:
        """Visit every neuron and decide on it. Neither ``batch_size`` nor threads change a bit of
        the outcome.

        ``start`` takes up what an earlier search of the same model, batch and options had decided,
        to the same bits; ``save`` is called with what is decided so far after every chain of tests.
        """
        problem = problem.by(self.metric, self.ablation, self.objective == "match")
        model, neurons = problem.model, neurons_of(problem.model)
        with Threads(model.device) as threads:
            search = _Search(problem, threads)
            found = nothing_decided(len(neurons), search.value)
            if job.start is not None:
                found = FoundNeurons.from_so_far(job.start, len(neurons))
            search.go_on_from(found)
            for stage in reversed(range(len(neurons.graph.stages) - 1)):  # the logits have none
                own = neurons.stage(stage)
                undecided = slice(
                    own.start, max(own.start, min(own.stop, len(neurons) - found.n_decided))
                )
                for places, rises in self._visit(search, stage, own, undecided, found.kept):
                    found.scores[places] = torch.tensor(rises, dtype=torch.float64)
                    n_decided = len(neurons) - places[-1]
                    found = replace(
                        found, n_evaluated=search.n_evaluated, n_decided=n_decided, value=search.value
                    )
                    so_far = found.to_so_far(self.metric)
                    job.save(so_far)
                    job.progress.update(found.n_decided, len(neurons), so_far.told)
        return found

    def _visit(
        self, search: _Search, stage: int, own: slice, undecided: slice, kept: Mask
    ) -> Iterator[tuple[list[int], list[float]]]:
        """Decide in ``kept`` on those of a stage's ``own`` neurons that are undecided: the places
        that each chain decides on, and their scores."""
        waiting = list(reversed(range(undecided.start, undecided.stop)))
        stayed = kept[undecided.stop : own.stop].nonzero().flatten().tolist()
        since, has_kept = stayed[0] if stayed else own.stop - undecided.stop, bool(stayed)
        while waiting:
            tried = waiting[: chain_length(since, has_kept)]
            masks = kept.repeat(len(tried), 1)
            for number, place in enumerate(tried):
                masks[number:, place] = False
            chain = search.look(stage, masks[:, own], kept)
            verdict = judge(chain, len(tried), self.threshold)
            n_removed, n_decided = verdict.n_removed, len(verdict.scores)
            kept[tried[:n_removed]] = False
            search.settle(chain, n_removed)
            since = since + n_decided if n_removed == n_decided else 0
            has_kept |= n_removed < n_decided
            waiting = waiting[n_decided:]
            yield tried[:n_decided], verdict.scores


def nothing_decided(n_neurons: int, value: float) -> FoundNeurons:
    """The beginning of every search; ``value`` is the metric in the full model."""
    kept, scores = torch.ones(n_neurons, dtype=torch.bool), torch.zeros(n_neurons, dtype=torch.float64)
    return FoundNeurons(kept, scores, n_evaluated=0, n_decided=0, value=value)


class _Chain(Chain):
    """The objective as neurons go one after another, every cut computed in full."""

    def __init__(self, values: Sequence[float]) -> None:
        self.values, self.radii = dict(enumerate(values)), dict.fromkeys(range(len(values)), 0.0)

    def compute(self, cuts: Iterable[int]) -> None:
        """All are exact."""


class _Search:
    """A patched run over all prompts whose neurons are ablated stage by stage, from the last;
    ``value``: its objective, the mean over prompts."""

    def __init__(self, problem: Problem, threads: Threads) -> None:
        model, groups = problem.model, problem.blocks()
        self._threads = threads
        self._n_real = [n_real for _, n_real in groups]
        self._blocks = threads.map(lambda group: NeuronRunner(model, group[0], problem.ablation), groups)
        self._device, self.n_evaluated = model.device, 0
        final = self._join([block.final.unsqueeze(0) for block in self._blocks])
        self._objective = make_objective(
            problem.metric, model, problem.prompts, final[0], problem.match, each=threads.map
        )
        (self.value,) = mean_over_prompts(self._objective(final).cpu())

    def look(self, stage: int, masks: Bool[Tensor, "test own"], kept: Mask) -> _Chain:
        """The objective in the present run, then under each mask of a stage's own neurons."""
        masks, kept = masks.to(self._device), kept.to(self._device)
        n_rows = ROWS_AT_ONCE if self._device.type == "cpu" else ROWS_ON_GPU
        pieces = [
            (number, some)
            for number, block in enumerate(self._blocks)
            for some in torch.split(masks, max(1, n_rows // block.batch.clean.numel()))
        ]
        runs = self._threads.map(
            lambda piece: self._blocks[piece[0]].run_from(stage, piece[1], kept), pieces
        )
        of_blocks = [
            torch.cat([run for (owner, _), run in zip(pieces, runs, strict=True) if owner == number])
            for number in range(len(self._blocks))
        ]
        self.n_evaluated += len(masks)
        return _Chain([self.value, *mean_over_prompts(self._objective(self._join(of_blocks)).cpu())])

    def go_on_from(self, found: FoundNeurons) -> None:
        """Make the run that a search had come to the present one."""
        self.value, self.n_evaluated = found.value, found.n_evaluated

    def settle(self, chain: _Chain, n_removed: int) -> None:
        """Make that run of the chain the present one."""
        self.value = chain.values[n_removed]

    def _join(
        self, finals: Sequence[Float[Tensor, "test _ d_model"]]
    ) -> Float[Tensor, "test real d_model"]:
        """The real prompts of all blocks."""
        return torch.cat([x[:, :n_real] for x, n_real in zip(finals, self._n_real, strict=True)], dim=1)
