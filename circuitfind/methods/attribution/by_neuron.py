"""Attribution of single neurons, by any method that goes back by gradients
(``methods/attribution/eap.py``, ``methods/attribution/relp.py``, ``methods/attribution/gim.py``).

score(neuron j of node u) = sum over positions of (ablated - clean activation of j) . gradient at
it, which is the gradient at the stream that u writes to times j's own row of W_out (W_O). Where
gradients are taken, and by which rules they go back, is the method's own. What u writes is the sum
over its neurons, so that their scores sum to the node's: that of all edges that leave u.

So a method needs no change but for what a block of prompts collects on the way back and what it
makes of it: at edge level the gradients at what receivers read, here those at what stages write,
summed over runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from circuitfind.circuits.outputs import Outputs
from circuitfind.methods.attribution.eap import Attribution, Block, Scores
from circuitfind.methods.method import Job
from circuitfind.models.transformer import Transformer
from circuitfind.patching.gradients.sweep import Collector, Stream
from circuitfind.patching.problem import Problem

Wide = Float[Tensor, "prompt pos neuron"]


class WrittenGradients(Collector):
    """The gradients at the stream that each stage writes to, summed over runs; of a stage none has
    come to: none.
    """

    def __init__(self) -> None:
        self.at_stage: dict[int, Stream] = {}

    def add_written(self, stage: int, gradient: Stream, weight: float = 1.0) -> None:
        if stage in self.at_stage:
            self.at_stage[stage].add_(gradient, alpha=weight)
        else:
            self.at_stage[stage] = gradient * weight


class NeuronBlock(Block):
    """A block of prompts that scores neurons. ``moves``: by stage, ablated - clean activation of
    each neuron.
    """

    of_neurons: ClassVar[bool] = True

    def _compare(self, now: Outputs, gone: Outputs) -> None:
        super()._compare(now, gone)
        self.moves = neuron_moves(now, gone)

    def collector(self) -> Collector:
        return WrittenGradients()

    def scores(self, gradients: Collector) -> Scores:
        """Every neuron's move times the gradient at it, over each prompt's span of positions;
        [prompt, neuron].
        """
        assert isinstance(gradients, WrittenGradients)
        model, parts = self.sweeper.model, []
        for stage, move in enumerate(self.moves):
            if stage in gradients.at_stage:
                gradient = at_neurons(model, stage, gradients.at_stage[stage])
                parts.append(multiply_each(gradient, move, self.spans))
            else:
                dtype = torch.promote_types(move.dtype, torch.float32)
                parts.append(move.new_zeros(len(move), move.shape[-1], dtype=dtype))
        return torch.cat(parts, dim=1)


def neuron_moves(now: Outputs, gone: Outputs) -> list[Wide]:
    """By stage: what each neuron holds in ``gone`` less what it holds in ``now``, in forward order."""
    moves: list[Wide] = []
    for layer in range(len(now.z)):
        z = gone.z[layer] - now.z[layer]
        moves += [z.permute(1, 2, 0, 3).flatten(2), gone.hidden[layer] - now.hidden[layer]]
    return moves


def at_neurons(model: Transformer, stage: int, gradient: Stream) -> Wide:
    """The gradient at each of a stage's neurons, from that at the stream it writes to."""
    weights = model.layers[stage // 2]
    rows = weights.W_out if stage % 2 else weights.W_O.flatten(0, 1)
    return (gradient.flatten(0, 1) @ rows.T).reshape(*gradient.shape[:2], len(rows))


def multiply_each(
    gradient: Wide, move: Wide, spans: Sequence[tuple[int, int]]
) -> Float[Tensor, "prompt neuron"]:
    """Each neuron's gradient times its move, summed over each prompt's span of positions, in
    float32 or better.
    """
    dtype = torch.promote_types(move.dtype, torch.float32)
    pairs = [
        (gradient[prompt, start:stop].to(dtype), move[prompt, start:stop].to(dtype))
        for prompt, (start, stop) in enumerate(spans)
    ]
    return torch.stack([(left * right).sum(0) for left, right in pairs])


@dataclass(frozen=True)
class ByNeuron:
    """An attribution method at neuron level."""

    method: Attribution

    @property
    def name(self) -> str:
        return self.method.name

    def to_dict(self) -> dict[str, Any]:
        """The block ``method`` of a circuit file."""
        return {**self.method.to_dict(), "level": "neuron"}

    def score(self, problem: Problem, job: Job = Job()) -> Float[Tensor, "prompt neuron"]:
        """Every neuron's score on each prompt, in the metric's unit, in forward order
        (``circuits/bases.py``).

        As ``Attribution.score`` in all else; under a mean ablation the batch's constants need
        hidden layers too.
        """
        return self.method.score_with(NeuronBlock, problem, job)
