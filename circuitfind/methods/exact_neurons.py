"""Every neuron ablated alone: what attribution of neurons approximates, measured.

score(neuron j of node u) = the objective in the full model with this neuron alone ablated, less the full model's own.
A neuron writes its activation times its own row of W_out (W_O), so a test is one changed node and from there on the
plain model, as for edges (``exact.py``, ``onward.py``). There are as many tests as neurons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from circuitfind.batch import Batch
from circuitfind.graph import Node
from circuitfind.methods.by_neuron import neuron_moves
from circuitfind.methods.exact import OneByOne, finite
from circuitfind.metrics import MetricName, check_answers
from circuitfind.neuron_runs import ablated_neurons, neurons_of
from circuitfind.neurons import Neurons
from circuitfind.onward import Onward, Read, join_reads
from circuitfind.patching import AblationName, prepare, with_hidden
from circuitfind.progress import Progress
from circuitfind.threads import Threads
from circuitfind.transformer import Transformer


class NeuronRemoval:
    """One block of prompts, and what its logits read when one neuron alone is ablated."""

    def __init__(self, model: Transformer, ablation: AblationName, reads: Sequence[Read], batch: Batch) -> None:
        baseline = prepare(model, batch, ablation)
        self._model, self._neurons, self._onward = model, neurons_of(model), Onward(baseline, reads)
        self._moves = neuron_moves(with_hidden(model, baseline.clean), ablated_neurons(model, batch, ablation))
        self.final = self._onward.final

    @property
    def n_rows(self) -> int:
        """How many rows a test has."""
        return self._onward.n_rows

    def remove(self, where: Node, which: Sequence[int], /) -> Float[Tensor, "test prompt d_model"]:
        """What the logits read when one of the node's neurons alone is ablated, for each of these."""
        weights, stage = self._model.layers[where.layer], 2 * where.layer + (where.kind == "mlp")
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

    def to_dict(self) -> dict[str, Any]:
        """The block ``method`` of a circuit file."""
        said = "neuron ablated alone - full model: positive if it hurts"
        return {"name": self.name, **asdict(self), "score": said, "level": "neuron"}

    def score(
        self, model: Transformer, batch: Batch, batch_size: int, progress: Progress
    ) -> Float[Tensor, "prompt neuron"]:
        """Every neuron's score on each prompt, in the metric's unit, in forward order.

        Neither ``batch_size`` nor threads change a score. Raises UsageError where the metric needs wrong answers that a
        prompt doesn't have, ModelError where a score is NaN or infinite.
        """
        check_answers(self.metric, batch)
        neurons, reads = neurons_of(model), join_reads(model)
        dtype, scores = torch.promote_types(model.dtype, torch.float32), []
        with Threads(model.device) as threads:
            opened = partial(NeuronRemoval, model, self.ablation, reads)
            tests = OneByOne[Node](model, batch.to(model.device), batch_size, self.metric, threads, opened)
            for node in neurons.nodes:
                scores.append(finite(tests.rises(node, range(neurons.width(node)))).to(dtype))
                self._tell(progress, neurons, node)
        return torch.cat(scores, dim=1)

    def _tell(self, progress: Progress, neurons: Neurons, done: Node) -> None:
        """Progress in layers that tests have gone through."""
        n_layers = neurons.graph.n_layers
        work = [(node, neurons.width(node) * (n_layers - node.layer)) for node in neurons.nodes]
        upto = neurons.nodes.index(done) + 1
        n_tested = sum(neurons.width(node) for node in neurons.nodes[:upto])
        said = f"{n_tested:,} of {len(neurons):,} neurons"
        progress.update(sum(each for _, each in work[:upto]), sum(each for _, each in work), said)
