"""Runs under shares of all edges: gradients against the literal oracle, and the laws that they obey."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from circuitfind.circuits.masks import readable
from circuitfind.metrics.measures import MetricName
from circuitfind.models.transformer import Transformer
from circuitfind.patching.ablation import ABLATIONS, AblationName
from circuitfind.patching.reference import prepare, run_patched
from circuitfind.patching.soft.block import prepare_block
from circuitfind.patching.soft.plan import make_plan
from circuitfind.patching.soft.run import Mixer, Workspace
from circuitfind.prompts.batch import Batch
from circuitfind.prompts.task_metric import METRICS
from tests.oracles.learned import objective
from tests.oracles.literal import Literal
from tests.random_models import FAMILIES, random_batch, random_model, random_transformer, with_means

every_family = pytest.mark.parametrize("family", FAMILIES)


@cache
def literal(family: str, seed: int) -> Literal:
    return Literal(random_model(family, seed))


def random_shares(model: Transformer, seed: int, kept: float = 0.4, removed: float = 0.2) -> torch.Tensor:
    """Shares of which some are 1, some 0 and the others between."""
    edges = readable(model.architecture.graph)
    generator = torch.Generator().manual_seed(seed)
    draw, kind = (torch.rand(edges.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    draw = torch.where(kind < kept, 1.0, torch.where(kind < kept + removed, 0.0, draw))
    return torch.where(edges, draw, 0.0)


def gradient(
    model: Transformer,
    batch: Batch,
    shares: torch.Tensor,
    metric: MetricName,
    ablation: AblationName,
    wanted: torch.Tensor | None = None,
) -> tuple[float, torch.Tensor]:
    """The objective's mean and its gradient."""
    mixer = Mixer(model)
    block = prepare_block(mixer, with_means(model, batch, ablation), batch.n_prompts, metric, ablation)
    mixed = mixer.mix(block, make_plan(model, shares, wanted), Workspace())
    value = float(block.objective(mixed.final.unsqueeze(0)).mean())
    return value, mixer.gradient(mixed, block.objective.slope(mixed.final) / batch.n_prompts)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("ablation", ABLATIONS)
@every_family
def test_the_objective_and_its_gradient_in_every_share_are_the_literal_ones(
    family: str, ablation: AblationName, metric: MetricName
) -> None:
    model, batch = random_transformer(family, 3), random_batch(3, (5, 7, 4))
    shares = random_shares(model, 5)
    literal_shares = shares.clone().requires_grad_()
    expected = objective(literal(family, 3), batch, literal_shares, metric, ablation)
    (slopes,) = torch.autograd.grad(expected, literal_shares)
    value, found = gradient(model, batch, shares, metric, ablation)
    assert value == pytest.approx(float(expected.detach()), abs=1e-8)
    assert float(slopes.abs().max()) > 1e-3
    assert torch.allclose(found, slopes, rtol=1e-8, atol=1e-8)


@every_family
def test_with_all_shares_one_the_run_is_the_full_model(family: str) -> None:
    model, batch = random_transformer(family, 1), random_batch(1)
    mixer = Mixer(model)
    block = prepare_block(mixer, batch, batch.n_prompts, "kl", "corrupted")
    mixed = mixer.mix(block, make_plan(model, readable(model.architecture.graph).double()), Workspace())
    assert torch.allclose(
        block.objective(mixed.final.unsqueeze(0)), torch.zeros(1, 3, dtype=torch.float64), atol=1e-9
    )


@every_family
def test_with_shares_zero_and_one_the_run_is_that_of_run_patched(family: str) -> None:
    model, batch = random_transformer(family, 2, 3, 2), random_batch(2)
    mixer = Mixer(model)
    block = prepare_block(mixer, batch, batch.n_prompts, "loss", "corrupted")
    baseline, workspace = prepare(model, batch, "corrupted"), Workspace()
    for seed, kept in enumerate((0.05, 0.3, 0.7, 0.95)):
        shares = random_shares(model, seed, kept, 1 - kept)
        nothing = torch.zeros_like(shares, dtype=torch.bool)
        mixed = mixer.mix(block, make_plan(model, shares, nothing), workspace)
        expected = block.objective(run_patched(baseline, shares > 0).unsqueeze(0))
        assert torch.allclose(block.objective(mixed.final.unsqueeze(0)), expected, atol=1e-9), kept


@every_family
def test_gradients_that_are_wanted_do_not_depend_on_the_others(family: str) -> None:
    model, batch = random_transformer(family, 4, 3, 4), random_batch(4)
    shares = random_shares(model, 4, 0.1, 0.75)
    wanted = (shares > 0) & (shares < 1)
    plan = make_plan(model, shares, wanted)
    assert 1 < len(plan.senders) < len(model.architecture.graph.senders)
    value, all_of_them = gradient(model, batch, shares, "loss", "corrupted")
    same, found = gradient(model, batch, shares, "loss", "corrupted", wanted)
    assert same == pytest.approx(value, abs=1e-12)
    assert torch.allclose(found, all_of_them * wanted, rtol=1e-9, atol=1e-12)
    assert found.any()


@every_family
def test_prompts_that_only_fill_a_block_up_move_nothing(family: str) -> None:
    model, batch = random_transformer(family, 5), random_batch(5)
    shares = random_shares(model, 5)
    filled = Mixer(model)
    block = prepare_block(filled, batch.rows([0, 1, 2, 2]), 3, "loss", "corrupted")
    mixed = filled.mix(block, make_plan(model, shares), Workspace())
    found = filled.gradient(mixed, block.objective.slope(mixed.final) * block.is_real.unsqueeze(1) / 3)
    assert torch.allclose(
        found, gradient(model, batch, shares, "loss", "corrupted")[1], rtol=1e-9, atol=1e-12
    )
