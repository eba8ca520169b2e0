"""What each sender writes to the logits of the right and wrong answers: its direct logit effect.

A sender's output v at the answer position is taken through the final norm and the unembedding: with
s the length of what the logits read in the clean run as the norm has it (the standard deviation of
LayerNorm, the root mean square of RMSNorm) and g the norm's gain, v adds (v - its mean, for
LayerNorm) g / s . (W_U[:, token] - mean over the vocabulary) to the token's logit above the
vocabulary's mean. s is that of the clean run in the corrupted run too, so that the two can be
compared. Over all senders, position embeddings and biases this sums to the clean run's logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuitfind.circuits.graph import Node
from circuitfind.evaluation.performance import Final
from circuitfind.export.html.data import Written
from circuitfind.models.forward import Trace, at_end
from circuitfind.models.transformer import Transformer, embed_positions, write_heads
from circuitfind.prompts.batch import Batch


@dataclass(frozen=True)
class Readout:
    """What the logits make of a direction of the stream on each prompt: ``slope`` [prompt, d_model]
    per token group, at the clean run's scale, and ``offset``, what the final norm's and the
    unembedding's biases add."""

    slope: Float[Tensor, "prompt d_model"]
    offset: Float[Tensor, " prompt"]

    def of(self, x: Float[Tensor, "*nodes prompt d_model"]) -> Float[Tensor, "*nodes prompt"]:
        """What an output at the answer position adds."""
        return (x.double() * self.slope).sum(-1)


def read_out(model: Transformer, final: Final, groups: Sequence[Sequence[int]]) -> Readout:
    """Of each prompt's group of tokens the mean logit above the vocabulary's mean, as a function of
    the stream.
    """
    norm = model.architecture.readout.norm
    scale = norm.length(norm.centre(final.double()))
    mean_column = model.W_U.double().mean(-1)
    columns = torch.stack(
        [model.W_U[:, list(tokens)].double().mean(-1) - mean_column for tokens in groups]
    )
    offset = columns @ model.final_bias.double()
    if model.b_U is not None:
        biases = model.b_U.double()
        offset = offset + torch.stack([biases[list(tokens)].mean() - biases.mean() for tokens in groups])
    slope = norm.centre(columns * model.final_gain.double())
    return Readout(slope / scale, offset)


def read_writes(
    model: Transformer, batch: Batch, runs: tuple[Trace, Trace]
) -> tuple[tuple[Written, ...], dict[Node, tuple[Written, ...]], tuple[Written, ...]]:
    """The rest, every sender's and the sum of all, on each pair."""
    final = at_end(runs[0].final, batch.end)
    groups = [batch.answers, *([batch.wrong_answers] if all(batch.wrong_answers) else [])]
    readouts = [read_out(model, final, group) for group in groups]
    outputs = [sender_outputs(model, run, batch) for run in runs]
    senders = [[readout.of(output) for output in outputs] for readout in readouts]
    constant = fixed_stream(model, batch)
    rest = [[readout.of(constant) + readout.offset] * 2 for readout in readouts]
    total = [
        [of.sum(0) + more for of, more in zip(*pair, strict=True)]
        for pair in zip(senders, rest, strict=True)
    ]
    graph = model.architecture.graph
    by_node = {
        node: _written([[of[number] for of in group] for group in senders])
        for number, node in enumerate(graph.senders)
    }
    return _written(rest), by_node, _written(total)


def _written(groups: Sequence[Sequence[Float[Tensor, " prompt"]]]) -> tuple[Written, ...]:
    """Of [group][run] the values of each prompt."""
    answer, *others = [list(zip(*(run.tolist() for run in group), strict=True)) for group in groups]
    wrong = others[0] if others else [None] * len(answer)
    return tuple(Written(right, other) for right, other in zip(answer, wrong, strict=True))


def sender_outputs(
    model: Transformer, run: Trace, batch: Batch
) -> Float[Tensor, "sender prompt d_model"]:
    """What every sender writes at the answer position, in the graph's order."""
    outputs = [at_end(run.embedding, batch.end).unsqueeze(0)]
    for layer, (attention, out) in enumerate(zip(run.attention, run.mlp_out, strict=True)):
        z = at_end(attention.z, batch.end)
        outputs += [write_heads(model, layer, z, range(len(z))), at_end(out, batch.end).unsqueeze(0)]
    return torch.cat(outputs)


def fixed_stream(model: Transformer, batch: Batch) -> Float[Tensor, "prompt d_model"]:
    """What is in the stream at the answer position without any sender: position embedding and
    output biases.
    """
    positions = embed_positions(model, batch.n_pos)
    at = positions.expand(batch.n_pos, model.W_E.shape[-1])[batch.end]
    return at + torch.stack([layer.b_O + layer.b_out for layer in model.layers]).sum(0)
