"""A config.json is judged before anything else is read: wrong ones in one line, at no cost."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from circuitfind.errors import ModelError
from circuitfind.models.architectures import table
from circuitfind.models.loading import config as config_module
from circuitfind.models.loading.config import SUPPORTED, judge, read_config

GPT2 = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "n_embd": 16,
    "n_head": 2,
    "n_layer": 2,
}
LLAMA = {"architectures": ["LlamaForCausalLM"], "hidden_size": 16, "num_attention_heads": 4}


def test_what_is_judged_as_supported_is_what_families_read() -> None:
    assert set(SUPPORTED) == set(table.FAMILIES)
    assert set(config_module.ACTIVATIONS) == set(table.ACTIVATIONS)


def test_transformers_calls_the_supported_types_so() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert {MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[name]: name for name in SUPPORTED.values()} == dict(
        SUPPORTED
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"n_inner": None, "bos_token_id": 50256, "task_specific_params": {"text": {"max_length": 50}}},
        {"layer_norm_epsilon": 1e-5, "rope_scaling": None, "tie_word_embeddings": True, "n_ctx": 1024},
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "rope_scaling": {"type": "linear", "factor": 2},
        },
        {
            "architectures": ["MistralForCausalLM"],
            "model_type": "mistral",
            "sliding_window": 4096,
            "head_dim": None,
        },
        {
            "architectures": ["GPTNeoXForCausalLM"],
            "model_type": None,
            "hidden_act": "gelu",
            "attention_bias": False,
        },
    ],
)
def test_what_can_be_run_passes(fields: dict[str, Any]) -> None:
    assert judge(GPT2 | fields, "c").n_layers == 2


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"architectures": ["Gemma2ForCausalLM"]},
            "the architecture Gemma2ForCausalLM is not supported. Supported: GPT2",
        ),
        ({"architectures": None}, "names no architecture"),
        (
            {"architectures": "GPT2LMHeadModel"},
            "its \"architectures\" is 'GPT2LMHeadModel'; it must be a list",
        ),
        ({"architectures": [3]}, '"architectures.0" is 3; it must be a text'),
        ({"model_type": "llama"}, "its \"model_type\" is 'llama'; of GPT2LMHeadModel it is 'gpt2'"),
        ({"n_head": 0}, 'its "n_head" is 0; it must be a whole number of at least 1'),
        ({"n_embd": 0}, 'its "n_embd" is 0'),
        ({"n_layer": -2}, 'its "n_layer" is -2'),
        (
            {"n_layer": 2_000_000_000},
            'its "n_layer" is 2000000000; it must be a whole number of at most 10,000',
        ),
        ({"n_head": 3}, "a width of 16 can't be divided among 3 heads"),
        ({"n_head": "two"}, "its \"n_head\" is 'two'; it must be a whole number"),
        ({"vocab_size": 1e30}, 'its "vocab_size" is 1e+30'),
        ({"layer_norm_epsilon": -1}, 'its "layer_norm_epsilon" is -1'),
        ({"num_labels": 10**9}, 'its "num_labels" is 1000000000'),
        ({"activation_function": "mish"}, "the activation 'mish' is not supported yet. Supported: gelu"),
        ({"rope_scaling": {"rope_type": "spiral"}}, "No rotary scaling named 'spiral'"),
        ({"rope_scaling": [1]}, 'its "rope_scaling" is [1]; it must be an object'),
        ({"add_cross_attention": True}, "cross-attention, which is not supported yet"),
        ({"quantization_config": {"quant_method": "gptq"}}, "its weights are quantised ('gptq')"),
        ({"quantization_config": {}}, "its weights are quantised (null)"),
    ],
)
def test_what_can_not_be_run_is_refused_in_one_line(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError) as caught:
        judge(GPT2 | fields, "c")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_heads_that_do_not_share_evenly_are_refused() -> None:
    with pytest.raises(ModelError, match="4 heads can't share 3 keys and values evenly"):
        judge(LLAMA | {"num_key_value_heads": 3}, "c")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("{", "is not whole JSON"),
        ('{"vocab_size": NaN}', "it holds NaN"),
        ('{"architectures": {}}', '"architectures" is an empty object; it must be a list or null'),
        ("null", "it is null; it must be an object"),
        (
            json.dumps({"id2label": {str(label): "x" for label in range(1_000_000)}}),
            "more than 4,194,304 bytes",
        ),
        (json.dumps({"id2label": {str(label): "" for label in range(150_000)}}), '"id2label" is'),
    ],
)
def test_a_config_that_is_none_is_refused_at_no_cost(content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    tracemalloc.start()
    with pytest.raises(ModelError) as caught:
        read_config(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert says in str(caught.value)
    assert peak < 200e6


def test_a_norms_epsilon_may_be_large() -> None:
    assert judge(GPT2 | {"layer_norm_epsilon": 2.0**30}, "c").layer_norm_epsilon == 2**30
