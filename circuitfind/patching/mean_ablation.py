"""Mean ablation: what every sender writes on average over a set of prompts of its own.

``mean``: over all prompts and their positions up to the answer's, each counting the same.
``mean-positional``: over the prompts, position by position (tokens, not words, are counted: the
prompts should be built alike). A position that no prompt reaches has the mean over all.

Sums are taken prompt by prompt in float64, so that the batch size changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitfind.circuits.outputs import Outputs
from circuitfind.models.forward import Trace, trace
from circuitfind.models.transformer import Transformer
from circuitfind.models.workers import Threads
from circuitfind.patching.ablation import AblationName, outputs_of, with_hidden
from circuitfind.patching.blocks import split
from circuitfind.prompts.batch import Batch


class _Sum:
    """The sum over prompts of a power of one tensor, position by position."""

    def __init__(self, power: int) -> None:
        self._power = power
        self._total: Tensor | None = None

    def add(self, x: Float[Tensor, "*head pos d"]) -> None:
        x = x.double() ** self._power
        self._total = x if self._total is None else self._total + x

    def mean(
        self, counts: Float[Tensor, " pos"], n_pos: int, positional: bool
    ) -> Float[Tensor, "*head 1 mean d"]:
        """Of the positions that were counted: one for each, or one for all."""
        assert self._total is not None
        over_all = self._total.sum(-2, keepdim=True) / counts.sum()
        if not positional:
            return over_all.unsqueeze(-3)
        each = over_all.repeat_interleave(n_pos, dim=-2)
        reached = min(n_pos, int((counts > 0).sum()))
        each[..., :reached, :] = self._total[..., :reached, :] / counts[:reached, None]
        return each.unsqueeze(-3)


def mean_outputs(
    model: Transformer,
    reference: Batch,
    n_pos: int,
    ablation: AblationName,
    batch_size: int,
    of_neurons: bool = False,
) -> Outputs:
    """Each sender's mean output over the clean prompts of ``reference``, for prompts of up to
    ``n_pos`` positions.

    Optimal ablation starts from the ``mean``s. ``of_neurons``: with the means of hidden layers;
    W_out being linear, they write what their MLP writes in the mean.
    """
    look = with_hidden if of_neurons else _without_hidden
    means = _mean(model, reference, n_pos, ablation == "mean-positional", batch_size, look=look)
    return means.map(lambda mean: mean.to(model.dtype))


def standard_deviations(model: Transformer, reference: Batch, batch_size: int) -> Outputs:
    """How far each number that a sender writes lies from its mean over all positions (root mean
    square), float64.
    """
    mean, square = (_mean(model, reference, 1, False, batch_size, power).parts for power in (1, 2))
    return Outputs.of_parts(
        [(x2 - x.square()).clamp_min(0).sqrt() for x, x2 in zip(mean, square, strict=True)]
    )


def _without_hidden(model: Transformer, run: Trace) -> Outputs:
    return outputs_of(run)


def _mean(
    model: Transformer,
    reference: Batch,
    n_pos: int,
    positional: bool,
    batch_size: int,
    power: int = 1,
    look: Callable[[Transformer, Trace], Outputs] = _without_hidden,
) -> Outputs:
    """The mean of a power of what each sender writes, float64."""
    reference = reference.to(model.device)
    counts = torch.stack([_counted(reference, i) for i in range(reference.n_prompts)]).sum(0).double()
    n_layers = model.architecture.n_layers
    sums: list[_Sum] = []
    with Threads(model.device) as threads:
        for outputs in _each(model, reference, batch_size, threads, look):
            sums = sums or [_Sum(power) for _ in outputs]
            for total, x in zip(sums, outputs, strict=True):
                total.add(x)
    means = [total.mean(counts, n_pos, positional) for total in sums]
    z, out, hidden = (tuple(means[1 + i * n_layers : 1 + (i + 1) * n_layers]) for i in range(3))
    return Outputs(means[0], z, out, hidden)


def _each(
    model: Transformer,
    reference: Batch,
    batch_size: int,
    threads: Threads,
    look: Callable[[Transformer, Trace], Outputs],
) -> Iterator[list[Tensor]]:
    """What one prompt after another writes: the embedding, each layer's z, each MLP's output,
    hidden layers where they are looked at; 0 behind the answer."""
    start = 0
    for block, n_real in split(reference, batch_size):
        (outputs,) = threads.map(lambda tokens: look(model, trace(model, tokens)), [block.clean])
        for i in range(n_real):
            counted = _counted(reference, start + i).unsqueeze(-1)
            heads = [z[:, i] for z in outputs.z]
            streams = [
                outputs.embedding[i],
                *heads,
                *(out[i] for out in (*outputs.mlp_out, *outputs.hidden)),
            ]
            yield [x.masked_fill(~counted, 0.0) for x in streams]
        start += n_real


def _counted(batch: Batch, prompt: int) -> Bool[Tensor, " pos"]:
    """The positions of a prompt up to its answer's."""
    return torch.arange(batch.n_pos, device=batch.end.device) <= batch.end[prompt]
