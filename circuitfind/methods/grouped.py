"""The grouped schedule of ACDC: many edges a test.

Stages are visited in reverse forward order: the logits; then, from the last layer to the first, its MLP and all q, k
and v inputs of its heads together. The edges into a stage's live nodes are ordered by their attribution, the smallest
first, taken where half of each of them is removed: in the present run itself the gradient of KL may be zero. They are
tested as one group: it is removed if the metric then rises by less than the threshold, strictly; otherwise each half of
it is tried by itself, the first half first; an edge that fails alone stays. A group is halved where its attributions
are, not their number: a few edges often have more than all others.

So every removed group has cost less than the threshold as measured, and the metric has risen by less than the
threshold times the number of removed groups. An edge that stays was tested alone, in the run as it then was.
A half that would by its attribution cost several thresholds is halved again without a test. Nor does a second half
need one where all of the first has gone: removing it too gives the run in which the whole group was refused.

Edges into a node that no kept edge leaves go without a test, with the score 0. An edge that stays has as its score the
rise that was measured when it was tested. A removed one has its part, by the size of its attribution, of what was
measured for its group: the scores of all removed edges add up to what the circuit costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitfind.attribution import attribute
from circuitfind.batch import Batch
from circuitfind.masked import Layout, Mask, Masked, Runner
from circuitfind.methods.found import Found, Save, in_question, save_nothing, take_up
from circuitfind.metrics import MetricName, Objective, check_answers, make_objective
from circuitfind.patching import AblationName, Baseline, prepare, readable
from circuitfind.progress import Progress
from circuitfind.search import mean_over_prompts, split
from circuitfind.threads import Threads
from circuitfind.transformer import Transformer

HOPELESS = 4.0
"""A group whose attributions add up to more than so many thresholds is halved without a test."""

Places = Int[Tensor, " edge"]
"""Edges by their places in a flattened [receiver, sender] matrix."""
Scores = Float[Tensor, " edge"]
Edges = Bool[Tensor, "receiver sender"]


class _Block:
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

    def test(self, kept: Mask) -> Float[Tensor, "prompt d_model"]:
        """What the logits read in the run under a mask, which may become the present one."""
        self._tested = self.runner.rerun(self._run, kept)
        return self._tested.final[: self._n_real]

    def accept(self) -> None:
        self._run = self._tested

    def rerun(self, kept: Mask) -> Masked:
        """A run that stays beside the present one."""
        return self.runner.rerun(self._run, kept)

    def score(
        self, run: Masked, slope: Float[Tensor, "prompt d_model"], stage: int
    ) -> Float[Tensor, "prompt receiver sender"]:
        """The attributions of the edges into a stage's receivers, from the slope at what the logits read."""
        whole = torch.cat([slope, slope.new_zeros(len(run.final) - len(slope), slope.shape[1])])
        return attribute(self.runner, run, whole, stage)[: self._n_real]


class _Present:
    """The present run over all prompts. ``kept``: its mask; ``value``: the mean of the objective."""

    def __init__(self, blocks: Sequence[_Block], objective: Objective, threads: Threads, kept: Mask) -> None:
        self._blocks, self._objective, self._threads = blocks, objective, threads
        self._layout = blocks[0].runner.layout
        self.kept = self._tested = kept
        self.value = self._tested_value = self._test(kept)
        self.accept()

    def test_without(self, group: Places) -> float:
        """The objective as these edges are removed too, its mean over prompts."""
        self._tested = self.kept.clone()
        self._tested.view(-1)[group] = 0
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

    def order(self, rows: Sequence[int], stage: int, among: Edges) -> tuple[Places, Scores]:
        """All edges ``among`` these into receivers of a stage, from the smallest attribution to the largest, and these.

        Taken where half of each is removed; a tie goes by the order of the graph.
        """
        tested = torch.zeros_like(among)
        tested[list(rows)] = among[list(rows)]
        kept = self.kept.masked_fill(tested, 0.5)
        runs = self._threads.map(lambda block: block.rerun(kept), self._blocks)
        finals = [run.final[: len(block.clean_final)] for block, run in zip(self._blocks, runs, strict=True)]
        slopes = torch.split(self._objective.slope(torch.cat(finals)), [len(final) for final in finals])
        each = list(zip(self._blocks, runs, slopes, strict=True))
        parts = self._threads.map(lambda one: one[0].score(*one[1:], stage).cpu(), each)
        scores, places = torch.cat(parts).mean(0)[tested], tested.flatten().nonzero().flatten()
        order = scores.argsort(stable=True)
        return places[order], scores[order]

    def _test(self, kept: Mask) -> float:
        finals = torch.cat(self._threads.map(lambda block: block.test(kept), self._blocks))
        (value,) = mean_over_prompts(self._objective(finals.unsqueeze(0)).cpu())
        return value


