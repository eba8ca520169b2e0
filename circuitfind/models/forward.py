"""The unpatched run of a transformer: what every receiver reads and every component computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitfind.circuits.graph import SLOTS
from circuitfind.models.components import rotate, visible
from circuitfind.models.transformer import (
    Transformer,
    embed,
    embed_positions,
    mlp,
    project,
    rotary_table,
    write_all_heads,
)


@dataclass(frozen=True)
class Attention:
    """One layer's attention in one run: queries and keys rotated, z before W_O."""

    q: Float[Tensor, "head prompt pos d_head"]
    k: Float[Tensor, "head prompt pos d_head"]
    v: Float[Tensor, "head prompt pos d_head"]
    z: Float[Tensor, "head prompt pos d_head"]


@dataclass(frozen=True)
class Trace:
    """An unpatched run: what every receiver reads and every component computes. ``final`` is what
    the logits read.
    """

    embedding: Float[Tensor, "prompt pos d_model"]
    attention_in: tuple[Float[Tensor, "prompt pos d_model"], ...]
    attention: tuple[Attention, ...]
    mlp_in: tuple[Float[Tensor, "prompt pos d_model"], ...]
    mlp_out: tuple[Float[Tensor, "prompt pos d_model"], ...]
    final: Float[Tensor, "prompt pos d_model"]


def at_end(
    x: Float[Tensor, "*batch prompt pos d"], end: Int[Tensor, " prompt"]
) -> Float[Tensor, "*batch prompt d"]:
    """The rows at each prompt's answer position."""
    return x[..., torch.arange(len(end), device=end.device), end, :]


def run_attention(
    model: Transformer, layer: int, reads: Sequence[Float[Tensor, "#head prompt pos d_model"]]
) -> Attention:
    """All heads of a layer, from what their q, k and v inputs read, each its own or all the same
    (head of size 1).
    """
    heads = range(model.architecture.n_heads)
    n_pos = reads[0].shape[-2]
    table = rotary_table(model, torch.arange(n_pos, device=model.device))
    q, k, v = (project(model, layer, slot, x, heads) for slot, x in zip(SLOTS, reads, strict=True))
    q, k = rotate(q, table), rotate(k, table)
    attention = model.architecture.blocks[layer].attention
    return Attention(q, k, v, attention.forward(q, k, v, visible(n_pos, model.device)))


def trace(model: Transformer, tokens: Int[Tensor, "prompt pos"]) -> Trace:
    """The unpatched run on ``tokens``."""
    parallel = model.architecture.parallel
    embedding = embed(model, tokens)
    stream = embedding + embed_positions(model, tokens.shape[1])
    attention_in, attentions, mlp_in, mlp_out = [], [], [], []
    for layer, weights in enumerate(model.layers):
        attention = run_attention(model, layer, [stream.unsqueeze(0)] * 3)
        after_heads = stream + write_all_heads(model, layer, attention.z) + weights.b_O
        reads_mlp = stream if parallel else after_heads
        out = mlp(model, layer, reads_mlp)
        attention_in.append(stream)
        attentions.append(attention)
        mlp_in.append(reads_mlp)
        mlp_out.append(out)
        stream = after_heads + out + weights.b_out
    return Trace(embedding, tuple(attention_in), tuple(attentions), tuple(mlp_in), tuple(mlp_out), stream)
