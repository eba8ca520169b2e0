"""A decoder-only transformer: its architecture as data, its weights, and pure functions that run one
component of it (``models/components.py``), so that a single head can be run again alone.

Three families share this code: GPT-2 (LayerNorm, learned positions), Llama (RMSNorm, rotary
positions, grouped-query attention, gated MLP) and Pythia (attention and MLP in parallel). What
differs between them is data: ``Architecture`` and the weights. ``models/architectures/table.py``
reads both from TransformerLens, and ``models/loading/verify.py`` compares the outcome with it at
every load.

Every norm that a head or an MLP reads through has its gain and bias folded into the weights behind
it, which changes no sender's output. Biases that are added to the residual stream (b_O, b_out)
belong to no sender.

Letters in shapes: head, test (variants of one run, side by side), prompt, pos, d_model, d_head,
d_mlp, d_vocab. A pos of size 1 stands for the answer position alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from circuitfind.circuits.graph import Graph, Slot
from circuitfind.errors import ModelError
from circuitfind.models.components import BlockSpec, Layer, Norm, Readout

T = TypeVar("T", "Transformer", "Layer")


@dataclass(frozen=True)
class Architecture:
    """What distinguishes one decoder from another, weights aside.

    ``n_ctx`` is how many positions it knows.
    """

    name: str
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_head: int
    n_ctx: int
    blocks: tuple[BlockSpec, ...]
    readout: Readout

    @property
    def n_layers(self) -> int:
        return len(self.blocks)

    @property
    def parallel(self) -> bool:
        """Whether MLPs read the stream before their block's heads: in all blocks alike."""
        if len({block.parallel for block in self.blocks}) > 1:
            raise ModelError(
                f"{self.name} has blocks in parallel and blocks in sequence, which is not supported yet."
                " Use a model whose blocks are all of one kind."
            )
        return self.blocks[0].parallel

    @property
    def graph(self) -> Graph:
        return Graph(self.n_layers, self.n_heads, self.parallel)

    @cached_property
    def _norm(self) -> Norm:
        norms = [block.norm for block in self.blocks] + [self.readout.norm]
        if len({norm.kind for norm in norms}) > 1:
            raise ModelError(
                f"{self.name} has LayerNorms and RMSNorms, which this method does not support yet."
                " Use a model whose norms are all of one kind, or another method."
            )
        return norms[0]

    def centre(self, x: Tensor) -> Tensor:
        """``x`` without its mean, if no norm reads that."""
        return self._norm.centre(x)


@dataclass(frozen=True)
class Transformer:
    """The whole model, for prompts of up to as many positions as its rotary tables (or W_pos) have rows.

    ``packed_U``: while a search runs, slices of W_U once more, in order for products of few rows
    (``patching/packing.py``).
    """

    architecture: Architecture
    W_E: Float[Tensor, "d_vocab d_model"]
    W_pos: Float[Tensor, "pos d_model"] | None
    rotary_cos: Float[Tensor, "pos rotary"] | None
    rotary_sin: Float[Tensor, "pos rotary"] | None
    layers: tuple[Layer, ...]
    final_gain: Float[Tensor, " d_model"]
    final_bias: Float[Tensor, " d_model"]
    W_U: Float[Tensor, "d_model d_vocab"]
    b_U: Float[Tensor, " d_vocab"] | None
    packed_U: tuple[Tensor, ...] | None = None

    @property
    def dtype(self) -> torch.dtype:
        return self.W_E.dtype

    @property
    def device(self) -> torch.device:
        return self.W_E.device

    @property
    def most_pos(self) -> int:
        """How many positions a prompt may have."""
        table = self.W_pos if self.rotary_cos is None else self.rotary_cos
        return self.architecture.n_ctx if table is None else len(table)


def in_dtype(model: Transformer, dtype: torch.dtype) -> Transformer:
    """The model with its weights rounded to another dtype, or the model itself where they are in it.

    What lies behind the last block stays in float32 at least: logits near 16 come in steps of 0.1
    in bfloat16, which is most of what it would add to the rounding of a metric.
    """
    if model.dtype == dtype:
        return model
    wide = torch.promote_types(dtype, torch.float32)
    return replace(
        _cast(model, dtype),
        layers=tuple(_cast(layer, dtype) for layer in model.layers),
        final_gain=model.final_gain.to(wide),
        final_bias=model.final_bias.to(wide),
        W_U=model.W_U.to(wide),
        b_U=None if model.b_U is None else model.b_U.to(wide),
    )