@dataclass(frozen=True)
class Grouped:
    """The options of the search. ``threshold`` is in the metric's unit, for the mean over prompts and a whole group."""

    threshold: float
    metric: MetricName = "kl"
    ablation: AblationName = "corrupted"
    match: bool = False

    def find(
        self,
        model: Transformer,
        batch: Batch,
        batch_size: int,
        progress: Progress,
        start: Found | None = None,
        save: Save = save_nothing,
        shortlist: Edges | None = None,
    ) -> Found:
        """Decide on every edge. ``start`` takes up what an earlier search of the same model, batch and options had
        decided, to the same outcome to the last bit; ``save`` is called with what is decided after every decision. With
        a ``shortlist`` all other edges are removed first."""
        check_answers(self.metric, batch)
        graph = model.architecture.graph
        layout, among, found = Layout(graph), in_question(graph, shortlist), take_up(graph, start, shortlist)
        n_edges = int(among.sum())
        with Threads(model.device) as threads:
            present = self._open(model, batch, batch_size, threads, found)
            for stage in reversed(range(layout.n_stages)):
                for decided in self._decide(present, layout, stage, among, found):
                    found = decided
                    save(found)
                    note = f"{found.summary}, {self.metric} {present.value:.4g}"
                    progress.update(found.n_decided(among), n_edges, note)
        save(found)
        progress.update(n_edges, n_edges, found.summary)
        return found

    def _open(self, model: Transformer, batch: Batch, batch_size: int, threads: Threads, found: Found) -> _Present:
        batch = batch.to(model.device)

        def open_block(group: tuple[Batch, int]) -> _Block:
            return _Block(prepare(model, group[0], self.ablation), group[1])

        blocks = threads.map(open_block, split(batch, batch_size))
        final = torch.cat([block.clean_final for block in blocks])
        objective = make_objective(self.metric, model, batch, final, self.match, each=threads.map)
        undecided = readable(model.architecture.graph) & ~found.decided
        return _Present(blocks, objective, threads, (found.kept | undecided).double())

    def _decide(self, present: _Present, layout: Layout, stage: int, among: Edges, found: Found) -> Iterator[Found]:
        """Decide on the edges into a stage's receivers; what is found after every decision."""
        rows = layout.rows(stage)
        live = [row for row in rows if is_live(layout, row, found)]
        dead = [row for row in rows if row not in live]
        if dead:
            found.decided[dead, : layout.n_readable(stage)] = True
            present.forget(dead)
        if live and not found.decided[live, : layout.n_readable(stage)].all():
            places, scores = present.order(live, stage, among)
            yield from self._divide(present, places, scores, found)

    def _divide(
        self, present: _Present, group: Places, scores: Scores, found: Found, known: float | None = None
    ) -> Iterator[Found]:
        """Remove the group as a whole, or keep the edge that it is, or do so with each half of it.

        ``known``: the objective as the group goes, where a test has told it. A group some of whose edges are decided
        was refused before the search was taken up.
        """
        decided = found.decided.view(-1)[group]
        if decided.all():
            return
        hopeless = len(group) > 1 and float(scores.sum()) > HOPELESS * self.threshold
        if decided.any():
            if known is None and not hopeless:
                known = present.test_without(group[~decided])
        elif known is not None or not hopeless:
            found, known = self._test(present, group, found, known)
            rise = known - present.value
            if len(group) == 1 or rise < self.threshold:
                yield self._settle(present, group, scores, rise, found)
                return
        half = middle(scores)
        for part in (slice(half), slice(half, None)):
            goes_last = part.stop is None and not found.kept.view(-1)[group[:half]].any()
            for settled in self._divide(present, group[part], scores[part], found, known if goes_last else None):
                found = settled
                yield found

    def _test(self, present: _Present, group: Places, found: Found, known: float | None) -> tuple[Found, float]:
        """The objective without the group; no run is made for what is known, unless it becomes the present one."""
        if known is not None and not known - present.value < self.threshold:
            return found, known
        return replace(found, n_evaluated=found.n_evaluated + 1), present.test_without(group)

    def _settle(self, present: _Present, group: Places, scores: Scores, rise: float, found: Found) -> Found:
        """Enter the outcome of a test."""
        if rise < self.threshold:
            present.accept()
        else:
            found.kept.view(-1)[group] = True
        found.decided.view(-1)[group] = True
        found.scores.view(-1)[group] = rise * shares(scores)
        return replace(found, n_tests=found.n_tests + 1)


def is_live(layout: Layout, row: int, found: Found) -> bool:
    """Whether a kept edge leaves the node of this receiver, all behind it being decided. The logits always live."""
    reader = layout.reader(row)
    return reader is None or bool(found.kept[:, reader].any())


def middle(scores: Scores) -> int:
    """Where a group is halved: the first half has at most half of the sizes of all its attributions, but one edge."""
    sums = scores.abs().cumsum(0)
    return min(max(int((sums <= sums[-1] / 2).sum()), 1), len(scores) - 1)


def shares(scores: Scores) -> Scores:
    """Each edge's part of its group, by the size of its attribution; the same for all where there is none."""
    sizes = scores.abs()
    total = sizes.sum()
    return sizes / total if total > 0 else torch.full_like(sizes, 1 / len(sizes))
