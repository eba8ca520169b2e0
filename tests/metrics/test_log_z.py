"""log Z in an interval that certainly holds it, at fewer products with the unembedding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitfind.metrics import log_z
from circuitfind.metrics.log_z import (
    enclose_log_partition,
    log_partition,
    make_yardstick,
    mean_column,
    pack_unembedding,
)
from circuitfind.models.packed import can_pack
from circuitfind.models.transformer import Transformer
from circuitfind.models.workers import Threads
from tests.random_models import random_transformer

D_MODEL, D_VOCAB = 48, 5_003
WIDE = 1_536
"""So wide that a product with one row alone goes through other instructions."""

needs_onednn = pytest.mark.skipif(
    not can_pack(torch.zeros(1)), reason="this PyTorch comes without oneDNN"
)


def wide(
    seed: int, dtype: torch.dtype = torch.float64, bias: bool = True, d_model: int = D_MODEL
) -> Transformer:
    """A model of which nothing but a wide unembedding matters here; its vocabulary fills no whole slice or vector."""
    generator = torch.Generator().manual_seed(seed)
    stretch = torch.logspace(0, -2, d_model, dtype=torch.float64).unsqueeze(1)
    W_U = (stretch * torch.randn(d_model, D_VOCAB, generator=generator, dtype=torch.float64)).to(dtype)
    b_U = torch.randn(D_VOCAB, generator=generator, dtype=torch.float64).to(dtype) if bias else None
    stream = torch.ones(d_model, dtype=dtype)
    return replace(
        random_transformer("gpt2", 1, dtype=dtype),
        W_E=W_U.T, W_pos=None, layers=(), final_gain=stream, final_bias=stream, W_U=W_U, b_U=b_U,
    )  # fmt: skip


def near_a_plane(
    seed: int,
    n_tests: int,
    n_prompts: int,
    n_dims: int,
    size: float,
    off: float,
    dtype: torch.dtype = torch.float64,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A start and a chain of streams, ``size`` from it in a plane of ``n_dims`` and ``off`` out of it."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    start = draw(n_prompts, D_MODEL)
    in_plane = torch.einsum(
        "pti,pid->tpd", draw(n_prompts, n_tests, n_dims), draw(n_prompts, n_dims, D_MODEL)
    )
    return start.to(dtype), (start + size * in_plane + off * draw(n_tests, n_prompts, D_MODEL)).to(dtype)


def exactly(model: Transformer, x: torch.Tensor) -> torch.Tensor:
    logits = x.double() @ model.W_U.double() + (0.0 if model.b_U is None else model.b_U.double())
    return logits.logsumexp(-1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_z_is_the_log_of_all_summed_exponentials(dtype: torch.dtype, bias: bool) -> None:
    model = wide(0, dtype, bias)
    _, x = near_a_plane(0, 5, 3, 2, 1.0, 1.0, dtype)
    close = {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    assert torch.allclose(log_partition(model, x), exactly(model, x), atol=close, rtol=0)


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_unembedding_gives_the_same_log_z_and_mean_column_but_for_rounding(bias: bool) -> None:
    model = wide(0, torch.float32, bias)
    packed = pack_unembedding(model)
    _, x = near_a_plane(0, 5, 3, 2, 1.0, 1.0, torch.float32)
    assert packed.packed_U is not None
    assert torch.allclose(log_partition(packed, x), exactly(model, x), atol=1e-5, rtol=0)
    for found, expected in zip(mean_column(packed, x[0]), mean_column(model, x[0]), strict=True):
        assert torch.allclose(found, expected, atol=1e-5, rtol=1e-5)


@needs_onednn
@pytest.mark.parametrize("d_model", [D_MODEL, WIDE])
def test_with_a_packed_unembedding_no_row_depends_on_those_beside_it_or_on_the_threads(
    d_model: int,
) -> None:
    model = pack_unembedding(wide(1, torch.float32, d_model=d_model))
    x = torch.randn(70, 1, d_model, generator=torch.Generator().manual_seed(1))
    together = log_partition(model, x)
    for n_rows in (1, 2, 4, 7, 16, 64):
        assert torch.equal(log_partition(model, x[-n_rows:]), together[-n_rows:])
    with Threads(model.device) as threads:
        assert torch.equal(log_partition(model, x, threads.map), together)
        assert torch.equal(log_partition(model, x.flip(0)), together.flip(0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_only_float32_is_packed(dtype: torch.dtype) -> None:
    model = wide(2, dtype)
    assert pack_unembedding(model) is model


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    n_dims=st.integers(1, 6),
    size=st.sampled_from([0.01, 0.3, 3.0]),
    off=st.sampled_from([0.0, 1e-6, 1e-4, 1e-2]),
    tolerance=st.sampled_from([1e-1, 1e-3]),
)
def test_the_truth_lies_within_the_radius_and_the_radius_within_the_tolerance(
    seed: int, n_dims: int, size: float, off: float, tolerance: float
) -> None:
    model = wide(seed % 3)
    start, x = near_a_plane(seed, 24, 2, n_dims, size, off)
    log_z, radius = enclose_log_partition(model, make_yardstick(model), start, x, tolerance)
    assert ((log_z - exactly(model, x)).abs() <= radius + 1e-11).all()
    assert float(radius.max()) <= tolerance


def test_where_a_plane_leaves_something_out_the_radius_says_so_and_the_middle_is_nearer_by_far() -> None:
    model = wide(1)
    start, x = near_a_plane(1, 24, 2, 3, 0.05, 3e-5)
    log_z, radius = enclose_log_partition(model, make_yardstick(model), start, x, 0.1)
    assert (radius[:-1] > 0).all()
    assert float((log_z - exactly(model, x)).abs().max()) < float(radius.max()) / 20


def test_streams_of_float32_are_enclosed_but_for_rounding() -> None:
    model = wide(2, torch.float32)
    start, x = near_a_plane(2, 24, 2, 3, 0.3, 1e-4, torch.float32)
    log_z, radius = enclose_log_partition(model, make_yardstick(model), start, x, 0.05)
    assert float(radius.max()) > 0
    assert ((log_z - exactly(model, x)).abs() <= radius + 5e-6).all()


def as_it_is(model: Transformer) -> Transformer:
    return model


either_way = pytest.mark.parametrize(
    "prepare", [as_it_is, pytest.param(pack_unembedding, marks=needs_onednn)]
)


@either_way
def test_the_last_test_is_exact(prepare: Callable[[Transformer], Transformer]) -> None:
    model = prepare(wide(3, torch.float32))
    start, x = near_a_plane(3, 24, 2, 3, 0.3, 1e-4, torch.float32)
    log_z, radius = enclose_log_partition(model, make_yardstick(model), start, x, 0.05)
    assert not radius[-1].any()
    assert torch.equal(log_z[-1], log_partition(model, x[-1:])[0])


@either_way
def test_changes_in_every_direction_are_computed_one_by_one(
    prepare: Callable[[Transformer], Transformer],
) -> None:
    model = prepare(wide(4, torch.float32))
    start, x = near_a_plane(4, 24, 2, 24, 0.3, 0.0, torch.float32)
    log_z, radius = enclose_log_partition(model, make_yardstick(model), start, x, 1e-3)
    assert not radius.any()
    assert torch.equal(log_z, log_partition(model, x))


@either_way
def test_no_prompt_depends_on_another(prepare: Callable[[Transformer], Transformer]) -> None:
    """One lies near a plane, the other does not."""
    model = prepare(wide(5, torch.float32))
    yardstick = make_yardstick(model)
    flat, full = (near_a_plane(5, 24, 1, n_dims, 0.3, 0.0, torch.float32) for n_dims in (2, 24))
    alone = [enclose_log_partition(model, yardstick, *prompt, 1e-3) for prompt in (flat, full)]
    together = enclose_log_partition(
        model, yardstick, torch.cat((flat[0], full[0])), torch.cat((flat[1], full[1]), dim=1), 1e-3
    )
    for both, first, second in zip(together, *alone, strict=True):
        assert torch.equal(both, torch.cat((first, second), dim=1))


def test_a_plane_takes_fewer_products_than_there_are_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of two prompts: where it starts, its last test, and a basis of two rows made up to four."""
    model, n_rows = wide(6), []
    start, x = near_a_plane(6, 48, 2, 2, 0.3, 0.0)
    true = log_z._products

    def count(model: Transformer, rows: torch.Tensor, tokens: slice) -> torch.Tensor:
        n_rows.append(len(rows))
        return true(model, rows, tokens)

    yardstick = make_yardstick(model)
    monkeypatch.setattr(log_z, "_products", count)
    enclose_log_partition(model, yardstick, start, x, 1e-3)
    assert set(n_rows) == {2 + 2 + 2 * 4}


