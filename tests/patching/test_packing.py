"""A model whose MLPs and unembedding are in order for products of few rows computes the same, whoever stands beside."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from circuitfind.methods.exact import Exact
from circuitfind.methods.search.acdc import ACDC
from circuitfind.models import sizes
from circuitfind.models.components import Layer
from circuitfind.models.packed import can_pack
from circuitfind.models.transformer import Transformer, hidden_layer, mlp
from circuitfind.patching.packing import can_pack_mlps, pack_mlps, pack_model
from circuitfind.patching.problem import Problem
from tests.random_models import random_batch, random_transformer

pytestmark = pytest.mark.skipif(not can_pack(torch.zeros(1)), reason="this PyTorch comes without oneDNN")


@pytest.fixture
def of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "SMALLEST_PACKED", 1)


def wide(seed: int = 0, d_model: int = 576, d_mlp: int = 1536) -> Transformer:
    """A model with MLPs of the size of a real one, which alone matter here."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) / math.sqrt(shape[0])

    def widened(layer: Layer) -> Layer:
        shapes = {name: getattr(layer, name).shape for name in ("W_Q", "W_K", "W_V")}
        reads = {
            name: draw(d_model, n, d_head).transpose(0, 1) for name, (n, _, d_head) in shapes.items()
        }
        mlp_weights = {
            "W_in": draw(d_model, d_mlp),
            "W_gate": draw(d_model, d_mlp),
            "W_out": draw(d_mlp, d_model),
        }
        biases = {"b_O": torch.zeros(d_model), "b_out": torch.zeros(d_model)}
        return replace(layer, **reads, **mlp_weights, **biases, W_O=draw(*layer.W_O.shape[:2], d_model))

    model, stream = random_transformer("llama", 1, dtype=torch.float32), torch.ones(d_model)
    W_E = draw(len(model.W_E), d_model)
    return replace(
        model,
        layers=tuple(map(widened, model.layers)),
        W_E=W_E,
        W_U=W_E.T,
        final_gain=stream,
        final_bias=stream,
    )


@pytest.mark.parametrize("family", ["gpt2", "llama", "pythia"])
@pytest.mark.usefixtures("of_any_size")
def test_packed_mlps_write_the_same_but_for_rounding_and_by_the_packed_weights(family: str) -> None:
    model = random_transformer(family, 3, dtype=torch.float32)
    packed = pack_mlps(model)
    x = torch.randn(5, 4, model.architecture.d_model, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert torch.allclose(mlp(packed, 1, x), mlp(model, 1, x), atol=1e-6, rtol=1e-5)
        emptied = replace(packed.layers[1], W_in=torch.zeros_like(packed.layers[1].W_in))
        other = replace(packed, layers=(packed.layers[0], emptied, *packed.layers[2:]))
        assert torch.equal(hidden_layer(other, 1, x), hidden_layer(packed, 1, x))


@pytest.mark.usefixtures("of_any_size")
def test_where_a_gradient_is_asked_for_the_weights_as_they_were_give_it() -> None:
    model = random_transformer("llama", 4, dtype=torch.float32)
    x = torch.randn(
        8, model.architecture.d_model, generator=torch.Generator().manual_seed(4)
    ).requires_grad_()
    with torch.enable_grad():
        (expected,) = torch.autograd.grad(mlp(model, 0, x).square().sum(), x)
        (found,) = torch.autograd.grad(mlp(pack_mlps(model), 0, x).square().sum(), x)
    assert torch.equal(found, expected)


@torch.no_grad()
def test_no_row_depends_on_those_beside_it() -> None:
    model = pack_mlps(wide())
    assert model.layers[0].packed is not None
    x = torch.randn(400, 576, generator=torch.Generator().manual_seed(5))
    together = mlp(model, 0, x)
    for first in (0, 8, 100):
        for n_rows in (4, 8, 52, 104, 208, 260):
            assert torch.equal(mlp(model, 0, x[first : first + n_rows]), together[first : first + n_rows])


def test_what_is_too_small_too_large_or_of_another_dtype_is_left_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = random_transformer("llama", 6, dtype=torch.float32)
    assert not can_pack_mlps(small) and pack_mlps(small) is small
    assert can_pack_mlps(wide())
    monkeypatch.setattr(sizes, "MOST_PACKED", 2 * 3 * 576 * 1536 - 1)
    assert not can_pack_mlps(wide())
    monkeypatch.setattr(sizes, "SMALLEST_PACKED", 1)
    assert not can_pack_mlps(random_transformer("llama", 6, dtype=torch.float64))


@pytest.mark.parametrize(
    "schedule",
    [
        pytest.param("sequential", marks=pytest.mark.slow),
        pytest.param("screened", marks=pytest.mark.slow),
        "grouped",
    ],
)
@pytest.mark.usefixtures("of_any_size")
def test_batch_size_and_threads_change_no_bit_of_a_packed_search(schedule: str) -> None:
    model, batch = (
        random_transformer("llama", 7, dtype=torch.float32),
        random_batch(7, (5, 7, 4, 6, 7, 3, 5)),
    )
    assert can_pack_mlps(model)
    method, n_threads = ACDC(0.02, schedule=schedule), torch.get_num_threads()
    expected = method.find(Problem(model, batch, 8))
    try:
        torch.set_num_threads(2)
        found = method.find(Problem(model, batch, 3))
        assert torch.equal(found.scores.nan_to_num(9), expected.scores.nan_to_num(9))
    finally:
        torch.set_num_threads(n_threads)


@pytest.mark.usefixtures("of_any_size")
def test_exact_scores_are_the_same_but_for_rounding() -> None:
    model, batch = random_transformer("gpt2", 8, dtype=torch.float32), random_batch(8)
    found = Exact("kl").score(Problem(model, batch, 8))
    truth = Exact("kl").score(Problem(random_transformer("gpt2", 8), batch, 8))
    # float32 by itself is up to 2e-6 nats off in such models, whichever way its sums are taken
    assert torch.allclose(found.double(), truth, atol=3e-6, rtol=1e-4, equal_nan=True)


def test_packing_a_model_packs_both() -> None:
    packed = pack_model(wide())
    assert packed.packed_U is not None and all(layer.packed is not None for layer in packed.layers)
