"""Tiny random models of each family, as Hugging Face models and as circuitfind's Transformer."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.models import WordLevel
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from circuitfind.models.architectures.table import read_transformer
from circuitfind.models.transformer import Transformer
from circuitfind.patching.ablation import OF_MEANS, AblationName
from circuitfind.patching.mean_ablation import mean_outputs
from circuitfind.prompts.batch import Batch

FAMILIES = ("gpt2", "llama", "pythia", "pythia-sequential")
"""Those that the literal oracle knows too."""
D_VOCAB = 29
N_CTX = 16


def tokenizer() -> Any:
    words = FastTokenizer(WordLevel({f"w{i}": i for i in range(D_VOCAB)}, unk_token="w0"))
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", pad_token="w0", eos_token="w0")


@cache
def random_model(family: str, seed: int, n_layers: int = 2, n_heads: int = 2) -> Any:
    """A Hugging Face model whose every weight, norms and biases included, is random and matters."""
    return make_model(family, seed, n_layers, n_heads)


def make_model(family: str, seed: int, n_layers: int = 2, n_heads: int = 2, **options: Any) -> Any:
    """The same with some of its config set otherwise; a model of one's own, to be changed at will."""
    torch.manual_seed(seed)
    d_model = 8 * n_heads
    if family == "gpt2":
        sizes = {"n_layer": n_layers, "n_head": n_heads, "n_embd": d_model, "n_positions": N_CTX}
        sizes |= {"vocab_size": D_VOCAB, "bos_token_id": 0, "eos_token_id": 0}
        return _randomise(GPT2LMHeadModel(GPT2Config(**sizes | options)))
    sizes = {"num_hidden_layers": n_layers, "num_attention_heads": n_heads, "hidden_size": d_model}
    sizes |= {"intermediate_size": 2 * d_model, "vocab_size": D_VOCAB, "max_position_embeddings": N_CTX}
    if family.startswith("pythia"):
        rotary = {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}
        blocks = {"use_parallel_residual": family == "pythia", "rope_parameters": rotary}
        return _randomise(GPTNeoXForCausalLM(GPTNeoXConfig(**sizes | blocks | options)))
    make, config = {
        "llama": (LlamaForCausalLM, LlamaConfig),
        "mistral": (MistralForCausalLM, MistralConfig),
        "qwen2": (Qwen2ForCausalLM, Qwen2Config),
    }[family]
    window = {"sliding_window": None} if family == "mistral" else {}
    grouped = {"num_key_value_heads": max(1, n_heads // 2)}
    return _randomise(make(config(**sizes | grouped | window | options)))


def _randomise(model: Any) -> Any:
    for name, parameter in model.named_parameters():
        is_gain = ("norm" in name or "ln_" in name) and name.endswith("weight")
        parameter.data = torch.randn_like(parameter) * 0.5 + is_gain
    return model.double().eval()


def bridge(model: Any, dtype: torch.dtype = torch.float64) -> Any:
    """A TransformerBridge over a copy of the model."""
    import copy

    from transformer_lens.model_bridge import TransformerBridge

    copied = copy.deepcopy(model).to(dtype)
    return TransformerBridge.boot_transformers(
        "random", hf_model=copied, tokenizer=tokenizer(), dtype=dtype, device="cpu"
    )


@cache
def random_transformer(
    family: str, seed: int, n_layers: int = 2, n_heads: int = 2, dtype: torch.dtype = torch.float64
) -> Transformer:
    """The same random model as circuitfind computes it."""
    return read_transformer(bridge(random_model(family, seed, n_layers, n_heads), dtype), N_CTX)


def random_batch(seed: int, lengths: tuple[int, ...] = (5, 7, 4)) -> Batch:
    """Prompts of these lengths with random tokens; clean and corrupted share their first token and some others."""
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int) -> torch.Tensor:
        return torch.randint(D_VOCAB, (n,), generator=generator)

    width, clean, corrupted = max(lengths), [], []
    for length in lengths:
        tokens = draw(length)
        other = torch.where(draw(length) < D_VOCAB // 2, tokens, draw(length))
        other[0], other[1] = tokens[0], (tokens[1] + 1) % D_VOCAB
        filler = draw(width - length)
        clean.append(torch.cat((tokens, filler)))
        corrupted.append(torch.cat((other, filler.flip(0))))
    answers = [draw(4).tolist() for _ in lengths]
    return Batch(
        torch.stack(clean),
        torch.stack(corrupted),
        torch.tensor(lengths) - 1,
        tuple((row[0],) if row[0] == row[1] else (row[0], row[1]) for row in answers),
        tuple(
            tuple(sorted({(t + 1) % D_VOCAB for t in row[2:]} - set(row[:2])) or [(row[0] + 3) % D_VOCAB])
            for row in answers
        ),
    )


REFERENCE = random_batch(77, (6, 3, 5))
"""The prompts that mean ablation takes its means over."""


def with_means(model: Transformer, batch: Batch, ablation: AblationName) -> Batch:
    """The batch with the constants that the ablation needs, if it needs any."""
    if ablation not in OF_MEANS:
        return batch
    return replace(batch, constants=mean_outputs(model, REFERENCE, batch.n_pos, ablation, batch_size=2))
