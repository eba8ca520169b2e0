"""Edge attribution patching: every edge's score from a few runs forwards and backwards.

score(u -> v) = sum over positions and d_model of (ablated - clean output of u) . gradient of the
objective at what v reads, before its norm. The objective is what a search minimises, so that a
positive score says that ablating the edge hurts. What differs is where the gradient is taken:

- ``eap`` (arXiv:2310.10348): in the clean run.
- ``clean-corrupted``: the mean of the clean run and of the run whose input is ablated.
- ``eap-ig`` (arXiv:2403.17806): the mean of the runs whose input is ablated + k/steps (clean -
  ablated), k from 0 to steps - 1. Only the embedding moves; positions and biases, which are no
  sender's, stay.
- ``eap-ig-activations`` (EAP-IG's own code): on clean tokens, the outputs of one *group* - a
  layer's heads together, an MLP, the input - are replaced by ablated + k/steps (clean - ablated), k
  from 1 to steps; the mean over all steps of all groups. What is replaced is a constant: no
  gradient goes back through it, so that none reaches what it reads.

Methods in files of their own go back through the clean run by other rules (``relp``, ``gim``) or
see an attention pattern's change as it is (``atp``).

Scores are each prompt's own. Nothing at a padded position, and nothing before the first token that
differs, counts. Where the prompts have roles, the sum over positions is that over each role's:
these sum to the score without roles.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from threading import Lock
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from circuitfind.circuits.masks import readable
from circuitfind.circuits.outputs import Outputs
from circuitfind.errors import ModelError, UsageError
from circuitfind.methods.method import Job
from circuitfind.metrics.measures import MetricName
from circuitfind.metrics.objective import make_objective
from circuitfind.models.components import CALCULUS, Rules
from circuitfind.models.transformer import Transformer, embed, embed_positions
from circuitfind.models.workers import Threads
from circuitfind.patching.ablation import AblationName, constant_outputs
from circuitfind.patching.blocks import first_changed
from circuitfind.patching.gradients.edges import Gradients, Places, contract
from circuitfind.patching.gradients.sweep import (
    Collector,
    Run,
    Stream,
    Sweeper,
    without_final_norm,
)
from circuitfind.patching.problem import Problem
from circuitfind.progress import Progress
from circuitfind.prompts.batch import Batch
from circuitfind.prompts.roles import Roles, by_receiver

STEPS = 5
"""MIB's."""

WORTH = 4
"""The positions before the first that changes are run apart if they are at least one in so many."""

ByRole = Float[Tensor, "prompt role receiver sender"]
"""Scores role by role (``roles.by_role``); of one role where there are none."""
Tell = Callable[[], None]
Scores = Float[Tensor, "prompt *place"]
"""Of edges ``ByRole``, or of neurons [prompt, neuron]."""
Slope = Callable[[Float[Tensor, "prompt d_model"]], Float[Tensor, "prompt d_model"]]


