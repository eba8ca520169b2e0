"""Every neuron ablated alone: what attribution of neurons approximates, measured.

score(neuron j of node u) = the objective in the full model with this neuron alone ablated, less the
full model's own. A neuron writes its activation times its own row of W_out (W_O), so a test is one
changed node and from there on the plain model, as for edges (``exact.py``,
``patching/one_change.py``). There are as many tests as neurons.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from circuitfind.circuits.bases import Neurons
from circuitfind.circuits.graph import Node
from circuitfind.methods.attribution.by_neuron import neuron_moves
from circuitfind.methods.exact import TESTS_AT_ONCE, OneByOne, finite
from circuitfind.methods.method import Job
from circuitfind.methods.saved_state import SoFar, require_even
from circuitfind.metrics.measures import MetricName
from circuitfind.models.transformer import Transformer
from circuitfind.models.workers import Threads
from circuitfind.patching.ablation import AblationName, with_hidden
from circuitfind.patching.one_change import Onward, Read, join_reads
from circuitfind.patching.problem import Problem
from circuitfind.patching.reference import prepare
from circuitfind.patching.units import ablated_neurons, neurons_of
from circuitfind.prompts.batch import Batch


class NeuronRemoval:
    """One block of prompts, and what its logits read when one neuron alone is ablated."""

    def __init__(
        self, model: Transformer, ablation: AblationName, reads: Sequence[Read], batch: Batch
    ) -> None:
        baseline = prepare(model, batch, ablation)
        self._model, self._neurons, self._onward = model, neurons_of(model), Onward(baseline, reads)
        self._moves = neuron_moves(
            with_hidden(model, baseline.clean), ablated_neurons(model, batch, ablation)
        )
        self.final = self._onward.final

    @property
    def n_rows(self) -> int:
        """How many rows a test has."""
        return self._onward.n_rows

    def remove(self, where: Node, which: Sequence[int], /) -> Float[Tensor, "test prompt d_model"]:
        """What the logits read when one of the node's neurons alone is ablated, for each of these."""
        weights, stage = self._model.layers[where.layer], self._neurons.graph.stage_of(where).number
        first = 0 if where.kind == "mlp" else where.head * self._neurons.d_head
        rows = weights.W_out if where.kind == "mlp" else weights.W_O[where.head]
        move = self._moves[stage][..., [first + index for index in which]].permute(2, 0, 1)
        return self._onward.write(where, move.unsqueeze(-1) * rows[list(which)][:, None, None])


@dataclass(frozen=True)
class ExactNeurons:
    """The method's options, and so its record."""

    metric: MetricName = "logit-diff"
    ablation: AblationName = "corrupted"
    name: ClassVar[str] = "exact"
    resumes: ClassVar[bool] = True

    def to_dict(self) -> dict[str, Any]:
        """The block ``method`` of a circuit file."""
        said = "neuron ablated alone - full model: positive if it hurts"
        return {"name": self.name, **asdict(self), "score": said, "level": "neuron"}

    def score(self, problem: Problem, job: Job = Job()) -> Float[Tensor, "prompt neuron"]:
        """Every neuron's score on each prompt, in the metric's unit, in forward order.

        Neither ``batch_size`` nor threads change a score. What is so far are the ``scores``, NaN
        where there is none yet. Raises UsageError where the metric needs wrong answers that a
        prompt doesn't have, ModelError where a score is NaN or infinite.
        """
        problem = problem.by(self.metric, self.ablation)
        model, start = problem.model, job.start
        neurons, reads = neurons_of(model), join_reads(model)
        dtype = torch.promote_types(model.dtype, torch.float32)
        unknown = torch.full((problem.batch.n_prompts, len(neurons)), math.nan, dtype=dtype)
        scores = unknown if start is None else start.tensor("scores", unknown)
        require_even(scores, "scores")
        with Threads(model.device) as threads:
            opened = partial(NeuronRemoval, model, self.ablation, reads)
            tests = OneByOne[Node](problem, threads, opened)
            for node, first, which in _waiting(neurons, scores):
                places = slice(first + which.start, first + which.stop)
                scores[:, places] = finite(tests.rises(node, which)).to(dtype)
                told = f"{places.stop:,} of {len(neurons):,} neurons"
                job.save(SoFar({"scores": scores}, told=told))
                job.progress.update(work(neurons, places.stop), work(neurons, len(neurons)), told)
        return scores


def _waiting(
    neurons: Neurons, scores: Float[Tensor, "prompt neuron"]
) -> Iterator[tuple[Node, int, range]]:
    """In forward order: a node, the place of its first neuron, and some of those that have no score yet."""
    first = 0
    for node in neurons.nodes:
        width = neurons.width(node)
        n_done = int(scores[0, first : first + width].isfinite().sum())
        for start in range(n_done, width, TESTS_AT_ONCE):
            yield node, first, range(start, min(start + TESTS_AT_ONCE, width))
        first += width


def work(neurons: Neurons, n_tested: int) -> int:
    """What the tests of the first neurons cost, in layers that they go through."""
    layers, first = 0, 0
    for node in neurons.nodes:
        layers += max(0, min(neurons.width(node), n_tested - first)) * (
            neurons.graph.n_layers - node.layer
        )
        first += neurons.width(node)
    return layers
