"""Edge attribution against a literal oracle, prompt by prompt and edge by edge, and the laws that it obeys."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from circuitfind.circuits.masks import readable
from circuitfind.errors import ModelError, UsageError
from circuitfind.methods.attribution.eap import EAP, EAPIG, CleanCorrupted, EAPIGActivations
from circuitfind.metrics.measures import MetricName
from circuitfind.patching.ablation import OF_MEANS, AblationName
from circuitfind.progress import Silent
from circuitfind.prompts.task_metric import METRICS
from tests.attributions import agrees, late, linear, literal, same_bits, score, total_effect
from tests.oracles.attribution import attribution
from tests.random_models import FAMILIES, random_batch, random_transformer, with_means

Method = EAP | CleanCorrupted | EAPIG | EAPIGActivations
STEPS = 2


def make(
    name: str, metric: MetricName, ablation: AblationName = "corrupted", steps: int = STEPS
) -> Method:
    if name in ("eap", "clean-corrupted"):
        return (EAP if name == "eap" else CleanCorrupted)(metric, ablation)
    return (EAPIG if name == "eap-ig" else EAPIGActivations)(metric, ablation, steps)


METHODS = ("eap", "clean-corrupted", "eap-ig", "eap-ig-activations")


def agrees_with_oracle(
    family: str, name: str, metric: MetricName, ablation: AblationName, seed: int
) -> None:
    model, batch = random_transformer(family, seed), random_batch(seed, (5, 7, 4))
    batch = late(batch) if metric in ("kl", "prob-diff") else batch
    expected = attribution(literal(family, seed), batch, name, metric, ablation, STEPS)
    batch = with_means(model, batch, ablation)
    for batch_size in (8, 2, 1) if metric == "loss" else (3,):
        agrees(score(make(name, metric, ablation), model, batch, batch_size), expected)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_score_is_the_literal_one(family: str, name: str, metric: MetricName) -> None:
    if (name, metric) != ("eap", "kl"):  # refused: see below
        agrees_with_oracle(family, name, metric, "corrupted", 3)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_score_under_zero_ablation_is_the_literal_one(family: str, name: str) -> None:
    if family == "gpt2" or name in ("eap", "eap-ig-activations"):  # the others are refused: see below
        agrees_with_oracle(family, name, "loss", "zero", 4)


@pytest.mark.parametrize("ablation", OF_MEANS)
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_score_under_mean_ablation_is_the_literal_one(
    family: str, name: str, ablation: AblationName
) -> None:
    agrees_with_oracle(family, name, "loss", ablation, 5)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("family", "dtype"), [("gpt2", torch.float32), ("llama", torch.float32), ("pythia", torch.float64)]
)
def test_batch_size_and_threads_change_no_bit(family: str, dtype: torch.dtype, name: str) -> None:
    same_bits(make(name, "loss"), family, dtype)


@pytest.mark.parametrize("name", ["eap", "clean-corrupted", "eap-ig"])
@pytest.mark.parametrize("family", ["gpt2", "pythia"])
def test_in_a_linear_model_the_scores_into_the_logits_and_those_of_the_input_sum_to_the_effect(
    family: str, name: str
) -> None:
    model, batch = linear(random_transformer(family, 5)), random_batch(5)
    effect = total_effect(model, batch, "logit-diff")
    scores = score(make(name, "logit-diff"), model, batch)
    assert float(effect.abs().min()) > 0.1
    assert torch.allclose(scores[:, -1].sum(-1), effect, rtol=1e-6)
    assert torch.allclose(scores[:, :, 0].sum(-1), effect, rtol=1e-6)


@pytest.mark.parametrize(
    ("family", "metric"), [("gpt2", "loss"), ("llama", "kl"), ("pythia", "prob-diff")]
)
def test_with_many_steps_the_scores_of_the_input_approach_the_effect(
    family: str, metric: MetricName
) -> None:
    model, batch = random_transformer(family, 6), random_batch(6)
    effect = total_effect(model, batch, metric)
    errors = [
        float((score(EAPIG(metric, steps=steps), model, batch)[:, :, 0].sum(-1) - effect).abs().max())
        for steps in (20, 80)
    ]
    assert errors[1] < errors[0] / 2  # a sum over steps: the error goes with one over their number
    assert errors[1] < 0.2 * float(effect.abs().max())


@pytest.mark.parametrize("name", METHODS)
def test_progress_counts_every_sweep(name: str) -> None:
    told: list[tuple[float, float]] = []

    class Told(Silent):
        def update(self, done: float, total: float, note: str = "") -> None:
            told.append((done, total))

    score(make(name, "loss"), random_transformer("gpt2", 1), random_batch(1), 2, Told())
    n_blocks, n_groups = 2, 5
    total = (
        n_blocks
        * {"eap": 1, "clean-corrupted": 2, "eap-ig": STEPS, "eap-ig-activations": (STEPS - 1) * n_groups}[
            name
        ]
    )
    assert told == [(done, total) for done in range(1, total + 1)]


def test_eap_refuses_kl_and_says_what_to_use() -> None:
    with pytest.raises(UsageError, match=r"clean run.*zero[\s\S]*--metric logit-diff.*eap-ig"):
        EAP("kl")


def test_one_step_of_activations_refuses_kl() -> None:
    with pytest.raises(UsageError, match="--steps 2"):
        EAPIGActivations("kl", steps=1)
    assert EAPIGActivations("loss", steps=1).steps == 1


@pytest.mark.parametrize("steps", [0, -3])
@pytest.mark.parametrize("method", [EAPIG, EAPIGActivations])
def test_less_than_one_step_is_refused(method: type[EAPIG] | type[EAPIGActivations], steps: int) -> None:
    with pytest.raises(UsageError, match=f"--steps is {steps}"):
        method(steps=steps)


@pytest.mark.parametrize("name", ["clean-corrupted", "eap-ig"])
@pytest.mark.parametrize("family", ["llama", "pythia"])
def test_an_input_of_zeros_is_refused_where_nothing_else_is_read(family: str, name: str) -> None:
    with pytest.raises(UsageError, match=rf"{name}[\s\S]*--ablation corrupted"):
        score(make(name, "loss", "zero"), random_transformer(family, 1), random_batch(1))


def test_a_metric_that_compares_needs_wrong_answers() -> None:
    batch = replace(random_batch(1), wrong_answers=((), (), ()))
    with pytest.raises(UsageError, match="wrong answers"):
        score(EAP("logit-diff"), random_transformer("gpt2", 1), batch)


def test_scores_that_overflow_are_no_outcome() -> None:
    model = random_transformer("gpt2", 1)
    broken = replace(model, final_gain=model.final_gain * math.inf)
    with pytest.raises(ModelError, match="float64"):
        score(EAP("loss"), broken, random_batch(1))


def test_there_is_a_score_for_every_edge_and_nothing_else() -> None:
    model, batch = random_transformer("pythia", 1), random_batch(1)
    scores = score(EAP("loss"), model, batch)
    assert torch.equal(~scores.isnan(), readable(model.architecture.graph).expand(3, -1, -1))


def test_the_record_names_every_option_and_the_sign() -> None:
    record = EAPIG("kl", steps=7).to_dict()
    assert record.pop("score") == "(ablated - clean) . gradient: positive if ablation hurts"
    assert record == {"name": "eap-ig", "metric": "kl", "ablation": "corrupted", "steps": 7}
