"""Relevance patching against a literal oracle, and what its rules conserve."""

from __future__ import annotations

import pytest
import torch

from circuitfind.errors import UsageError
from circuitfind.methods.attribution.eap import EAP
from circuitfind.methods.attribution.relp import RelP
from circuitfind.metrics.measures import MetricName
from circuitfind.models.components import Activation, activate, activation_ratio
from circuitfind.patching.ablation import AblationName
from tests.attributions import agrees, late, linear, same_bits, score, total_effect
from tests.oracles.attribution import attribution
from tests.oracles.relp import FrozenRelevance, Relevance
from tests.random_models import FAMILIES, random_batch, random_model, random_transformer


@pytest.mark.parametrize("freeze_patterns", [False, True])
@pytest.mark.parametrize(
    ("metric", "ablation"), [("loss", "corrupted"), ("logit-diff", "zero"), ("prob-diff", "corrupted")]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_score_is_the_literal_one(
    family: str, metric: MetricName, ablation: AblationName, freeze_patterns: bool
) -> None:
    model, batch = random_transformer(family, 3), random_batch(3, (5, 7, 4))
    batch = late(batch) if metric == "prob-diff" else batch
    oracle = (FrozenRelevance if freeze_patterns else Relevance)(random_model(family, 3))
    expected = attribution(oracle, batch, "eap", metric, ablation)
    for batch_size in (8, 2, 1) if metric == "loss" else (3,):
        agrees(score(RelP(metric, ablation, freeze_patterns), model, batch, batch_size), expected)


@pytest.mark.parametrize(
    ("family", "dtype"), [("gpt2", torch.float32), ("llama", torch.float32), ("pythia", torch.float64)]
)
def test_batch_size_and_threads_change_no_bit(family: str, dtype: torch.dtype) -> None:
    same_bits(RelP("loss"), family, dtype)


@pytest.mark.parametrize("seed", range(3))
def test_without_biases_and_with_frozen_patterns_relevance_is_conserved(seed: int) -> None:
    """Ablating with zero, a score is minus the relevance that an edge carries. The whole is the logit difference."""
    model, batch = random_transformer("llama", seed), random_batch(seed)
    graph = model.architecture.graph
    scores = score(RelP("logit-diff", "zero", freeze_patterns=True), model, batch).nan_to_num(0)
    whole = scores[:, -1].sum(-1)
    assert float(whole.abs().min()) > 1e-3
    second = torch.tensor([r.node.kind == "logits" or r.node.layer > 0 for r in graph.receivers])
    first = torch.tensor([s.layer < 1 for s in graph.senders])
    for carried in (scores[:, :, 0], scores[:, second][:, :, first].flatten(1)):
        assert torch.allclose(carried.sum(-1), whole, rtol=1e-9)


def test_with_frozen_patterns_no_edge_into_a_query_or_key_counts() -> None:
    model, batch = random_transformer("gpt2", 1), random_batch(1)
    scores = score(RelP("loss", freeze_patterns=True), model, batch).nan_to_num(0)
    for row, receiver in enumerate(model.architecture.graph.receivers):
        assert (receiver.slot in ("q", "k")) == (not scores[:, row].any())


@pytest.mark.parametrize("family", ["gpt2", "pythia"])
def test_in_a_linear_model_the_scores_are_those_of_eap_and_sum_to_the_effect(family: str) -> None:
    model, batch = linear(random_transformer(family, 5)), random_batch(5)
    scores = score(RelP("logit-diff"), model, batch)
    assert torch.allclose(scores, score(EAP("logit-diff"), model, batch), rtol=1e-6, equal_nan=True)
    assert torch.allclose(scores[:, -1].sum(-1), total_effect(model, batch, "logit-diff"), rtol=1e-6)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu", "silu"])
def test_the_ratio_of_an_activation_is_its_output_over_its_input(activation: Activation) -> None:
    x = torch.linspace(-9, 9, 100, dtype=torch.float64)
    assert torch.allclose(
        activation_ratio(activation, x) * x, activate(activation, x.clone()), rtol=0, atol=1e-14
    )
    assert float(activation_ratio(activation, torch.zeros(1))) == (0 if activation == "relu" else 0.5)


def test_kl_is_refused() -> None:
    with pytest.raises(UsageError, match=r"relp.*clean run"):
        RelP("kl")


def test_the_record_names_every_option() -> None:
    record = RelP("loss").to_dict()
    assert record["score"].endswith("positive if ablation hurts")
    assert (record["name"], record["freeze_patterns"]) == ("relp", False)