class Block:
    """A block of prompts: its clean run, what each sender changes by, and runs from other streams.

    Everything begins at ``first``, a position before which no prompt of the whole batch changes;
    the keys and values of those before it are the clean run's. A run takes twice the room of all
    senders' changes, so that none is held longer than it is needed: of the clean run and that with
    the input ablated the stages are held if that is said.
    """

    of_neurons: ClassVar[bool] = False
    """Whether outputs come with hidden layers."""

    def __init__(
        self,
        sweeper: Sweeper,
        batch: Batch,
        first: int,
        metric: MetricName,
        ablation: AblationName,
        keep_clean: bool = True,
        keep_ablated: bool = False,
    ) -> None:
        model = sweeper.model
        self.sweeper = sweeper
        self._ends = batch.end - first
        self.spans = [
            (begin - first, end + 1 - first)
            for begin, end in zip(first_changed(batch, ablation), batch.end.tolist(), strict=True)
        ]
        self.places = _places(self.spans, batch.roles, first)
        embedding, positions = embed(model, batch.clean), embed_positions(model, batch.n_pos)
        self._before = sweeper.run((embedding + positions)[:, :first]) if first else None
        self.stream = (embedding + positions)[:, first:]
        gone = self._ablate(model, batch, first, ablation, keep_ablated)
        now, self.clean = self._look_at(embedding[:, first:], self.stream, keep_clean)
        self._compare(now, gone)
        self._slope = _make_slope(sweeper, metric, batch, self.at_answers(self.clean.final))

    def _compare(self, now: Outputs, gone: Outputs) -> None:
        """Holds what each sender changes by when it is ablated."""
        self.change = self.sweeper.changes(now, gone)

    def _ablate(
        self, model: Transformer, batch: Batch, first: int, ablation: AblationName, keep: bool
    ) -> Outputs:
        """What every sender writes when it is ablated. Under interchange that takes a run, which is
        held or not.
        """
        self._ablated: Run | None = None
        if ablation != "corrupted":
            return from_position(constant_outputs(model, batch, ablation), first)
        embedding = embed(model, batch.corrupted)
        stream = (embedding + embed_positions(model, batch.n_pos))[:, first:]
        outputs, self._ablated = self._look_at(embedding[:, first:], stream, keep)
        return outputs

    def _look_at(self, embedding: Stream, stream: Stream, keep: bool) -> tuple[Outputs, Run]:
        """What every sender writes in the run that reads ``stream``; and the run, with its stages
        or without.
        """
        if not keep:
            return self.sweeper.run_for_outputs(embedding, stream, self._before)
        run = self.run(stream)
        return self.sweeper.outputs_of(embedding, run), run

    def take_ablated_input(self) -> Run:
        """The run whose input is ablated: under interchange the corrupted run. It is held here no longer."""
        ran, self._ablated = self._ablated, None
        return ran if ran is not None and ran.stages else self.run(self.stream + self.change[0])

    def at_answers(self, x: Stream) -> Float[Tensor, "prompt d_model"]:
        """The rows of the answer positions."""
        return x[torch.arange(len(x), device=x.device), self._ends]

    def run(self, stream: Stream, first: int = 0) -> Run:
        """The run from step ``first`` on, which reads ``stream``."""
        return self.sweeper.run(stream, self._before, first)

    def moved(self, senders: slice, share: float, first: int) -> Run:
        """The run from step ``first`` on as these senders, which write right before it, are ablated
        by a share.
        """
        return self.run(self.clean.reads[first] + share * self.change[senders].sum(0), first)

    def slope(self, run: Run) -> Stream:
        """The gradient of each prompt's objective at what the logits read."""
        gradient = torch.zeros_like(run.final)
        gradient[torch.arange(len(gradient), device=gradient.device), self._ends] = self._slope(
            self.at_answers(run.final)
        )
        return gradient

    def sweep(self, run: Run, into: Collector, first: int = 0) -> Stream:
        """Back from a run's objective to the stream that step ``first`` reads, which gradient is returned."""
        gradient = self.slope(run)
        into.add_final(gradient)
        return self.sweeper.sweep(run, gradient, into, first)

    def collector(self) -> Collector:
        """One that takes what ``scores`` needs."""
        return Gradients(self.sweeper.model, self.sweeper.rules)

    def gradients(self, runs: Iterable[Run], tell: Tell) -> Collector:
        """The gradients of whole runs, summed."""
        total = self.collector()
        for run in runs:
            self.sweep(run, total)
            del run  # before there is another
            tell()
        return total

    def scores(self, gradients: Collector) -> Scores:
        """Every sender's change times these gradients, role by role."""
        assert isinstance(gradients, Gradients)
        return contract(gradients, self.sweeper.layout, self.change, self.places)


def _places(spans: Sequence[tuple[int, int]], roles: Roles | None, first: int) -> Places:
    """Which positions of each prompt's span have each role, counted from ``first``; without roles
    the span.
    """
    if roles is None:
        return [[slice(*span)] for span in spans]
    numbers = range(len(roles.names))
    return [
        [start + (of[first:][start:stop] == number).nonzero().flatten() for number in numbers]
        for (start, stop), of in zip(spans, roles.of, strict=True)
    ]


def from_position(constants: Outputs, first: int) -> Outputs:
    """Constants without the positions before ``first``, where there is one for each."""

    def cut(x: Tensor) -> Tensor:
        return x if x.shape[-2] == 1 else x[..., first:, :]

    z, out, hidden = (
        tuple(map(cut, each)) for each in (constants.z, constants.mlp_out, constants.hidden)
    )
    return Outputs(cut(constants.embedding), z, out, hidden)


def _make_slope(
    sweeper: Sweeper, metric: MetricName, batch: Batch, final: Float[Tensor, "prompt d_model"]
) -> Slope:
    """What gives the gradient of each prompt's objective at what the logits read, by the sweeper's rules.

    ``final``: what they read in the clean run.
    """
    model = sweeper.model
    if not sweeper.rules.frozen_norms:
        return make_objective(metric, model, batch, final).slope
    norm = model.architecture.readout.norm
    objective = make_objective(metric, without_final_norm(model), batch, norm.forward(final))

    def slope(read: Float[Tensor, "prompt d_model"]) -> Float[Tensor, "prompt d_model"]:
        normed = norm.run(read.unsqueeze(1))
        gradient = objective.slope(normed.out.squeeze(1)).unsqueeze(1)
        return norm.backward(normed, gradient, sweeper.rules).squeeze(1)

    return slope


