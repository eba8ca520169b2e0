"""Gradient interaction modifications against a literal oracle, and what each of them does."""

from __future__ import annotations

import math

import pytest
import torch

from circuitfind.errors import UsageError
from circuitfind.methods.attribution.eap import EAP
from circuitfind.methods.attribution.gim import GIM
from circuitfind.metrics.measures import MetricName
from circuitfind.models.components import soften
from circuitfind.patching.ablation import AblationName
from tests.attributions import agrees, late, linear, same_bits, score
from tests.oracles.attribution import attribution
from tests.oracles.gim import Cooler, Modified
from tests.random_models import FAMILIES, random_batch, random_model, random_transformer


@pytest.mark.parametrize("oracle", [Modified, Cooler])
@pytest.mark.parametrize(
    ("metric", "ablation"), [("loss", "corrupted"), ("logit-diff", "zero"), ("prob-diff", "corrupted")]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_score_is_the_literal_one(
    family: str, metric: MetricName, ablation: AblationName, oracle: type[Modified]
) -> None:
    model, batch = random_transformer(family, 3), random_batch(3, (5, 7, 4))
    batch = late(batch) if metric == "prob-diff" else batch
    expected = attribution(oracle(random_model(family, 3)), batch, "eap", metric, ablation)
    for batch_size in (8, 2, 1) if metric == "loss" else (3,):
        agrees(score(GIM(metric, ablation, oracle.temperature), model, batch, batch_size), expected)


@pytest.mark.parametrize(
    ("family", "dtype"), [("gpt2", torch.float32), ("llama", torch.float32), ("pythia", torch.float64)]
)
def test_batch_size_and_threads_change_no_bit(family: str, dtype: torch.dtype) -> None:
    same_bits(GIM("loss"), family, dtype)


@pytest.mark.parametrize("family", ["gpt2", "pythia"])
def test_in_a_linear_model_values_of_the_last_layer_get_half_of_eaps_score(family: str) -> None:
    model, batch = linear(random_transformer(family, 5)), random_batch(5)
    found, plain = (score(method, model, batch).nan_to_num(0) for method in (GIM("loss"), EAP("loss")))
    for row, receiver in enumerate(model.architecture.graph.receivers):
        if receiver.node.kind == "logits" or receiver.node.layer == 1:
            part = 0.5 if receiver.slot == "v" else 1
            assert torch.allclose(found[:, row], part * plain[:, row], rtol=1e-6), str(receiver)


def test_a_pattern_is_softened_to_that_of_scores_divided_by_the_temperature() -> None:
    scores = torch.randn(3, 4, 5, dtype=torch.float64) * 3
    scores[..., 3:] = -math.inf
    assert torch.allclose(soften(scores.softmax(-1), 2.5), (scores / 2.5).softmax(-1), rtol=1e-12)


def test_kl_is_refused() -> None:
    with pytest.raises(UsageError, match=r"gim.*clean run"):
        GIM("kl")


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_that_is_none_is_refused(temperature: float) -> None:
    with pytest.raises(UsageError, match=f"--set temperature={temperature}: it must be"):
        GIM(temperature=temperature)


def test_the_record_names_every_option() -> None:
    record = GIM("loss").to_dict()
    assert record["score"].endswith("positive if ablation hurts")
    assert (record["name"], record["temperature"]) == ("gim", 2.0)
