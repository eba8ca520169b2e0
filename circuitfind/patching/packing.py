"""A model made ready for a search, in which the same matrices meet few rows thousands of times
(``models/packed.py``).
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from circuitfind.metrics.log_z import pack_unembedding
from circuitfind.models.components import Layer
from circuitfind.models.packed import PackedMlp, can_pack, pack
from circuitfind.models.sizes import keeps_mlps_twice
from circuitfind.models.transformer import Transformer

ROWS = 128
"""About how many rows a product with an MLP's matrices has."""


def pack_model(model: Transformer) -> Transformer:
    """Both ``pack_mlps`` and ``pack_unembedding``."""
    return pack_unembedding(pack_mlps(model))


def pack_mlps(model: Transformer) -> Transformer:
    """The model with copies of its MLPs in order for products of few rows, for as long as a search
    lasts. What they write differs in the last bits from what they write without. What is too large,
    too small or not float32 on a CPU is left as it is."""
    return replace(model, layers=tuple(map(_pack_mlp, model.layers))) if can_pack_mlps(model) else model


def can_pack_mlps(model: Transformer) -> bool:
    """Whether a search keeps the model's MLPs twice."""
    sizes = [
        W.numel()
        for layer in model.layers
        for W in (layer.W_in, layer.W_gate, layer.W_out)
        if W is not None
    ]
    return can_pack(model.layers[0].W_in) and keeps_mlps_twice(min(sizes), sum(sizes))


def _pack_mlp(layer: Layer) -> Layer:
    def packed(W: Tensor) -> Tensor:
        return pack(W, ROWS)

    gate = None if layer.W_gate is None else packed(layer.W_gate)
    return replace(layer, packed=PackedMlp(packed(layer.W_in), gate, packed(layer.W_out)))