@dataclass(frozen=True)
class Attribution:
    """What all have in common: a method says where it takes gradients."""

    metric: MetricName = "logit-diff"
    ablation: AblationName = "corrupted"
    name: ClassVar[str]
    goes_through_clean: ClassVar[bool] = True
    goes_through_ablated: ClassVar[bool] = False
    """Whether gradients go through the clean run, and through the one whose input is ablated."""

    def to_dict(self) -> dict[str, Any]:
        """The block ``method`` of a circuit file: every option, and the convention of the scores."""
        return {
            "name": self.name,
            **asdict(self),
            "score": "(ablated - clean) . gradient: positive if ablation hurts",
        }

    def score(self, problem: Problem, job: Job = Job()) -> Float[Tensor, "prompt receiver sender"]:
        """Every edge's score on each prompt, in the metric's unit; NaN where the graph has no edge.

        Neither ``batch_size`` nor threads change a score. Raises UsageError where the metric needs
        wrong answers that a prompt doesn't have, ModelError where a score is NaN or infinite.
        """
        scores = by_receiver(problem.graph, self.score_with(Block, problem, job))
        return scores.masked_fill_(~readable(problem.graph), math.nan)

    def score_with(self, open_block: type[Block], problem: Problem, job: Job) -> Scores:
        """What such blocks make of the gradients, prompt by prompt."""
        problem, model = problem.by(self.metric, self.ablation), problem.model
        self._check(model)
        sweeper = Sweeper(model, self._rules(), open_block.of_neurons)
        first, groups = _first_position(problem.prompts, self.ablation), problem.blocks()
        tell = _counter(job.progress, len(groups) * self._n_sweeps(sweeper))

        def score_block(group: tuple[Batch, int]) -> Tensor:
            through = (self.goes_through_clean, self.goes_through_ablated)
            block = open_block(sweeper, group[0], first, self.metric, self.ablation, *through)
            return self._score(block, tell)[: group[1]].cpu()

        with Threads(model.device) as threads:
            scores = torch.cat(threads.map(score_block, groups))
        if not scores.isfinite().all():
            raise ModelError(
                "A score became NaN or infinite: the model's gradients overflow. Use --dtype float64."
            )
        return scores

    def _check(self, model: Transformer) -> None:
        """Raises UsageError if the method can't do this model."""

    def _rules(self) -> Rules:
        """How gradients go back."""
        return CALCULUS

    def _n_sweeps(self, sweeper: Sweeper) -> int:
        """How often each block tells of progress: how many times it goes back through the model, or
        part of it.
        """
        raise NotImplementedError

    def _score(self, block: Block, tell: Tell) -> Scores:
        raise NotImplementedError


def _first_position(batch: Batch, ablation: AblationName) -> int:
    """Where runs begin: at the first position that changes in any prompt, or 0 if little would be
    saved by a run of the positions before, which reads all weights however few they are."""
    first = min(first_changed(batch, ablation))
    return first if first * WORTH >= batch.n_pos else 0


def _counter(progress: Progress, total: int) -> Tell:
    """Tells how many of ``total`` sweeps are done, one at each call, from any thread."""
    lock, done = Lock(), 0

    def tell() -> None:
        nonlocal done
        with lock:
            done += 1
            progress.update(done, total)

    return tell


@dataclass(frozen=True)
class AtCleanRun(Attribution):
    """Methods that go back through the clean run once."""

    def __post_init__(self) -> None:
        if self.metric == "kl":
            raise UsageError(
                f"{self.name} takes its gradient in the clean run, where that of kl is zero: every score"
                " would be rounding.\nUse --metric logit-diff, prob-diff or loss, or --method eap-ig or"
                " clean-corrupted."
            )

    def _n_sweeps(self, sweeper: Sweeper) -> int:
        return 1

    def _score(self, block: Block, tell: Tell) -> Scores:
        return block.scores(block.gradients([block.clean], tell))


@dataclass(frozen=True)
class EAP(AtCleanRun):
    """The gradient in the clean run (arXiv:2310.10348)."""

    name: ClassVar[str] = "eap"


@dataclass(frozen=True)
class CleanCorrupted(Attribution):
    """The mean gradient of the clean run and of the one whose input is ablated. Of kl the first is zero."""

    name: ClassVar[str] = "clean-corrupted"
    goes_through_ablated: ClassVar[bool] = True

    def _check(self, model: Transformer) -> None:
        _check_input(self.name, self.ablation, model)

    def _n_sweeps(self, sweeper: Sweeper) -> int:
        return 2

    def _score(self, block: Block, tell: Tell) -> Scores:
        return block.scores(block.gradients(self._runs(block), tell)) / 2

    def _runs(self, block: Block) -> Iterator[Run]:
        yield block.take_ablated_input()
        yield block.clean


