"""A model that is not reproduced to the letter is refused, with the place named."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from circuitfind.errors import ModelError
from circuitfind.models import sizes
from circuitfind.models.architectures.table import read_transformer
from circuitfind.models.loading.verify import verify
from circuitfind.models.transformer import Transformer
from tests.random_models import D_VOCAB, N_CTX, bridge, make_model, random_batch

FAMILIES = ("gpt2", "llama", "mistral", "qwen2", "pythia", "pythia-sequential")


@cache
def booted(family: str, dtype: torch.dtype = torch.float64) -> Any:
    return bridge(make_model(family, 3), dtype)


@cache
def read(family: str, dtype: torch.dtype = torch.float64) -> Transformer:
    return read_transformer(booted(family, dtype), N_CTX)


def with_layer(model: Transformer, layer: int, **factors: float) -> Transformer:
    """The model with some weights of one layer multiplied."""
    scaled = {name: getattr(model.layers[layer], name) * factor for name, factor in factors.items()}
    layers = list(model.layers)
    layers[layer] = replace(layers[layer], **scaled)
    return replace(model, layers=tuple(layers))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_reproduced(family: str, dtype: torch.dtype) -> None:
    difference = verify(booted(family, dtype), read(family, dtype), random_batch(1, (5, 7, 4, 6, 3, 7)))
    assert 0 <= difference < 1e-5


@pytest.mark.parametrize(
    ("layer", "factors", "place"),
    [
        (0, {"W_Q": 1.01}, "what the MLP of layer 0 reads"),
        (0, {"W_O": 1.01}, "what the MLP of layer 0 reads"),
        (0, {"W_in": 1.01}, "what the heads of layer 1 read"),
        (1, {"W_V": 1.01}, "what the MLP of layer 1 reads"),
        (1, {"b_O": 1.01}, "what the MLP of layer 1 reads"),
        (1, {"W_out": 1.01}, "what the logits read"),
        (1, {"b_out": 1.01}, "what the logits read"),
    ],
)
def test_a_wrong_weight_is_refused_at_the_place_that_first_reads_it(
    layer: int, factors: dict[str, float], place: str
) -> None:
    with pytest.raises(
        ModelError, match=f"does not reproduce this model: {place} differs from TransformerLens by"
    ):
        verify(booted("gpt2"), with_layer(read("gpt2"), layer, **factors), random_batch(1))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_wrong_head_is_refused_in_every_family(family: str) -> None:
    wrong = with_layer(read(family), 1, W_O=1.01)
    with pytest.raises(ModelError, match=r"of layer 1|the logits"):
        verify(booted(family), wrong, random_batch(1))


def test_parallel_blocks_taken_for_sequential_ones_are_refused() -> None:
    model = read("pythia")
    blocks = tuple(replace(block, parallel=False) for block in model.architecture.blocks)
    wrong = replace(model, architecture=replace(model.architecture, blocks=blocks))
    with pytest.raises(ModelError, match="the MLP of layer 0"):
        verify(booted("pythia"), wrong, random_batch(1))


def test_wrong_embeddings_are_refused_at_the_first_layer() -> None:
    model = read("gpt2")
    with pytest.raises(ModelError, match="the heads of layer 0"):
        verify(booted("gpt2"), replace(model, W_pos=torch.zeros_like(model.W_pos)), random_batch(1))


@pytest.mark.parametrize("part", ["W_U", "final_gain"])
def test_a_wrong_unembedding_is_refused_at_the_logits(part: str) -> None:
    model = read("llama")
    with pytest.raises(ModelError, match="the logits differs"):
        verify(booted("llama"), replace(model, **{part: getattr(model, part) * 1.01}), random_batch(1))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_refused(value: float) -> None:
    model = make_model("gpt2", 3)
    model.transformer.h[1].mlp.c_proj.bias.data[0] = value
    with pytest.raises(ModelError, match="NaN"):
        verify(bridge(model), read("gpt2"), random_batch(1))


def test_a_wrong_number_of_ours_is_refused_too() -> None:
    model = with_layer(read("gpt2"), 0, W_O=float("nan"))
    with pytest.raises(ModelError, match="the MLP of layer 0 reads differs from TransformerLens by nan"):
        verify(booted("gpt2"), model, random_batch(1))


def test_what_stands_behind_the_answer_position_is_not_compared() -> None:
    model, batch, pad = read("gpt2"), random_batch(1, (3, 9)), 17
    batch.clean[batch.clean == pad] = 0
    batch.clean[0, 3:] = pad
    wrong_at_pads = model.W_E.clone()
    wrong_at_pads[pad] *= 2
    assert verify(booted("gpt2"), replace(model, W_E=wrong_at_pads), batch) < 1e-5


def test_only_the_answer_positions_are_unembedded_by_transformer_lens() -> None:
    shapes = []
    model = booted("gpt2")
    handle = model.unembed.register_forward_hook(
        lambda module, inputs, out: shapes.append(tuple(out.shape))
    )
    try:
        verify(model, read("gpt2"), random_batch(1, (5, 7, 4, 6, 3, 7)))
    finally:
        handle.remove()
    assert shapes == [(4, 1, D_VOCAB)]
    assert model(random_batch(1, (5, 7)).clean).shape == (
        2,
        7,
        D_VOCAB,
    )  # and all of them by everyone else


def test_long_prompts_compared_one_by_one_are_compared_all(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = random_batch(1, (5, 7, 4, 6))
    monkeypatch.setattr(sizes, "TOKENS_COMPARED", 7)
    assert verify(booted("llama"), read("llama"), batch) < 1e-5
    wrong = with_layer(read("llama"), 1, W_O=1.01)
    with pytest.raises(ModelError, match="of layer 1"):
        verify(booted("llama"), wrong, batch)
