"""Nodes ablated whole: ACDC's rule over heads and MLPs, and the effect of each one alone.

To ablate a node is to ablate what it writes, whoever reads it: all edges that leave it carry its
ablated output. What it reads no longer matters then. There are few nodes, so each test is a run of
all that the node reaches (``methods/search/present_run.py``).

The search visits nodes in reverse forward order: of each layer, from the last, the MLP, then its
heads from last to first. A node is removed for good if the metric then rises by less than the
threshold, strictly. None goes without a test, since the logits read every node. The input is not
tested and always stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitfind.circuits.units import Units
from circuitfind.errors import ModelError
from circuitfind.methods import saved_state
from circuitfind.methods.method import Job
from circuitfind.methods.outcome import Found, nothing_decided, start_of
from circuitfind.methods.saved_state import SoFar
from circuitfind.methods.search.present_run import Block, Present, open_blocks
from circuitfind.metrics.measures import MetricName
from circuitfind.models.workers import Threads
from circuitfind.patching.ablation import AblationName
from circuitfind.patching.problem import Problem


@dataclass(frozen=True)
class NodeSearch:
    """The options of the search. ``threshold`` is in the metric's unit, for the mean over prompts."""

    threshold: float
    metric: MetricName = "kl"
    ablation: AblationName = "corrupted"
    match: bool = False

    def find(self, problem: Problem, job: Job = Job()) -> Found:
        """Decide on every node; an edge is kept where both of its ends are, and has its sender's score.

        ``start`` takes up what an earlier search of the same model, batch and options had decided,
        to the same outcome to the last bit; ``save`` is called with what is decided after every
        test. Until the end a kept node is in ``kept`` with all edges that leave it.
        """
        problem = problem.by(self.metric, self.ablation, self.match)
        units = Units(problem.model.architecture.graph, "node")
        found = start_of(job, units.graph) or nothing_decided(units.graph)
        for tensor in (found.kept, found.decided):
            tensor[:, 0] = units.edges[:, 0]
        with Threads(problem.model.device) as threads:
            blocks, objective = open_blocks(problem, threads)
            alive = found.kept[-1] | ~found.decided[-1]
            present = Present(blocks, objective, threads, (units.edges & alive).double())
            for decided in self._decide(present, units, found):
                found = decided
                job.save(found.to_so_far())
                note = (
                    f"{found.n_tests:,} tests, {n_kept(found):,} nodes kept, {self.metric}"
                    f" {present.value:.4g}"
                )
                job.progress.update(int(found.decided[-1, 1:].sum()), units.n, note)
        found = replace(found, kept=units.circuit(found.kept))
        job.save(found.to_so_far())
        return found

    def _decide(self, present: Present, units: Units, found: Found) -> Iterator[Found]:
        """What is found after every test."""
        for sender in reversed(range(1, len(units.graph.senders))):
            if not found.decided[-1, sender]:
                rise = present.test_without(leaving(units, sender)) - present.value
                if rise < self.threshold:
                    present.accept()
                readers = units.edges[:, sender]
                found.kept[readers, sender] = not rise < self.threshold
                found.scores[readers, sender] = rise
                found.decided[readers, sender] = True
                found = replace(found, n_tests=found.n_tests + 1, n_evaluated=found.n_evaluated + 1)
                yield found


def leaving(units: Units, sender: int) -> Int[Tensor, " edge"]:
    """The places of the edges that leave a sender in a flattened [receiver, sender] matrix."""
    return units.edges[:, sender].nonzero().flatten() * units.edges.shape[1] + sender


def n_kept(found: Found) -> int:
    """How many nodes stay so far, the input not counted."""
    return int(found.kept[-1, 1:].sum())


def rises(problem: Problem, job: Job = Job()) -> Float[Tensor, "prompt sender"]:
    """By how much each prompt's objective rises in the full model as one sender alone is ablated,
    the input too.

    Float64. What is so far are the ``rises`` of the first senders, NaN for the others. Raises
    UsageError where the metric needs wrong answers that a prompt doesn't have, ModelError where a
    number is NaN or infinite.
    """
    units = Units(problem.model.architecture.graph, "node")
    n_senders = len(units.graph.senders)
    with Threads(problem.model.device) as threads:
        blocks, objective = open_blocks(problem, threads)

        def values(kept: Bool[Tensor, "receiver sender"]) -> Float[Tensor, " prompt"]:
            plan = blocks[0].plan(kept.double())

            def final(block: Block) -> Float[Tensor, "prompt d_model"]:
                return block.run(plan).final[: len(block.clean_final)]

            return objective(torch.cat(threads.map(final, blocks)).unsqueeze(0))[0].cpu()

        full = values(units.edges)
        unknown = torch.full((problem.batch.n_prompts, n_senders), math.nan, dtype=torch.float64)
        scores = unknown if job.start is None else job.start.tensor("rises", unknown)
        saved_state.require_even(scores, "rises")
        for sender in scores[0].isnan().nonzero().flatten().tolist():
            kept = units.edges.clone()
            kept[:, sender] = False
            scores[:, sender] = values(kept) - full
            note = f"{sender + 1:,} of {n_senders:,} nodes"
            job.save(SoFar({"rises": scores}, told=note))
            job.progress.update(sender + 1, n_senders, note)
    if not scores.isfinite().all():
        raise ModelError(
            "A score became NaN or infinite: the model's logits overflow. Use --dtype float64."
        )
    return scores
