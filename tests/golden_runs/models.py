"""Three small models with random weights, as folders that circuitfind loads; their words are the bundled model's."""

from __future__ import annotations

import runpy
import shutil
import sys
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any

SIZES = {"vocab_size": 125, "bos_token_id": 0, "eos_token_id": 0}
"""125 words are those of the bundled model."""


def save_all(folder: Path) -> None:
    """``gpt2``, ``llama`` (grouped queries) and ``neox`` (attention and MLP side by side), each with its tokenizer."""
    for name, model in make_models().items():
        randomise(model, seed=len(name))
        model.save_pretrained(folder / name)
        for path in bundled_model().glob("tokenizer*.json"):
            shutil.copy(path, folder / name)


def make_models() -> dict[str, Any]:
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        GPTNeoXConfig,
        GPTNeoXForCausalLM,
        LlamaConfig,
        LlamaForCausalLM,
    )

    wide = SIZES | {"max_position_embeddings": 32, "num_hidden_layers": 2}
    gpt2 = GPT2Config(**SIZES, n_layer=2, n_head=3, n_embd=24, n_positions=32)
    llama = LlamaConfig(
        **wide,
        num_attention_heads=4,
        num_key_value_heads=2,
        hidden_size=32,
        intermediate_size=40,
        rope_theta=100.0,
    )
    neox = GPTNeoXConfig(
        **wide, num_attention_heads=2, hidden_size=16, intermediate_size=36, rotary_pct=0.5
    )
    return {
        "gpt2": GPT2LMHeadModel(gpt2),
        "llama": LlamaForCausalLM(llama),
        "neox": GPTNeoXForCausalLM(neox),
    }


def randomise(model: Any, seed: int) -> None:
    """Every weight, norms and biases included, is random and matters. Drawn by Python: the same on every machine."""
    from random import Random

    import torch

    rng = Random(seed)
    for name, parameter in model.named_parameters():
        is_gain = ("norm" in name or "ln_" in name) and name.endswith("weight")
        drawn = [rng.gauss(float(is_gain), 0.3) for _ in range(parameter.numel())]
        parameter.data = torch.tensor(drawn).reshape(parameter.shape)


def bundled_model() -> Path:
    """The folder that ``circuitfind models pull tiny`` prints."""
    printed, sys.argv = StringIO(), ["circuitfind", "models", "pull", "tiny"]
    with redirect_stdout(printed), suppress(SystemExit):
        runpy.run_module("circuitfind", run_name="__main__")
    return Path(printed.getvalue().strip())
