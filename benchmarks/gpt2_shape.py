"""A GPT-2-small-shaped model with seeded random weights, and prompts of random tokens for it."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from circuitfind.models.loading.quiet import quiet
from circuitfind.prompts.batch import Batch

N_CHANGED = 3
SPREAD = 8.0
"""The unembedding's rows are made so many times longer, so that the model is about as sure of a token as a real one."""


def random_gpt2(seed: int = 0) -> Any:
    """A bridge over a model of 12 layers, 12 heads, d_model 768 and 50,257 tokens: 32,491 edges."""
    from transformer_lens.model_bridge import TransformerBridge

    torch.manual_seed(seed)
    model = GPT2LMHeadModel(GPT2Config(tie_word_embeddings=False)).eval()
    model.lm_head.weight.data *= SPREAD
    words = Tokenizer(WordLevel({"<|endoftext|>": 0}, unk_token="<|endoftext|>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<|endoftext|>")
    with quiet():
        return TransformerBridge.boot_transformers(
            "gpt2", hf_model=model, tokenizer=tokenizer, dtype=torch.float32, device="cpu"
        )


def random_prompts(n_prompts: int, n_pos: int, seed: int = 0) -> Batch:
    """Prompts of random tokens; in the corrupted ones three tokens from the second on are others."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(50_257, (n_prompts, n_pos), generator=generator)
    corrupted = clean.clone()
    places = 1 + torch.stack(
        [torch.randperm(n_pos - 2, generator=generator)[:N_CHANGED] for _ in range(n_prompts)]
    )
    corrupted.scatter_(1, places, torch.randint(50_257, (n_prompts, N_CHANGED), generator=generator))
    answers = torch.randint(50_257, (n_prompts, 2), generator=generator).tolist()
    end = torch.full((n_prompts,), n_pos - 1)
    return Batch(clean, corrupted, end, tuple((a,) for a, _ in answers), tuple((b,) for _, b in answers))