def test_no_column_is_longer_than_the_yardsticks_reach() -> None:
    model = wide(7, torch.float32)
    yardstick = make_yardstick(model)
    columns = model.W_U.double().T - yardstick.mean
    assert float((columns @ yardstick.dual_root).norm(dim=-1).max()) <= yardstick.reach
    _, x = near_a_plane(7, 9, 1, 9, 1.0, 1.0)
    assert (
        (columns @ x[:, 0].T).abs() <= yardstick.reach * (x[:, 0] @ yardstick.root).norm(dim=-1)
    ).all()


@pytest.mark.parametrize("bias", [False, True])
def test_the_mean_column_is_the_gradient_of_log_z(bias: bool) -> None:
    model = wide(8)
    if not bias:
        model = replace(model, b_U=None)
    _, x = near_a_plane(8, 5, 1, 2, 1.0, 1.0)
    rows = x[:, 0].clone().requires_grad_()
    with torch.enable_grad():
        log_z = (rows @ model.W_U + (0.0 if model.b_U is None else model.b_U)).logsumexp(-1)
    (gradient,) = torch.autograd.grad(log_z.sum(), rows)
    found, mean = mean_column(model, x[:, 0])
    assert torch.allclose(found, log_z, rtol=1e-12) and torch.allclose(
        mean, gradient, rtol=1e-9, atol=1e-12
    )
