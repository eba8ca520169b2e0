"""A decoder-only transformer as pure functions, one per component, so that a single head can be run
again alone.

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

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from circuitfind.circuits.graph import Graph, Slot
from circuitfind.models.packed import PackedMlp, product
from circuitfind.models.sizes import MOST_SCORES

T = TypeVar("T", "Transformer", "Layer")
Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]


@dataclass(frozen=True)
class Architecture:
    """What distinguishes one decoder from another, weights aside.

    ``n_ctx`` is how many positions it knows; ``attention_scale`` multiplies the scores, per layer.
    """

    name: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_head: int
    norm: Literal["layer", "rms"]
    norm_eps: float
    activation: Activation
    parallel: bool
    attention_scale: tuple[float, ...]
    n_ctx: int

    @property
    def graph(self) -> Graph:
        return Graph(self.n_layers, self.n_heads, self.parallel)


@dataclass(frozen=True)
class Layer:
    """One block's weights, as [reads, writes]; the norms before q, k, v and the MLP folded in. A
    bias of 0 is None.

    ``packed``: while a search runs, the MLP's once more, in order for products of few rows
    (``patching/packing.py``).
    """

    W_Q: Float[Tensor, "head d_model d_head"]
    W_K: Float[Tensor, "kv_head d_model d_head"]
    W_V: Float[Tensor, "kv_head d_model d_head"]
    W_O: Float[Tensor, "head d_head d_model"]
    b_Q: Float[Tensor, "head d_head"] | None
    b_K: Float[Tensor, "kv_head d_head"] | None
    b_V: Float[Tensor, "kv_head d_head"] | None
    b_O: Float[Tensor, " d_model"]
    W_in: Float[Tensor, "d_model d_mlp"]
    b_in: Float[Tensor, " d_mlp"] | None
    W_gate: Float[Tensor, "d_model d_mlp"] | None
    b_gate: Float[Tensor, " d_mlp"] | None
    W_out: Float[Tensor, "d_mlp d_model"]
    b_out: Float[Tensor, " d_model"]
    packed: PackedMlp | None = None


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


def normalise(architecture: Architecture, x: Tensor) -> Tensor:
    """LayerNorm or RMSNorm of the last dimension, without gain and bias."""
    if architecture.norm == "layer":
        return functional.layer_norm(x, x.shape[-1:], eps=architecture.norm_eps)
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + architecture.norm_eps)


def kv_heads(architecture: Architecture, heads: Sequence[int]) -> list[int]:
    """The key/value head that each query head reads from (grouped-query attention)."""
    group = architecture.n_heads // architecture.n_kv_heads
    return [head // group for head in heads]


def project(
    model: Transformer, layer: int, slot: Slot, x: Float[Tensor, "#head *rows d_model"], heads: Sequence[int]
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
    rows = normalise(model.architecture, x).reshape(len(x), -1, x.shape[-1]).expand(len(index), -1, -1)
    out = torch.bmm(rows, W[index]) if b is None else torch.baddbmm(b[index].unsqueeze(1), rows, W[index])
    return out.reshape(len(index), *x.shape[1:-1], W.shape[-1])


def rotary_table(
    model: Transformer, positions: Int[Tensor, "*rows"]
) -> tuple[Float[Tensor, "*rows rotary"], Float[Tensor, "*rows rotary"]] | None:
    """Cosine and sine for each position; None where the model does not rotate."""
    if model.rotary_cos is None or model.rotary_sin is None:
        return None
    return model.rotary_cos[positions], model.rotary_sin[positions]


def rotate(
    x: Float[Tensor, "*rows d_head"], table: tuple[Tensor, Tensor] | None
) -> Float[Tensor, "*rows d_head"]:
    """Rotary position embedding (arXiv:2104.09864) of the first dimensions, in halves as Llama and
    Pythia have it.
    """
    if table is None:
        return x
    cos, sin = table
    turned, passed = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat((-second, first), dim=-1) * sin
    return torch.cat((turned, passed), dim=-1) if passed.shape[-1] else turned


def attend(
    q: Float[Tensor, "*batch query d_head"],
    k: Float[Tensor, "*batch key d_head"],
    v: Float[Tensor, "*batch key d_head"],
    visible: Bool[Tensor, "*#batch query key"],
    scale: float,
) -> Float[Tensor, "*batch query d_head"]:
    """What each query gathers from the values that it may see.

    Of long prompts the scores of one head (or of whatever comes first) stand in memory at a time.
    """
    batch = q.shape[:-2]
    if len(batch) > 1 and batch.numel() * q.shape[-2] * k.shape[-2] > MOST_SCORES:
        masks = visible.expand(*batch, *visible.shape[-2:])
        return torch.stack([attend(*each, scale) for each in zip(q, k, v, masks, strict=True)])
    scores = (q @ k.transpose(-1, -2)).mul_(scale).masked_fill_(~visible, -math.inf)
    return scores.softmax(-1) @ v


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


def activate(activation: Activation, x: Tensor) -> Tensor:
    """The MLP's nonlinearity."""
    if activation == "gelu":
        return functional.gelu(x)
    if activation == "gelu_tanh":
        return functional.gelu(x, approximate="tanh")
    return functional.silu(x, inplace=True) if activation == "silu" else functional.relu(x, inplace=True)


def affine(
    x: Float[Tensor, "row i"],
    W: Float[Tensor, "i o"],
    b: Float[Tensor, " o"] | None,
    packed: Tensor | None = None,
) -> Float[Tensor, "row o"]:
    """x W + b; by ``packed``, the same matrix, where there is one and no gradient is asked for."""
    if packed is not None and not torch.is_grad_enabled():
        return product(x, packed, b)
    return torch.mm(x, W) if b is None else torch.addmm(b, x, W)


def hidden_layer(
    model: Transformer, layer: int, x: Float[Tensor, "*rows d_model"]
) -> Float[Tensor, "row d_mlp"]:
    """What an MLP's neurons hold, behind activation and gate; the rows of ``x`` one behind the other."""
    weights = model.layers[layer]
    packed_in, packed_gate = (
        (None, None) if (packed := weights.packed) is None else (packed.W_in, packed.W_gate)
    )
    rows = normalise(model.architecture, x).reshape(-1, x.shape[-1])
    hidden = affine(rows, weights.W_in, weights.b_in, packed_in)
    if weights.W_gate is None:
        return activate(model.architecture.activation, hidden)
    gate = affine(rows, weights.W_gate, weights.b_gate, packed_gate)
    return hidden.mul_(activate(model.architecture.activation, gate))


def mlp(model: Transformer, layer: int, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
    """What the MLP writes to the stream (without b_out)."""
    weights = model.layers[layer]
    packed = None if weights.packed is None else weights.packed.W_out
    return affine(hidden_layer(model, layer, x), weights.W_out, None, packed).reshape(x.shape)


def final_norm(model: Transformer, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
    """The norm before the unembedding, gain and bias included."""
    return normalise(model.architecture, x.to(model.final_gain)) * model.final_gain + model.final_bias


def unembed(model: Transformer, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_vocab"]:
    """Logits of the residual stream ``x`` after the last block."""
    logits = (final_norm(model, x).reshape(-1, x.shape[-1]) @ model.W_U).reshape(*x.shape[:-1], -1)
    return logits if model.b_U is None else logits + model.b_U
