"""The same model in the form that TransformerLens's bridges take for granted.

They divide every GPT-2's scores by the square root of the head's width, and split the biases of a
GPT-NeoX whether or not there are any. Other models are rewritten so that they compute the same in
that form.
"""

from __future__ import annotations

import math
from typing import Any


def make_plain(model: Any) -> Any:
    """The Hugging Face model itself, its weights rewritten where its config is one that the bridges
    don't know.
    """
    import torch

    with torch.no_grad():
        if model.config.model_type == "gpt2" and not model.config.scale_attn_weights:
            _scale_scores(model)
        if model.config.model_type == "gpt_neox" and not model.config.attention_bias:
            _add_biases(model)
    return model


def _scale_scores(model: Any) -> None:
    """q k^T without a scale is (q sqrt(d_head)) k^T / sqrt(d_head)."""
    d_model, n_heads = model.config.n_embd, model.config.n_head
    for block in model.transformer.h:
        block.attn.c_attn.weight[:, :d_model] *= math.sqrt(d_model // n_heads)
        block.attn.c_attn.bias[:d_model] *= math.sqrt(d_model // n_heads)
        block.attn.scaling *= (d_model // n_heads) ** -0.5
        block.attn.scale_attn_weights = True
    model.config.scale_attn_weights = True


def _add_biases(model: Any) -> None:
    """Biases of 0 for queries, keys and values."""
    import torch

    for layer in model.gpt_neox.layers:
        joint = layer.attention.query_key_value
        joint.bias = torch.nn.Parameter(joint.weight.new_zeros(joint.out_features))
