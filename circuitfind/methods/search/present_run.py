"""The present run of a search that removes many edges at once: what is kept, and a test of what more may go.

All prompts run under one mask of kept edges (``patching/masked.py``), in blocks that the threads
share. A test is the same with some edges less, computed again only where they reach; it can be made
the present run.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitfind.metrics.objective import Objective, make_objective
from circuitfind.models.workers import Threads
from circuitfind.patching.blocks import mean_over_prompts
from circuitfind.patching.masked import Mask, Masked, Plan, Runner
from circuitfind.patching.packing import pack_model
from circuitfind.patching.problem import Problem
from circuitfind.patching.reference import Baseline, prepare
from circuitfind.patching.soft.attribution import attribute
from circuitfind.prompts.batch import Batch

Places = Int[Tensor, " edge"]
"""Edges by their places in a flattened [receiver, sender] matrix."""
Scores = Float[Tensor, " edge"]
Edges = Bool[Tensor, "receiver sender"]


class Block:
    """One block of prompts: its present run, and the one that is being tested."""

    def __init__(self, baseline: Baseline, n_real: int) -> None:
        self.runner = Runner(baseline)
        self._n_real = n_real
        self._run: Masked | None = None
        self._tested: Masked | None = None

    @property
    def clean_final(self) -> Float[Tensor, "prompt d_model"]:
        """What the logits read in the clean run."""
        return self.runner.baseline.final[: self._n_real]

    def plan(self, kept: Mask) -> Plan:
        """What a run under a mask must compute, in any block."""
        return self.runner.plan(self._run, kept)

    def test(self, plan: Plan) -> Float[Tensor, "prompt d_model"]:
        """What the logits read in the planned run, which may become the present one."""
        self._tested = self.run(plan)
        return self._tested.final[: self._n_real]

    def accept(self) -> None:
        self._run = self._tested

    def run(self, plan: Plan) -> Masked:
        """A run that stays beside the present one."""
        return self.runner.carry_out(self._run, plan)

    def score(
        self, run: Masked, slope: Float[Tensor, "prompt d_model"], stage: int
    ) -> Float[Tensor, "prompt receiver sender"]:
        """The attributions of the edges into a stage's receivers, from the slope at what the logits read."""
        whole = torch.cat([slope, slope.new_zeros(len(run.final) - len(slope), slope.shape[1])])
        return attribute(self.runner, run, whole, stage)[: self._n_real]


class Present:
    """The present run over all prompts. ``kept``: its mask; ``value``: the mean of the objective."""

    def __init__(
        self, blocks: Sequence[Block], objective: Objective, threads: Threads, kept: Mask
    ) -> None:
        self._blocks, self._objective, self._threads = blocks, objective, threads
        self._layout = blocks[0].runner.layout
        self._twins = torch.arange(len(kept)).unsqueeze(1)
        self.kept = self._tested = kept
        self.value = self._tested_value = self._test(kept)
        self.accept()

    def take_together(self, rows: Sequence[Sequence[int]]) -> None:
        """From now on the edges from a sender into these receivers of each group go with that into
        its first.
        """
        self._twins = torch.arange(len(self.kept)).unsqueeze(1).repeat(1, max(map(len, rows)))
        for group in rows:
            self._twins[group[0], : len(group)] = torch.tensor(group)

    def all_of(self, group: Places) -> Int[Tensor, " member"]:
        """These edges and those that go with them."""
        n_senders = self.kept.shape[1]
        return (self._twins[group // n_senders] * n_senders + (group % n_senders).unsqueeze(1)).flatten()

    def test_without(self, group: Places) -> float:
        """The objective as these edges are removed too, and what goes with them, its mean over prompts."""
        self._tested = self.kept.clone()
        self._tested.view(-1)[self.all_of(group)] = 0
        self._tested_value = self._test(self._tested)
        return self._tested_value

    def accept(self) -> None:
        """Makes the run that was tested last the present one."""
        for block in self._blocks:
            block.accept()
        self.kept, self.value = self._tested, self._tested_value

    def forget(self, rows: Sequence[int]) -> None:
        """Remove the edges into dead nodes, which changes no value."""
        self.kept = self.kept.clone()
        self.kept[list(rows)] = 0

    def order(self, rows: Sequence[Sequence[int]], stage: int, among: Edges) -> tuple[Places, Scores]:
        """All edges ``among`` these into receivers of a stage, from the smallest attribution to the
        largest, and these.

        Taken where half of each is removed; a tie goes by the order of the graph. The receivers
        stand in groups: of the edges from a sender into a group that into its first alone is given,
        with the sum of their attributions.
        """
        tested = torch.zeros_like(among)
        whole = [row for group in rows for row in group]
        tested[whole] = among[whole]
        kept = self.kept.masked_fill(tested, 0.5)
        plan = self._blocks[0].plan(kept)
        runs = self._threads.map(lambda block: block.run(plan), self._blocks)
        finals = [
            run.final[: len(block.clean_final)] for block, run in zip(self._blocks, runs, strict=True)
        ]
        slopes = torch.split(self._objective.slope(torch.cat(finals)), [len(final) for final in finals])
        each = list(zip(self._blocks, runs, slopes, strict=True))
        parts = self._threads.map(lambda one: one[0].score(*one[1:], stage).cpu(), each)
        means = torch.cat(parts).mean(0)
        senders = {group[0]: tested[group[0]].nonzero().flatten() for group in rows}
        scores = torch.cat([means[list(group)].sum(0)[senders[group[0]]] for group in rows])
        places = torch.cat([first * kept.shape[1] + each for first, each in senders.items()])
        order = scores.argsort(stable=True)
        return places[order], scores[order]

    def _test(self, kept: Mask) -> float:
        plan = self._blocks[0].plan(kept)
        finals = torch.cat(self._threads.map(lambda block: block.test(plan), self._blocks))
        (value,) = mean_over_prompts(self._objective(finals.unsqueeze(0)).cpu())
        return value


def open_blocks(problem: Problem, threads: Threads) -> tuple[list[Block], Objective]:
    """The prompts in blocks, and what is measured over all of them."""
    model = pack_model(problem.model)

    def open_block(group: tuple[Batch, int]) -> Block:
        return Block(prepare(model, group[0], problem.ablation), group[1])

    blocks = threads.map(open_block, problem.blocks())
    final = torch.cat([block.clean_final for block in blocks])
    return blocks, make_objective(
        problem.metric, model, problem.prompts, final, problem.match, each=threads.map
    )