@dataclass(frozen=True)
class EAPIG(Attribution):
    """The mean gradient as the input goes from ablated towards clean (arXiv:2403.17806)."""

    steps: int = STEPS
    name: ClassVar[str] = "eap-ig"
    goes_through_clean: ClassVar[bool] = False
    goes_through_ablated: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_steps(self.steps)

    def _check(self, model: Transformer) -> None:
        _check_input(self.name, self.ablation, model)

    def _n_sweeps(self, sweeper: Sweeper) -> int:
        return self.steps

    def _score(self, block: Block, tell: Tell) -> Scores:
        return block.scores(block.gradients(self._runs(block), tell)) / self.steps

    def _runs(self, block: Block) -> Iterator[Run]:
        yield block.take_ablated_input()
        for k in range(1, self.steps):
            yield block.moved(slice(1), 1 - k / self.steps, first=0)


@dataclass(frozen=True)
class EAPIGActivations(Attribution):
    """The mean gradient as the outputs of one group after another go from ablated to clean.

    What reads the stream before the replaced output is the same in every run, and gradients go back
    through it linearly: those that arrive there from all runs are added up and go back together,
    once.
    """

    steps: int = STEPS
    name: ClassVar[str] = "eap-ig-activations"

    def __post_init__(self) -> None:
        _check_steps(self.steps)
        if self.metric == "kl" and self.steps == 1:
            raise UsageError(
                "eap-ig-activations with one step is the clean run alone, where the gradient of kl is zero.\n"
                "Use --steps 2 or more, or --metric logit-diff, prob-diff or loss."
            )

    def _n_sweeps(self, sweeper: Sweeper) -> int:
        return (self.steps - 1) * sweeper.layout.n_stages

    def _score(self, block: Block, tell: Tell) -> Scores:
        layout, steps = block.sweeper.layout, block.sweeper.steps
        scores, _ = self._replace(block, slice(1), 0, tell)
        arrived: dict[int, Stream] = {}
        for number, step in enumerate(steps):
            for stage in step:
                senders = layout.graph.stages[stage].senders
                of_group, arrived[stage] = self._replace(block, senders, number + 1, tell)
                scores += of_group
        scores += block.scores(_back_together(block, arrived))
        return scores / (self.steps * layout.n_stages)

    def _replace(self, block: Block, senders: slice, first: int, tell: Tell) -> tuple[Scores, Stream]:
        """All but the last step of one group, which is the clean run: the sum of the scores behind
        it (from step ``first`` on), and that of the gradients at the stream it writes to."""
        gradients, arrived = block.collector(), torch.zeros_like(block.stream)
        for k in range(1, self.steps):
            arrived += block.sweep(block.moved(senders, 1 - k / self.steps, first), gradients, first)
            tell()
        return block.scores(gradients), arrived


def _back_together(block: Block, arrived: dict[int, Stream]) -> Collector:
    """Gradients in the clean run: those of each group's last step, and those that arrived before the groups.

    ``arrived``: for each stage, the sum of what arrives at the stream it writes to in its other
    steps, which goes on past the stage but not through it.
    """
    sweeper, gradients = block.sweeper, block.collector()
    clean = block.slope(block.clean)
    gradients.add_final(clean, weight=sweeper.layout.n_stages)
    passing = torch.zeros_like(clean)
    n_groups = sweeper.layout.n_stages
    for step in reversed(sweeper.steps):
        n_groups -= len(step)
        here = {stage: arrived[stage] + clean for stage in step}
        through = {
            stage: reduce(operator.add, (here[s] for s in step if s != stage), passing) for stage in step
        }
        passing = reduce(operator.add, here.values(), passing)
        earlier = clean
        for stage in step:
            gradients.add_written(
                stage, here[stage]
            )  # what its own group's runs bring to it, but not through it
            passing = passing + sweeper.back(stage, block.clean, through[stage], gradients)
            earlier = earlier + sweeper.back(stage, block.clean, clean, gradients, weight=n_groups)
        clean = earlier
    return gradients


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise UsageError(f"--steps is {steps}; it must be 1 or more.")


def _check_input(name: str, ablation: AblationName, model: Transformer) -> None:
    """Refuses runs that read zeros in every position, which a norm blows up by 1 / sqrt(epsilon)."""
    if ablation == "zero" and model.W_pos is None:
        raise UsageError(
            f"{name} takes gradients where the input is ablated, and this model without learned positions"
            " reads nothing at all where it is zero: its norms divide by their epsilon.\nUse --ablation"
            " corrupted, or --method eap or eap-ig-activations."
        )
