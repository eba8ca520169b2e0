"""Models whose config TransformerLens's bridges don't know are loaded as ones that compute the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from circuitfind.models.architectures.table import read_transformer
from circuitfind.models.forward import trace
from circuitfind.models.loading.load import load_bridge
from circuitfind.models.loading.verify import verify
from circuitfind.models.transformer import unembed
from tests.random_models import D_VOCAB, N_CTX, make_model, random_batch

UNSCALED = {"scale_attn_weights": False}
BY_LAYER = {"scale_attn_by_inverse_layer_idx": True}
UPCAST = {"reorder_and_upcast_attn": True}


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("gpt2", UNSCALED),
        ("gpt2", BY_LAYER),
        ("gpt2", UPCAST),
        ("gpt2", UNSCALED | BY_LAYER | UPCAST),
        ("pythia", {"attention_bias": False}),
        ("pythia-sequential", {"attention_bias": False}),
        ("pythia-sequential", {"attention_bias": True}),
    ],
)
@torch.no_grad()
def test_it_computes_what_hugging_faces_model_computes(
    family: str, options: dict[str, Any], tmp_path: Path
) -> None:
    model = make_model(family, 3, 2, 3, **options).float()
    model.save_pretrained(tmp_path)
    tokens = torch.randint(D_VOCAB, (3, N_CTX), generator=torch.Generator().manual_seed(0))
    expected = model(tokens).logits
    bridge = load_bridge(tmp_path, "cpu", torch.float32)
    read = read_transformer(bridge, N_CTX)
    for logits in (bridge(tokens, prepend_bos=False), unembed(read, trace(read, tokens).final)):
        assert float((logits - expected).abs().max() / expected.abs().max()) < 1e-5
    assert verify(bridge, read, random_batch(1)) < 1e-5
    assert read.architecture.parallel is (family == "pythia")


@torch.no_grad()
def test_each_option_matters() -> None:
    """Or the test above would pass with it ignored."""
    tokens = torch.arange(N_CTX).unsqueeze(0)
    plain = make_model("gpt2", 3, 2, 3)(tokens).logits
    for options in (UNSCALED, BY_LAYER):
        assert not torch.allclose(make_model("gpt2", 3, 2, 3, **options)(tokens).logits, plain, atol=1e-3)
