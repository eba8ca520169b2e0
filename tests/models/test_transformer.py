"""The components of a transformer, against hand-worked numbers and against each other."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from circuitfind.models import components
from circuitfind.models.components import Attention, Norm, activate, rotate
from circuitfind.models.transformer import (
    embed,
    embed_positions,
    final_norm,
    kv_heads,
    mlp,
    project,
    rotary_table,
    unembed,
    write_heads,
)
from tests.random_models import FAMILIES, random_transformer

GPT2 = random_transformer("gpt2", 1)
LLAMA = random_transformer("llama", 1, 2, 4)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_layer_norm_centres_and_scales() -> None:
    # mean 2, variance 1: (1 - 2) / 1 and (3 - 2) / 1
    assert Norm("layer", 0.0).forward(torch.tensor([[1.0, 3.0]])).tolist() == [[-1.0, 1.0]]


def test_rms_norm_scales_and_does_not_centre() -> None:
    # root of the mean square of 1 and 7: sqrt(50 / 2) = 5
    assert Norm("rms", 0.0).forward(torch.tensor([[1.0, 7.0]])).tolist() == [pytest.approx([0.2, 1.4])]


def test_a_norm_of_nothing_is_nothing_and_no_division_by_zero() -> None:
    for model in (GPT2, LLAMA):
        assert not model.architecture.readout.norm.forward(torch.zeros(2, 3)).any()


def test_query_heads_share_the_key_of_their_group() -> None:
    assert kv_heads(LLAMA.architecture, range(4)) == [0, 0, 1, 1]
    assert kv_heads(GPT2.architecture, range(2)) == [0, 1]


@pytest.mark.parametrize("slot", ["q", "k", "v"])
@pytest.mark.parametrize("model", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_a_head_alone_projects_as_it_does_among_all(model, slot) -> None:
    x = random(model.architecture.n_heads, 3, 5, model.architecture.d_model)
    everything = project(model, 1, slot, x, range(model.architecture.n_heads))
    for head in range(model.architecture.n_heads):
        assert torch.allclose(project(model, 1, slot, x[[head]], [head])[0], everything[head], atol=1e-12)


def test_heads_are_projected_from_their_own_streams_in_the_order_asked_for() -> None:
    x = random(2, 3, LLAMA.architecture.d_model)
    straight = project(LLAMA, 0, "k", x, [3, 0])
    assert torch.allclose(project(LLAMA, 0, "k", x.flip(0), [0, 3]), straight.flip(0), atol=1e-12)


def test_each_head_writes_through_its_own_output_weights() -> None:
    z = random(2, 3, 8)
    written = write_heads(GPT2, 0, z, [1, 0])
    assert torch.allclose(written[0], z[0] @ GPT2.layers[0].W_O[1], atol=1e-12)
    assert torch.allclose(written[1], z[1] @ GPT2.layers[0].W_O[0], atol=1e-12)


def test_a_query_gathers_the_mean_of_the_values_it_weighs_alike() -> None:
    # zero scores: the first query sees one value, the second the mean of two
    q, v = torch.zeros(2, 1), torch.tensor([[2.0], [6.0]])
    assert Attention(1.0).forward(q, q, v, torch.ones(2, 2, dtype=torch.bool).tril()).tolist() == [
        [2.0],
        [4.0],
    ]


def test_the_scale_multiplies_the_scores() -> None:
    # scores 0 and log 3 x 2 x 0.5 = log 3: weights 1/4 and 3/4
    q, k, v = torch.tensor([[2.0]]), torch.tensor([[0.0], [math.log(3)]]), torch.tensor([[0.0], [4.0]])
    assert Attention(0.5).forward(q, k, v, torch.ones(1, 2, dtype=torch.bool)).item() == pytest.approx(
        3.0
    )


def test_what_a_query_may_not_see_does_not_matter() -> None:
    q, k, v = random(2, 3), random(4, 3), random(4, 3)
    visible = torch.tensor([[True, True, False, False], [True, True, True, False]])
    seen = Attention(1.0).forward(q, k, v, visible)
    k[3], v[3] = 1e30, 1e30
    assert torch.equal(Attention(1.0).forward(q, k, v, visible), seen)


@pytest.mark.parametrize("masks", [(), (3,), (1, 3), (2, 3)])
def test_attention_computed_in_parts_has_the_same_bits(
    masks: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v = (random(2, 3, 40, 8).float().roll(i, -1) for i in range(3))
    visible = torch.ones(40, 40, dtype=torch.bool).tril().expand(*masks, 40, 40)
    whole = Attention(0.5).forward(q, k, v, visible)
    monkeypatch.setattr(components, "MOST_SCORES", 40 * 40)
    assert torch.equal(Attention(0.5).forward(q, k, v, visible), whole)


def test_rotation_turns_pairs_in_halves_and_leaves_the_rest() -> None:
    # a quarter turn: (first, second) -> (-second, first); the third dimension is not rotary
    table = (torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 1.0]]))
    assert rotate(torch.tensor([[1.0, 2.0, 9.0]]), table).tolist() == [[-2.0, 1.0, 9.0]]


def test_a_model_without_rotation_is_left_alone() -> None:
    x = random(3, 8)
    assert rotary_table(GPT2, torch.arange(3)) is None
    assert rotate(x, None) is x


def test_rotated_queries_and_keys_meet_by_their_distance_alone() -> None:
    q, k = random(1, 8), random(1, 8)

    def score(query: int, key: int) -> float:
        turned = [rotate(x, rotary_table(LLAMA, torch.tensor([at]))) for x, at in ((q, query), (k, key))]
        return float(turned[0] @ turned[1].T)

    assert score(7, 4) == pytest.approx(score(3, 0), abs=1e-6)
    assert score(7, 4) != pytest.approx(score(7, 3), abs=1e-3)


def test_positions_are_added_where_a_model_learned_them() -> None:
    assert torch.equal(embed_positions(GPT2, 3), GPT2.W_pos[:3])
    assert embed_positions(LLAMA, 3).tolist() == [[0.0]]
    assert torch.equal(embed(GPT2, torch.tensor([[5, 2]]))[0, 1], GPT2.W_E[2])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("relu", [0.0, 2.0]),
        ("silu", [-1 / (1 + math.e), 2 / (1 + math.exp(-2))]),
        ("gelu", [-0.158655, 1.954500]),  # x times the normal distribution function
        ("gelu_tanh", [-0.158808, 1.954598]),
    ],
)
def test_activations_have_their_published_values(name, expected) -> None:
    assert activate(name, torch.tensor([-1.0, 2.0])).tolist() == pytest.approx(expected, abs=1e-6)


def test_a_gated_mlp_multiplies_its_two_readings() -> None:
    weights, x = LLAMA.layers[0], random(2, 3, LLAMA.architecture.d_model)
    normed = LLAMA.architecture.blocks[0].norm.forward(x)
    assert weights.b_gate is None and weights.b_in is None  # Llama has none
    hidden = functional.silu(normed @ weights.W_gate) * (normed @ weights.W_in)
    assert torch.allclose(mlp(LLAMA, 0, x), hidden @ weights.W_out, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_components_leave_what_they_read_as_it_was(family) -> None:
    model = random_transformer(family, 1)
    x = random(2, 3, model.architecture.d_model)
    before = x.clone()
    for slot in ("q", "k", "v"):
        project(model, 0, slot, x, range(2))
    mlp(model, 0, x)
    unembed(model, x)
    assert torch.equal(x, before)


def test_logits_read_the_normed_stream() -> None:
    x = random(2, GPT2.architecture.d_model)
    normed = functional.layer_norm(
        x, (16,), GPT2.final_gain, GPT2.final_bias, GPT2.architecture.readout.norm.eps
    )
    assert torch.allclose(final_norm(GPT2, x), normed, atol=1e-12)
    assert torch.allclose(unembed(GPT2, x), normed @ GPT2.W_U, atol=1e-12)
    with_bias = replace(GPT2, b_U=torch.arange(29.0, dtype=torch.float64))
    assert torch.allclose(
        unembed(with_bias, x) - unembed(GPT2, x), torch.arange(29.0, dtype=torch.float64).expand(2, -1)
    )
