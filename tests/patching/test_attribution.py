"""Attributions against differences of whole runs."""

from __future__ import annotations

import pytest
import torch

from circuitfind.circuits.masks import readable
from circuitfind.metrics.measures import MetricName
from circuitfind.metrics.objective import make_objective
from circuitfind.patching.masked import Masked, Runner
from circuitfind.patching.reference import prepare
from circuitfind.patching.soft.attribution import attribute
from circuitfind.prompts.task_metric import METRICS
from tests.random_models import FAMILIES, random_batch, random_transformer

STEP = 1e-5


def state(family: str, seed: int) -> tuple[Runner, torch.Tensor]:
    """A runner and a mask of edges kept, removed and half kept."""
    runner = Runner(prepare(random_transformer(family, seed), random_batch(seed), "corrupted"))
    draw = torch.rand(runner.edges.shape, generator=torch.Generator().manual_seed(seed))
    return runner, (runner.edges & (draw < 0.8)).double() * torch.where(draw < 0.3, 0.5, 1.0)


def slope_of(runner: Runner, run: Masked, metric: MetricName) -> torch.Tensor:
    """The gradient of the metric's objective where the logits read."""
    baseline = runner.baseline
    return make_objective(metric, baseline.model, baseline.batch, baseline.final).slope(run.final)


@pytest.mark.parametrize("match", [False, True])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_score_is_how_the_objective_rises_as_the_edge_is_removed(
    family: str, metric: MetricName, match: bool
) -> None:
    runner, kept = state(family, 2)
    baseline = runner.baseline
    objective = make_objective(metric, baseline.model, baseline.batch, baseline.final, match)
    run = runner.run(kept)
    scores = attribute(runner, run, objective.slope(run.final))
    chosen = [place for place in kept.nonzero().tolist() if scores[:, *place].any()][::4]
    assert len(chosen) > 5
    for row, sender in chosen:
        ends = []
        for step in (-STEP, STEP):
            moved = kept.clone()
            moved[row, sender] -= step
            ends.append(objective(runner.run(moved).final.unsqueeze(0))[0])
        slope = (ends[1] - ends[0]) / (2 * STEP)
        assert torch.allclose(scores[:, row, sender], slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_stage_alone_is_scored_as_it_is_among_all(family: str) -> None:
    runner, kept = state(family, 3)
    run = runner.run(kept)
    slope = slope_of(runner, run, "loss")
    everything = attribute(runner, run, slope)
    for stage in range(runner.layout.n_stages):
        rows = list(runner.layout.rows(stage))
        assert torch.equal(attribute(runner, run, slope, stage)[:, rows], everything[:, rows])


def test_only_kept_edges_are_scored() -> None:
    runner, kept = state("gpt2", 4)
    run = runner.run(kept)
    scores = attribute(runner, run, slope_of(runner, run, "loss"))
    assert not scores[:, kept == 0].any()
    assert scores[:, kept > 0].any()


def test_the_gradient_of_kl_at_the_clean_run_is_zero() -> None:
    runner, _ = state("llama", 1)
    run = runner.run(readable(runner.baseline.graph).double())
    kl, loss = (
        attribute(runner, run, slope_of(runner, run, metric)).abs().max() for metric in ("kl", "loss")
    )
    assert kl < 1e-9 < loss
