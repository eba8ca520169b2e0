"""Runs of a transformer with chosen neurons ablated.

In a patched run at neuron level (on clean tokens) a neuron that is kept holds what it holds in this
same run, and any other what it holds when ablated: in the corrupted run, zero, or its mean over
other prompts. Everything downstream reads what comes of that: all edges are there. The input is no
neuron, and position embeddings and output biases are never ablated. The arithmetic is that of
``forward.trace``: with every neuron kept a run is the clean one to the last bit.

``run_from`` begins at a stage, before which every neuron is kept: several masks of that stage's
neurons side by side, which stand in the place of more prompts. A row of a product does not depend
on the rows beside it (``patching/incremental.py``).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitfind.circuits.bases import Neurons
from circuitfind.circuits.outputs import Outputs
from circuitfind.models.forward import Attention, Trace, at_end, run_attention, trace
from circuitfind.models.transformer import Transformer, hidden_layer, write_all_heads
from circuitfind.patching.ablation import AblationName, constant_outputs, with_hidden
from circuitfind.prompts.batch import Batch

Mask = Bool[Tensor, " neuron"]
Stream = Float[Tensor, "prompt pos d_model"]


def neurons_of(model: Transformer) -> Neurons:
    """The model's neurons."""
    return Neurons(model.architecture.graph, model.architecture.d_head, len(model.layers[0].W_out))


def ablated_neurons(model: Transformer, batch: Batch, ablation: AblationName) -> Outputs:
    """What every neuron holds when it is ablated: ``z`` and ``hidden``. Raises UsageError where
    means are missing.
    """
    if ablation == "corrupted":
        return with_hidden(model, trace(model, batch.corrupted))
    return constant_outputs(model, batch, ablation)


class NeuronRunner:
    """Runs one block of prompts under masks of its neurons, in forward order
    (``circuits/bases.py``), True what is kept.
    """

    def __init__(self, model: Transformer, batch: Batch, ablation: AblationName) -> None:
        self.model, self.batch, self.ablation = model, batch, ablation
        self.neurons = neurons_of(model)
        self.clean: Trace = trace(model, batch.clean)
        self.now = with_hidden(model, self.clean)
        self.ablated = ablated_neurons(model, batch, ablation)

    @property
    def final(self) -> Float[Tensor, "prompt d_model"]:
        """What the logits read at the answer position in the clean run."""
        return at_end(self.clean.final, self.batch.end)

    def run(self, kept: Mask) -> Float[Tensor, "prompt d_model"]:
        """What the logits read at the answer position when these neurons alone are kept."""
        stream = self.clean.attention_in[0]
        for layer in range(self.model.architecture.n_layers):
            stream = self._layer(layer, stream, kept)
        return at_end(stream, self.batch.end)

    def run_from(
        self, stage: int, masks: Bool[Tensor, "test own"], kept: Mask
    ) -> Float[Tensor, "test prompt d_model"]:
        """The same for each mask of a stage's own neurons. Of ``kept`` those behind the stage
        count: all before it are kept."""
        layer, n_tests = stage // 2, len(masks)
        stream = self.clean.attention_in[layer].repeat(n_tests, 1, 1)
        if stage % 2:
            after = self._after_heads(layer, stream, self.now.z[layer].repeat(1, n_tests, 1, 1))
            hidden = self._blend_hidden(layer, self.now.hidden[layer].repeat(n_tests, 1, 1), masks)
            stream = self._after_mlp(layer, after, hidden)
        else:
            z = self._blend_heads(layer, self.now.z[layer].repeat(1, n_tests, 1, 1), masks)
            stream = self._behind_heads(layer, stream, z, kept)
        for later in range(layer + 1, self.model.architecture.n_layers):
            stream = self._layer(later, stream, kept)
        return at_end(stream.reshape(n_tests, -1, *stream.shape[1:]), self.batch.end)

    def _layer(self, layer: int, stream: Stream, kept: Mask) -> Stream:
        attention: Attention = run_attention(self.model, layer, [stream.unsqueeze(0)] * 3)
        z = self._blend_heads(layer, attention.z, kept[self.neurons.heads(layer)].unsqueeze(0))
        return self._behind_heads(layer, stream, z, kept)

    def _behind_heads(
        self, layer: int, stream: Stream, z: Float[Tensor, "head prompt pos d_head"], kept: Mask
    ) -> Stream:
        """The stream behind a layer that reads ``stream`` and whose heads hold ``z``."""
        after = self._after_heads(layer, stream, z)
        reads = stream if self.model.architecture.parallel else after
        hidden = hidden_layer(self.model, layer, reads).reshape(*reads.shape[:2], -1)
        own = kept[self.neurons.mlp(layer)].unsqueeze(0)
        return self._after_mlp(layer, after, self._blend_hidden(layer, hidden, own))

    def _after_heads(
        self, layer: int, stream: Stream, z: Float[Tensor, "head prompt pos d_head"]
    ) -> Stream:
        return stream + write_all_heads(self.model, layer, z) + self.model.layers[layer].b_O

    def _after_mlp(
        self, layer: int, after_heads: Stream, hidden: Float[Tensor, "prompt pos d_mlp"]
    ) -> Stream:
        weights = self.model.layers[layer]
        out = torch.mm(hidden.flatten(0, 1), weights.W_out).reshape(after_heads.shape)
        return after_heads + out + weights.b_out

    def _blend_heads(
        self, layer: int, z: Float[Tensor, "head prompt pos d_head"], kept: Bool[Tensor, "test own"]
    ) -> Float[Tensor, "head prompt pos d_head"]:
        """``z`` where it is kept, else what is held when ablated; prompts of all tests one behind
        the other.
        """
        tests = z.reshape(len(z), -1, self.batch.n_prompts, *z.shape[2:])
        each = kept.reshape(len(kept), len(z), -1).transpose(0, 1)[:, :, None, None]
        return torch.where(each, tests, self.ablated.z[layer].unsqueeze(1)).flatten(1, 2)

    def _blend_hidden(
        self, layer: int, hidden: Float[Tensor, "prompt pos d_mlp"], kept: Bool[Tensor, "test own"]
    ) -> Float[Tensor, "prompt pos d_mlp"]:
        tests = hidden.reshape(-1, *self.now.hidden[layer].shape)
        return torch.where(kept[:, None, None], tests, self.ablated.hidden[layer]).flatten(0, 1)