def _cast(part: T, dtype: torch.dtype) -> T:
    """A dataclass with its own tensors in another dtype."""
    own = {field.name: getattr(part, field.name) for field in fields(part)}
    cast: Any = {name: x.to(dtype) for name, x in own.items() if isinstance(x, Tensor)}
    return replace(part, **cast)


def embed(model: Transformer, tokens: Int[Tensor, "prompt pos"]) -> Float[Tensor, "prompt pos d_model"]:
    """What the sender ``input`` writes: the token embedding."""
    return functional.embedding(tokens, model.W_E)


def embed_positions(model: Transformer, n_pos: int) -> Float[Tensor, "#pos #d_model"]:
    """What learned positions add to the stream; no ablation touches it. Zero for rotary models."""
    return model.W_E.new_zeros(1, 1) if model.W_pos is None else model.W_pos[:n_pos]


def kv_heads(architecture: Architecture, heads: Sequence[int]) -> list[int]:
    """The key/value head that each query head reads from (grouped-query attention)."""
    group = architecture.n_heads // architecture.n_kv_heads
    return [head // group for head in heads]


def project(
    model: Transformer,
    layer: int,
    slot: Slot,
    x: Float[Tensor, "#head *rows d_model"],
    heads: Sequence[int],
) -> Float[Tensor, "head *rows d_head"]:
    """Query, key or value of each of ``heads``, no rotation yet, from its own residual stream ``x``
    or one for all.
    """
    weights = model.layers[layer]
    W, b = {
        "q": (weights.W_Q, weights.b_Q),
        "k": (weights.W_K, weights.b_K),
        "v": (weights.W_V, weights.b_V),
    }[slot]
    index = list(heads) if slot == "q" else kv_heads(model.architecture, heads)
    normed = model.architecture.blocks[layer].norm.forward(x)
    rows = normed.reshape(len(x), -1, x.shape[-1]).expand(len(index), -1, -1)
    out = torch.bmm(rows, W[index]) if b is None else torch.baddbmm(b[index].unsqueeze(1), rows, W[index])
    return out.reshape(len(index), *x.shape[1:-1], W.shape[-1])


def rotary_table(
    model: Transformer, positions: Int[Tensor, "*rows"]
) -> tuple[Float[Tensor, "*rows rotary"], Float[Tensor, "*rows rotary"]] | None:
    """Cosine and sine for each position; None where the model does not rotate."""
    if model.rotary_cos is None or model.rotary_sin is None:
        return None
    return model.rotary_cos[positions], model.rotary_sin[positions]


def write_heads(
    model: Transformer, layer: int, z: Float[Tensor, "head *rows d_head"], heads: Sequence[int]
) -> Float[Tensor, "head *rows d_model"]:
    """What each of ``heads`` writes to the stream (without b_O, which belongs to none)."""
    W_O = model.layers[layer].W_O[list(heads)]
    return torch.bmm(z.reshape(len(heads), -1, z.shape[-1]), W_O).reshape(*z.shape[:-1], W_O.shape[-1])


def write_all_heads(
    model: Transformer, layer: int, z: Float[Tensor, "head *rows d_head"]
) -> Float[Tensor, "*rows d_model"]:
    """What all heads of a layer together write to the stream (without b_O)."""
    W_O = model.layers[layer].W_O
    rows = z.movedim(0, -2)
    return (rows.reshape(-1, W_O.shape[0] * W_O.shape[1]) @ W_O.flatten(0, 1)).reshape(*z.shape[1:-1], -1)


def hidden_layer(
    model: Transformer, layer: int, x: Float[Tensor, "*rows d_model"]
) -> Float[Tensor, "row d_mlp"]:
    """What an MLP's neurons hold, behind activation and gate; the rows of ``x`` one behind the other."""
    block = model.architecture.blocks[layer]
    return block.mlp.hold(block.norm.forward(x).reshape(-1, x.shape[-1]), model.layers[layer])


def mlp(
    model: Transformer, layer: int, x: Float[Tensor, "*rows d_model"]
) -> Float[Tensor, "*rows d_model"]:
    """What the MLP writes to the stream (without b_out)."""
    block = model.architecture.blocks[layer]
    rows = block.norm.forward(x).reshape(-1, x.shape[-1])
    return block.mlp.forward(rows, model.layers[layer]).reshape(x.shape)


def final_norm(model: Transformer, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
    """The norm before the unembedding, gain and bias included."""
    return model.architecture.readout.normed(x, model.final_gain, model.final_bias)


def unembed(model: Transformer, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_vocab"]:
    """Logits of the residual stream ``x`` after the last block."""
    return model.architecture.readout.forward(x, model.final_gain, model.final_bias, model.W_U, model.b_U)
