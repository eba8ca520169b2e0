"""Each family, read from TransformerLens, computes what Hugging Face's model computes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from circuitfind.errors import ModelError
from circuitfind.models.architectures.table import FAMILIES, read_transformer
from circuitfind.models.forward import trace
from circuitfind.models.transformer import Transformer, unembed
from tests.random_models import D_VOCAB, N_CTX, bridge, make_model

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 500.0,
    "short_factor": [1.0, 1.5, 2.0, 3.0],
    "long_factor": [4.0, 5.0, 6.0, 7.0],
    "factor": 2.0,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "gpt2, scores also divided by the layer": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "gpt2, scores not divided by the head's width": ("gpt2", {"scale_attn_weights": False}),
    "gpt2, exact gelu, a narrow MLP": ("gpt2", {"activation_function": "gelu", "n_inner": 24}),
    "gpt2, untied": ("gpt2", {"tie_word_embeddings": False}),
    "llama, grouped queries": ("llama", {}),
    "llama, every head its own key": ("llama", {"num_key_value_heads": 4}),
    "llama, one key for all heads": ("llama", {"num_key_value_heads": 1}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, biases everywhere": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, wide heads": ("llama", {"head_dim": 12}),
    "llama 3's rotation": ("llama", {"rope_parameters": LLAMA3}),
    "llama, linear scaling": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}},
    ),
    "llama, longrope": (
        "llama",
        {"rope_parameters": LONGROPE | {"original_max_position_embeddings": 16}},
    ),
    "mistral": ("mistral", {}),
    "mistral, a window as long as the prompts": ("mistral", {"sliding_window": N_CTX}),
    "qwen2, a window as long as the prompts": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": N_CTX, "max_window_layers": 0},
    ),
    "qwen2, biases of q, k and v": ("qwen2", {}),
    "pythia": ("pythia", {}),
    "pythia, sequential": ("pythia-sequential", {}),
    "pythia, tied": ("pythia", {"tie_word_embeddings": True}),
}


def logits_of(model: Transformer, tokens: torch.Tensor) -> torch.Tensor:
    return unembed(model, trace(model, tokens).final)


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_a_variant_has_the_logits_of_hugging_faces_model(name: str) -> None:
    family, options = VARIANTS[name]
    model = make_model(family, 3, 2, 4, **options)
    tokens = torch.randint(D_VOCAB, (3, N_CTX), generator=torch.Generator().manual_seed(0))
    expected = model(tokens).logits
    # Hugging Face's rotary tables and RMSNorm are float32 inside, whatever the model's type
    tolerance = 1e-5 if family in ("llama", "mistral", "qwen2") else 1e-9
    for dtype, most in ((torch.float64, tolerance), (torch.float32, 1e-4)):
        read = read_transformer(bridge(model, dtype), N_CTX)
        ours = logits_of(read, tokens)
        assert ours.dtype == read.dtype == dtype
        assert float((ours - expected).abs().max() / expected.abs().max()) < most


@pytest.mark.parametrize("name", ["gpt2", "llama, grouped queries", "pythia"])
def test_a_model_read_for_short_prompts_runs_longer_ones_to_the_same_bits(name: str) -> None:
    family, options = VARIANTS[name]
    model = bridge(make_model(family, 3, 2, 4, **options), torch.float32)
    tokens = torch.arange(N_CTX).unsqueeze(0)
    short, long = (read_transformer(model, n_pos) for n_pos in (5, N_CTX))
    assert N_CTX <= short.most_pos <= short.architecture.n_ctx
    assert torch.equal(logits_of(short, tokens), logits_of(long, tokens))


def test_every_variant_is_told_from_the_plain_one_by_its_logits() -> None:
    """Or the test above would pass with the option ignored on both sides."""
    tokens = torch.arange(12).unsqueeze(0)
    for first, second in (
        ("gpt2", "gpt2, scores also divided by the layer"),
        ("gpt2", "gpt2, scores not divided by the head's width"),
        ("gpt2", "gpt2, exact gelu, a narrow MLP"),
        ("llama, grouped queries", "llama 3's rotation"),
        ("pythia", "pythia, sequential"),
    ):
        runs = [
            make_model(VARIANTS[name][0], 3, 2, 4, **VARIANTS[name][1])(tokens).logits
            for name in (first, second)
        ]
        assert not torch.allclose(*runs, atol=1e-3)


def test_a_reading_knows_the_models_shape() -> None:
    architecture = read_transformer(bridge(make_model("llama", 0, 3, 4)), 5).architecture
    shape = (architecture.n_layers, architecture.n_heads, architecture.n_kv_heads, architecture.d_model)
    assert shape == (3, 4, 2, 32)
    assert (architecture.name, architecture.d_head, architecture.n_ctx) == ("LlamaForCausalLM", 8, N_CTX)


@pytest.mark.parametrize(
    ("family", "parallel"),
    [("gpt2", False), ("llama", False), ("pythia", True), ("pythia-sequential", False)],
)
def test_only_parallel_blocks_make_a_parallel_graph(family: str, parallel: bool) -> None:
    assert read_transformer(bridge(make_model(family, 0)), 5).architecture.graph.parallel is parallel


def test_rotary_tables_turn_the_models_share_of_a_heads_dimensions() -> None:
    model = read_transformer(bridge(make_model("pythia", 0)), 5)
    assert model.rotary_cos is not None and model.rotary_cos.shape == (
        model.most_pos,
        4,
    )  # half of eight dimensions


@pytest.mark.parametrize(
    ("family", "options", "reason"),
    [
        (
            "gpt2",
            {"activation_function": "tanh"},
            "The activation 'tanh' is not supported yet. Supported: gelu",
        ),
        ("pythia", {"hidden_act": "mish"}, "The activation 'mish' is not supported"),
    ],
)
def test_a_variant_that_is_not_computed_is_refused(
    family: str, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ModelError, match=reason):
        read_transformer(bridge(make_model(family, 0, **options)), 5)


@pytest.mark.parametrize(
    ("family", "options", "reason"),
    [
        ("mistral", {"sliding_window": 4}, "looks back 4 tokens alone"),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
            "looks back 4 tokens alone",
        ),
        (
            "llama",
            {"rope_parameters": LONGROPE | {"original_max_position_embeddings": 4}},
            "beyond 4 this model rotates all positions otherwise",
        ),
    ],
)
def test_a_prompt_that_reaches_beyond_what_is_computed_is_refused(
    family: str, options: dict[str, Any], reason: str
) -> None:
    booted = bridge(make_model(family, 0, **options))
    read = read_transformer(booted, 4)
    assert (read.most_pos, read.architecture.n_ctx) == (4, 4)
    with pytest.raises(ModelError, match=f"A prompt has 5 tokens; .*{reason}"):
        read_transformer(booted, 5)


@pytest.mark.parametrize(
    "options", [{"use_sliding_window": False}, {"use_sliding_window": True, "max_window_layers": 2}]
)
def test_a_window_that_no_layer_has_bounds_nothing(options: dict[str, Any]) -> None:
    booted = bridge(make_model("qwen2", 0, sliding_window=4, **options))
    assert read_transformer(booted, 5).architecture.n_ctx == N_CTX


def test_cross_attention_is_refused() -> None:
    booted = bridge(make_model("gpt2", 0))
    booted.original_model.config.add_cross_attention = True
    with pytest.raises(ModelError, match="cross-attention, which is not supported yet"):
        read_transformer(booted, 5)


def test_an_unknown_architecture_is_refused_with_those_that_work() -> None:
    booted = SimpleNamespace(cfg=SimpleNamespace(architecture="MambaForCausalLM"))
    with pytest.raises(
        ModelError, match=r"MambaForCausalLM is not supported yet\. Supported: GPT2LMHeadModel"
    ) as caught:
        read_transformer(booted, 5)
    assert all(name in str(caught.value) for name in FAMILIES)


@pytest.mark.parametrize("family", ["gpt2", "llama", "pythia"])
def test_prompts_longer_than_the_context_are_refused(family: str) -> None:
    booted = bridge(make_model(family, 0))
    read_transformer(booted, N_CTX)
    with pytest.raises(
        ModelError, match=f"A prompt has {N_CTX + 1} tokens; this model knows {N_CTX} positions"
    ):
        read_transformer(booted, N_CTX + 1)
