"""The grouped schedule of ACDC: many edges a test.

Stages are visited in reverse forward order: the logits; then, from the last layer to the first, its
MLP and all q, k and v inputs of its heads together. The edges into a stage's live nodes are ordered
by their attribution, the smallest first, taken where half of each of them is removed: in the
present run itself the gradient of KL may be zero. They are tested as one group: it is removed if
the metric then rises by less than the threshold, strictly; otherwise each half of it is tried by
itself, the first half first; an edge that fails alone stays. A group is halved where its
attributions are, not their number: a few edges often have more than all others.

So every removed group has cost less than the threshold as measured, and the metric has risen by
less than the threshold times the number of removed groups. An edge that stays was tested alone, in
the run as it then was. A half that would by its attribution cost several thresholds is halved again
without a test. Nor does a second half need one where all of the first has gone: removing it too
gives the run in which the whole group was refused.

Edges into a node that no kept edge leaves go without a test, with the score 0. An edge that stays
has as its score the rise that was measured when it was tested. A removed one has its part, by the
size of its attribution, of what was measured for its group: the scores of all removed edges add up
to what the circuit costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from circuitfind.circuits.layout import Layout
from circuitfind.circuits.units import KvName, Units
from circuitfind.methods.method import Job
from circuitfind.methods.outcome import Found, in_question, start_of, take_up
from circuitfind.methods.search.present_run import Edges, Places, Present, Scores, open_blocks
from circuitfind.metrics.measures import MetricName
from circuitfind.models.workers import Threads
from circuitfind.patching.ablation import AblationName
from circuitfind.patching.problem import Problem

HOPELESS = 4.0
"""A group whose attributions add up to more than so many thresholds is halved without a test."""


@dataclass(frozen=True)
class Grouped:
    """The options of the search. ``threshold`` is in the metric's unit, for the mean over prompts
    and a whole group.
    """

    threshold: float
    metric: MetricName = "kl"
    ablation: AblationName = "corrupted"
    match: bool = False
    kv: KvName = "per-head"

    def find(self, problem: Problem, job: Job = Job(), shortlist: Edges | None = None) -> Found:
        """Decide on every edge. ``start`` takes up what an earlier search of the same model, batch
        and options had decided, to the same outcome to the last bit; ``save`` is called with what
        is decided after every decision. With a ``shortlist`` all other edges are removed first."""
        problem, shape = problem.by(self.metric, self.ablation, self.match), problem.model.architecture
        units = Units.of(shape.graph, shape.n_kv_heads, "edge", self.kv)
        graph, layout = units.graph, Layout(units.graph)
        among, found = in_question(graph, shortlist), take_up(graph, start_of(job, graph), shortlist)
        n_edges = int(among.sum())
        with Threads(problem.model.device) as threads:
            blocks, objective = open_blocks(problem, threads)
            present = Present(
                blocks, objective, threads, (found.kept | (units.edges & ~found.decided)).double()
            )
            for stage in reversed(range(layout.n_stages)):
                for decided in self._decide(present, layout, units, stage, among, found):
                    found = decided
                    job.save(found.to_so_far())
                    note = f"{found.summary}, {self.metric} {present.value:.4g}"
                    job.progress.update(found.n_decided(among), n_edges, note)
        job.save(found.to_so_far())
        job.progress.update(n_edges, n_edges, found.summary)
        return found

    def _decide(
        self, present: Present, layout: Layout, units: Units, stage: int, among: Edges, found: Found
    ) -> Iterator[Found]:
        """Decide on the edges into a stage's receivers; what is found after every decision."""
        rows = layout.rows(stage)
        live = [row for row in rows if is_live(layout, row, found)]
        dead = [row for row in rows if row not in live]
        if dead:
            found.decided[dead, : layout.n_readable(stage)] = True
            present.forget(dead)
        if live and not found.decided[live, : layout.n_readable(stage)].all():
            groups = groups_of(units, live)
            present.take_together(groups)
            for settled in self._divide(present, *present.order(groups, stage, among), found):
                follow(settled, groups)
                yield settled

    def _divide(
        self, present: Present, group: Places, scores: Scores, found: Found, known: float | None = None
    ) -> Iterator[Found]:
        """Remove the group as a whole, or keep the edge that it is, or do so with each half of it.

        ``known``: the objective as the group goes, where a test has told it. A group some of whose
        edges are decided was refused before the search was taken up.
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
            for settled in self._divide(
                present, group[part], scores[part], found, known if goes_last else None
            ):
                found = settled
                yield found

    def _test(
        self, present: Present, group: Places, found: Found, known: float | None
    ) -> tuple[Found, float]:
        """The objective without the group; no run is made for what is known, unless it becomes the
        present one.
        """
        if known is not None and not known - present.value < self.threshold:
            return found, known
        return replace(found, n_evaluated=found.n_evaluated + 1), present.test_without(group)

    def _settle(
        self, present: Present, group: Places, scores: Scores, rise: float, found: Found
    ) -> Found:
        """Enter the outcome of a test."""
        if rise < self.threshold:
            present.accept()
        else:
            found.kept.view(-1)[group] = True
        found.decided.view(-1)[group] = True
        found.scores.view(-1)[group] = rise * shares(scores)
        return replace(found, n_tests=found.n_tests + 1)


def is_live(layout: Layout, row: int, found: Found) -> bool:
    """Whether a kept edge leaves the node of this receiver, all behind it being decided. The logits
    always live.
    """
    reader = layout.reader(row)
    return reader is None or bool(found.kept[:, reader].any())


def groups_of(units: Units, rows: Sequence[int]) -> list[list[int]]:
    """These receivers of a stage in groups of those that are one, in graph order."""
    together = [
        [units.graph.receiver_index[receiver] for receiver in group] for group in units.receivers()
    ]
    return [some for group in together if (some := [row for row in group if row in rows])]


def follow(found: Found, groups: Sequence[Sequence[int]]) -> None:
    """Enter the outcome at the first receiver of each group at its others."""
    for first, *others in groups:
        for other in others:
            for tensor in (found.kept, found.scores, found.decided):
                tensor[other] = tensor[first]


def middle(scores: Scores) -> int:
    """Where a group is halved: the first half has at most half of the sizes of all its
    attributions, but one edge.
    """
    sums = scores.abs().cumsum(0)
    return min(max(int((sums <= sums[-1] / 2).sum()), 1), len(scores) - 1)


def shares(scores: Scores) -> Scores:
    """Each edge's part of its group, by the size of its attribution; the same for all where there is none."""
    sizes = scores.abs()
    total = sizes.sum()
    return sizes / total if total > 0 else torch.full_like(sizes, 1 / len(sizes))
