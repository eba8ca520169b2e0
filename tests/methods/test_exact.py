"""Every edge ablated alone, against a literal oracle, and the laws that it obeys."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch

from circuitfind.circuits.masks import readable
from circuitfind.errors import ModelError, UsageError
from circuitfind.methods import exact as module
from circuitfind.methods.attribution.eap import EAP
from circuitfind.methods.exact import Exact
from circuitfind.methods.method import Job
from circuitfind.metrics.measures import MetricName
from circuitfind.models.architectures.table import read_transformer
from circuitfind.models.transformer import Transformer
from circuitfind.patching.ablation import ABLATIONS, AblationName
from circuitfind.patching.problem import Problem
from circuitfind.progress import Silent
from circuitfind.prompts.batch import Batch
from circuitfind.prompts.task_metric import METRICS
from tests.attributions import late, linear, literal, total_effect
from tests.oracles.exact import exact
from tests.oracles.literal import Literal
from tests.random_models import (
    FAMILIES,
    N_CTX,
    bridge,
    make_model,
    random_batch,
    random_model,
    random_transformer,
    with_means,
)
from tests.test_benchmarks import bench, ratio

LENGTHS = (5, 7, 4)


def score(
    model: Transformer, batch: Batch, metric: MetricName = "logit-diff", batch_size: int = 8
) -> torch.Tensor:
    return Exact(metric).score(Problem(model, batch, batch_size))


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.nan_to_num(9e9), b.nan_to_num(9e9))


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_score_is_the_literal_one(family: str, metric: MetricName, ablation: AblationName) -> None:
    model, batch = random_transformer(family, 3), random_batch(3, LENGTHS)
    expected, batch = (
        exact(literal(family, 3), batch, metric, ablation),
        with_means(model, batch, ablation),
    )
    assert float(expected.nan_to_num(0).abs().max()) > 0.1
    for batch_size in (8, 2, 1) if metric == "kl" else (8,):
        found = Exact(metric, ablation).score(Problem(model, batch, batch_size))
        assert torch.equal(found.isnan(), expected.isnan())
        assert torch.allclose(found, expected, rtol=1e-8, atol=1e-8, equal_nan=True), batch_size


@pytest.mark.parametrize("family", ["gpt2", "llama", "pythia"])
def test_groups_of_heads_and_prompts_that_change_late_are_the_literal_ones(family: str) -> None:
    model, batch = random_transformer(family, 4, 2, 4), late(random_batch(4, (6, 7, 5)))
    expected = exact(Literal(random_model(family, 4, 2, 4)), batch, "loss", "corrupted")
    assert torch.allclose(score(model, batch, "loss"), expected, rtol=1e-8, atol=1e-8, equal_nan=True)


@pytest.mark.parametrize("family", ["gpt2", "llama", "pythia"])
def test_a_model_of_one_layer_is_the_last_one_too(family: str) -> None:
    model, batch = random_transformer(family, 5, 1, 2), random_batch(5, LENGTHS)
    expected = exact(Literal(random_model(family, 5, 1, 2)), batch, "kl", "corrupted")
    assert torch.allclose(score(model, batch, "kl"), expected, rtol=1e-8, atol=1e-8, equal_nan=True)


@pytest.mark.parametrize("metric", ["kl", "logit-diff"])
@pytest.mark.parametrize(
    ("family", "dtype"), [("gpt2", torch.float32), ("llama", torch.float32), ("pythia", torch.float64)]
)
def test_batch_size_threads_and_tests_side_by_side_change_no_bit(
    family: str, dtype: torch.dtype, metric: MetricName, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = random_transformer(family, 7, dtype=dtype), random_batch(7, (5, 7, 4, 6, 7, 3, 5))
    batch = batch if family == "gpt2" else late(batch)
    expected = score(model, batch, metric)
    assert expected.dtype == dtype
    before = torch.get_num_threads()
    try:
        for n_threads, batch_size, n_rows, n_tests in ((2, 4, 64, 3), (2, 3, 1, 64), (1, 1, 4096, 5)):
            torch.set_num_threads(n_threads)
            monkeypatch.setattr(module, "ROWS_AT_ONCE", n_rows)
            monkeypatch.setattr(module, "TESTS_AT_ONCE", n_tests)
            assert same_bits(score(model, batch, metric, batch_size), expected), (n_threads, batch_size)
    finally:
        torch.set_num_threads(before)


def test_where_a_prompt_stands_in_its_block_changes_no_bit() -> None:
    """Three heads to a key/value head and an odd number of positions: where matrix products are not aligned."""
    hugging_face = make_model("llama", 7, 2, 9, head_dim=64, num_key_value_heads=3)
    model = read_transformer(bridge(hugging_face, torch.float32), N_CTX)
    batch = random_batch(7, (15, 15, 13, 15, 15, 14, 9))
    expected = score(model, batch, batch_size=4)
    for batch_size in (1, 2, 7):
        assert same_bits(score(model, batch, batch_size=batch_size), expected), batch_size


@pytest.mark.parametrize("family", ["gpt2", "pythia"])
def test_in_a_linear_model_the_scores_into_the_logits_and_those_of_the_input_sum_to_the_effect(
    family: str,
) -> None:
    model, batch = linear(random_transformer(family, 5)), random_batch(5)
    effect, scores = total_effect(model, batch, "logit-diff"), score(model, batch)
    assert float(effect.abs().min()) > 0.1
    assert torch.allclose(scores[:, -1].sum(-1), effect, rtol=1e-6)
    assert torch.allclose(scores[:, :, 0].sum(-1), effect, rtol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "pythia"])
def test_in_a_linear_model_attribution_is_exact(family: str) -> None:
    model, batch = linear(random_transformer(family, 5)), random_batch(5)
    expected = EAP("logit-diff").score(Problem(model, batch, 8))
    assert torch.allclose(score(model, batch), expected, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_edges_of_a_head_that_writes_nothing_score_nothing_at_all(
    family: str, metric: MetricName
) -> None:
    model, batch = random_transformer(family, 6, dtype=torch.float32), random_batch(6, LENGTHS)
    W_O = model.layers[0].W_O.clone()
    W_O[1] = 0
    model = replace(model, layers=(replace(model.layers[0], W_O=W_O), *model.layers[1:]))
    scores = score(model, batch, metric)
    assert scores[:, :, 2].nan_to_num(0).eq(0).all()  # input, a0.h0, a0.h1
    assert scores[:, :, 1].nan_to_num(0).ne(0).any()


@pytest.mark.parametrize("n_done", [0, 1, 8])
def test_a_run_that_was_cut_off_goes_on_to_the_same_bits(n_done: int) -> None:
    model, batch, states = random_transformer("llama", 1, dtype=torch.float32), random_batch(1), []
    expected = Exact("kl").score(
        Problem(model, batch, 8), Job(save=lambda so_far: states.append(so_far.copy()))
    )
    assert len(states) == len(model.architecture.graph.receivers)
    told: list[float] = []

    class Told(Silent):
        def update(self, done: float, total: float, note: str = "") -> None:
            told.append(done)

    found = Exact("kl").score(Problem(model, batch, 2), Job(Told(), start=states[n_done]))
    assert same_bits(found, expected)
    assert len(told) == len(states) - n_done - 1


def test_progress_grows_to_the_whole_work_and_counts_the_edges() -> None:
    told: list[tuple[float, float, str]] = []

    class Told(Silent):
        def update(self, done: float, total: float, note: str = "") -> None:
            told.append((done, total, note))

    model = random_transformer("gpt2", 1)
    Exact().score(Problem(model, random_batch(1), 2), Job(Told()))
    assert all(a[0] < b[0] for a, b in itertools.pairwise(told))
    n_edges = model.architecture.graph.n_edges
    assert told[-1][0] == told[-1][1] and told[-1][2] == f"{n_edges} of {n_edges} edges"


def test_there_is_a_score_for_every_edge_and_nothing_else() -> None:
    model = random_transformer("pythia", 1)
    scores = score(model, random_batch(1))
    assert torch.equal(~scores.isnan(), readable(model.architecture.graph).expand(3, -1, -1))


def test_a_metric_that_compares_needs_wrong_answers() -> None:
    batch = replace(random_batch(1), wrong_answers=((), (), ()))
    with pytest.raises(UsageError, match="wrong answers"):
        score(random_transformer("gpt2", 1), batch)


def test_scores_that_overflow_are_no_outcome() -> None:
    model = random_transformer("gpt2", 1)
    with pytest.raises(ModelError, match="float64"):
        score(replace(model, final_gain=model.final_gain * math.inf), random_batch(1), "loss")


def test_the_record_names_every_option_and_the_sign() -> None:
    record = Exact("kl").to_dict()
    assert record.pop("score") == "edge ablated alone - full model: positive if it hurts"
    assert record == {"name": "exact", "metric": "kl", "ablation": "corrupted"}


@pytest.mark.slow
def test_the_speed_benchmark_agrees_with_the_whole_model_and_prints_a_ratio() -> None:
    output = bench("exact_speed", "--model", "tiny", "--samples", "20")
    assert ratio(output) > 0
    assert "20 scores again with the whole model" in output
