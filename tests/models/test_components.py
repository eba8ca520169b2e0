"""Every backward that a component writes by hand, against autograd's of its forward."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from circuitfind.errors import ModelError
from circuitfind.models.components import (
    Activation,
    Attention,
    BlockSpec,
    Component,
    Layer,
    Mlp,
    Norm,
    Readout,
    Rules,
    activate,
    activate_back,
    autograd_backward,
    causal,
    rotate,
    turned_back,
    visible,
    visible_at_end,
)
from circuitfind.patching.gradients.sweep import Collector, Sweeper
from tests.random_models import FAMILIES, random_transformer

ACTIVATIONS: tuple[Activation, ...] = ("gelu", "gelu_tanh", "relu", "silu")
NORMS = [Norm("layer", 1e-5), Norm("rms", 1e-5), Norm("layer", 3.0), Norm("rms", 3.0)]
ROTATIONS = [None, (8, 8), (8, 4)]
"""How wide a head is, and how many of its dimensions are rotated."""


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def agrees(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert float(expected.abs().max()) > 1e-3
    assert float((found - expected).abs().max()) < 1e-10


def by_autograd(component: Component, inputs: tuple[Any, ...], gradient: Tensor) -> tuple[Tensor, ...]:
    """The default, whatever the component writes itself."""
    return autograd_backward(component.forward, inputs, gradient)


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_the_way_back_through_a_norm_is_autograds(norm: Norm) -> None:
    x, gradient = random(3, 2, 6) + 0.5, random(3, 2, 6, seed=1)
    (expected,) = by_autograd(norm, (x,), gradient)
    ran = norm.run(x)
    agrees(ran.out, norm.forward(x))
    agrees(norm.backward(ran, gradient), expected)


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_a_frozen_norm_goes_back_as_one_that_multiplies_by_its_inverse_in_this_run(norm: Norm) -> None:
    x, gradient = random(3, 6), random(3, 6, seed=1)
    ran = norm.run(x)
    (expected,) = autograd_backward(lambda x: norm.centre(x) * ran.inverse, (x,), gradient)
    agrees(norm.backward(ran, gradient, Rules(frozen_norms=True)), expected)


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_what_a_norm_says_of_its_scale_is_what_it_multiplies_by(norm: Norm) -> None:
    x, change = random(4, 6), random(4, 6, seed=1)
    centred, ran, moved = norm.centre(x), norm.run(x), norm.run(x + change)
    agrees(centred / norm.length(centred), ran.out)
    agrees(norm.inverse(centred), ran.inverse)
    along = (ran.out * ran.inverse * change).mean(-1, keepdim=True)
    spread = norm.spread(change).unsqueeze(-1)
    agrees(ran.inverse * norm.rescaled(ran.inverse, along, spread), moved.inverse)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_way_back_through_an_activation_is_autograds(activation: Activation) -> None:
    x, gradient = random(5, 7) * 3, random(5, 7, seed=1)
    (expected,) = autograd_backward(lambda x: activate(activation, x.clone()), (x,), gradient)
    agrees(activate_back(activation, x, gradient), expected)


@pytest.mark.parametrize("shape", ROTATIONS, ids=str)
def test_the_way_back_through_a_rotation_is_autograds(shape: tuple[int, int] | None) -> None:
    x, gradient = random(2, 5, 8), random(2, 5, 8, seed=1)
    table = None if shape is None else rotation(shape[1])
    (expected,) = autograd_backward(lambda x: rotate(x, table), (x,), gradient)
    agrees(rotate(gradient, turned_back(table)), expected)


def rotation(n_rotated: int) -> tuple[Tensor, Tensor]:
    angles = random(5, n_rotated // 2).repeat(1, 2)
    return angles.cos(), angles.sin()


@pytest.mark.parametrize(("n_before", "keep_pattern"), list(itertools.product([0, 3], [True, False])))
def test_the_way_back_through_attention_is_autograds(n_before: int, keep_pattern: bool) -> None:
    attention, n_key = Attention(0.6), n_before + 4
    q, k, v = random(2, 3, 4, 8), random(2, 3, n_key, 8, seed=1), random(2, 3, n_key, 8, seed=2)
    gradient = random(2, 3, 4, 8, seed=3)
    seen = causal(4, n_key, n_before, q.device)
    expected = by_autograd(attention, (q, k, v, seen), gradient)
    ran = attention.run(q, k, v)
    agrees(ran.z, attention.forward(q, k, v, seen))
    found = attention.backward(ran, gradient, keep_pattern=keep_pattern)
    agrees(found.q, expected[0])
    agrees(found.k, expected[1][..., n_before:, :])
    agrees(found.v, expected[2][..., n_before:, :])


def test_the_gradient_at_a_pattern_is_autograds_less_its_mean_under_the_pattern() -> None:
    attention, gradient = Attention(0.6), random(2, 4, 8, seed=3)
    ran = attention.run(random(2, 4, 8), random(2, 4, 8, seed=1), random(2, 4, 8, seed=2))
    (expected,) = autograd_backward(lambda pattern: pattern @ ran.v, (ran.pattern,), gradient)
    expected = expected - (expected * ran.pattern).sum(-1, keepdim=True)
    agrees(attention.backward(ran, gradient).pattern, expected)


def test_attention_by_rules_goes_back_as_they_say() -> None:
    attention, gradient = Attention(0.6), random(2, 4, 8, seed=3)
    ran = attention.run(random(2, 4, 8), random(2, 4, 8, seed=1), random(2, 4, 8, seed=2))
    plain = attention.backward(ran, gradient)
    halves = attention.backward(ran, gradient, Rules(attention_share=0.5))
    agrees(halves.q, plain.q / 4)
    agrees(halves.k, plain.k / 4)
    agrees(halves.v, plain.v / 2)
    frozen = attention.backward(ran, gradient, Rules(frozen_patterns=True))
    assert not frozen.q.any() and not frozen.k.any() and torch.equal(frozen.v, plain.v)
    # the pattern of scores divided by 2, whose softmax passes the gradient on
    (expected,) = autograd_backward(
        lambda q: attention.pattern(q @ ran.k.transpose(-1, -2), visible(4, q.device)) @ ran.v,
        (ran.q / 2,),
        gradient,
    )
    agrees(attention.backward(ran, gradient, Rules(temperature=2.0)).q, expected)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_way_back_through_an_mlp_is_autograds(
    activation: Activation, gated: bool, with_bias: bool
) -> None:
    mlp, weights = Mlp(activation, gated), mlp_weights(gated, with_bias)
    rows, gradient = random(5, 16), random(5, 16, seed=1)
    expected = by_autograd(mlp, (rows, weights), gradient)[0]
    ran = mlp.run(rows, weights)
    agrees(ran.out, mlp.forward(rows, weights))
    agrees(mlp.active(ran.hidden, ran.gate), mlp.hold(rows, weights))
    agrees(mlp.backward(ran, gradient, weights), expected)


def mlp_weights(gated: bool, with_bias: bool) -> Layer:
    own = random_transformer("llama", 1).layers[0]
    return replace(
        own,
        W_in=random(16, 9, seed=2),
        b_in=random(9, seed=3) if with_bias else None,
        W_gate=random(16, 9, seed=4) if gated else None,
        b_gate=random(9, seed=5) if gated and with_bias else None,
        W_out=random(9, 16, seed=6),
    )


@pytest.mark.parametrize("size", [(2, 2), (2, 4)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_way_back_through_a_whole_model_is_autograds(family: str, size: tuple[int, int]) -> None:
    """Grouped queries, rotations of a part, blocks in parallel and norms are all in one of these."""
    sweeper = Sweeper(random_transformer(family, 2, *size))
    stream = random(3, 5, sweeper.model.architecture.d_model)
    gradient = random(*stream.shape, seed=1)
    (expected,) = autograd_backward(lambda x: sweeper.run(x).final, (stream,), gradient)
    agrees(sweeper.sweep(sweeper.run(stream), gradient, Collector()), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_readout_has_autograds_way_back(family: str) -> None:
    model = random_transformer(family, 1)
    x, gradient = random(3, model.architecture.d_model), random(3, model.W_U.shape[1], seed=1)
    readout, W_U = model.architecture.readout, model.W_U
    ran = readout.run(x, model.final_gain, model.final_bias, W_U, model.b_U)
    ran_norm = readout.norm.run(x)
    expected = readout.norm.backward(ran_norm, gradient @ W_U.T * model.final_gain)
    agrees(readout.backward(ran, gradient)[0], expected)


@dataclass(frozen=True)
class Capped(Component):
    """A component that writes its forward alone."""

    cap: float

    def forward(self, x: Tensor) -> Tensor:
        return self.cap * torch.tanh(x / self.cap)


def test_a_component_that_writes_its_forward_alone_has_a_backward() -> None:
    x, gradient = random(3, 4), random(3, 4, seed=1)
    ran = Capped(2.0).run(x)
    agrees(Capped(2.0).backward(ran, gradient)[0], gradient * (1 - torch.tanh(x / 2) ** 2))


def test_a_component_without_rules_of_its_own_refuses_them() -> None:
    ran = Capped(2.0).run(random(3))
    with pytest.raises(ModelError, match=r"Capped passes gradients on by calculus alone.*Use a method"):
        Capped(2.0).backward(ran, random(3), rules=Rules(frozen_norms=True))


def test_answer_positions_see_what_they_see_among_all() -> None:
    end = torch.tensor([2, 0, 3])
    assert torch.equal(visible_at_end(end, 5)[:, 0], visible(5, end.device)[end])


@pytest.mark.parametrize(
    "part", [{"norm_after": NORMS[0]}, {"norm_qk": NORMS[1]}, {"soft_cap": 30.0}, {"window": 4}]
)
def test_what_no_engine_computes_yet_is_refused(part: dict[str, Any]) -> None:
    (name,) = part
    with pytest.raises(ModelError, match=rf"{name} = .* not supported yet\. Use"):
        BlockSpec(NORMS[0], Attention(1.0), Mlp("relu"), **part)
    with pytest.raises(ModelError, match="not supported yet"):
        Readout(NORMS[0], linear=False)


def test_layers_may_differ_but_in_what_no_engine_tells_apart() -> None:
    architecture = random_transformer("gpt2", 1).architecture
    first, last = architecture.blocks
    for other in (replace(last, attention=Attention(0.1)), replace(last, mlp=Mlp("relu"))):
        assert replace(architecture, blocks=(first, other)).graph == architecture.graph
    mixed = replace(architecture, blocks=(first, replace(last, parallel=True)))
    with pytest.raises(ModelError, match="in parallel and blocks in sequence"):
        _ = mixed.graph
    mixed = replace(architecture, blocks=(first, replace(last, norm=Norm("rms", 1e-5))))
    with pytest.raises(ModelError, match="LayerNorms and RMSNorms"):
        mixed.centre(random(3))
