"""Circuits of single neurons against literal oracles, neuron by neuron, and the laws that they obey."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch

from circuitfind.circuits.bootstrap import Bootstrap
from circuitfind.circuits.size import NeuronSelection
from circuitfind.errors import ModelError, UsageError
from circuitfind.evaluation.neurons import evaluate_neurons
from circuitfind.methods import exact
from circuitfind.methods.attribution.by_neuron import ByNeuron
from circuitfind.methods.attribution.eap import EAP, EAPIG, Attribution, CleanCorrupted, EAPIGActivations
from circuitfind.methods.attribution.gim import GIM
from circuitfind.methods.attribution.relp import RelP
from circuitfind.methods.exact_neurons import ExactNeurons
from circuitfind.methods.neuron_circuit import bootstrap_neurons, choose
from circuitfind.methods.search import neurons
from circuitfind.methods.search.neurons import ACDCNeurons, FoundNeurons
from circuitfind.metrics.measures import MetricName
from circuitfind.models.forward import at_end, trace
from circuitfind.models.transformer import Transformer, unembed
from circuitfind.patching.ablation import ABLATIONS, OF_MEANS, AblationName
from circuitfind.patching.mean_ablation import mean_outputs
from circuitfind.patching.problem import Problem
from circuitfind.patching.units import NeuronRunner, ablated_neurons, neurons_of
from circuitfind.prompts.batch import Batch
from circuitfind.prompts.task_metric import METRICS
from tests.attributions import agrees, late, linear, total_effect
from tests.attributions import score as score_edges
from tests.oracles import neurons as oracle
from tests.oracles.altered import Altered
from tests.oracles.gim import Modified
from tests.oracles.relp import Relevance
from tests.random_models import FAMILIES, REFERENCE, random_batch, random_model, random_transformer

LENGTHS = (5, 7, 4)
STEPS = 2
OF_NEURONS = tuple(
    ablation for ablation in ABLATIONS if ablation != "optimal"
)  # whose constants are whole senders'
MEANS = tuple(ablation for ablation in OF_MEANS if ablation in OF_NEURONS)
MAKE: dict[str, Callable[[MetricName, AblationName], Attribution]] = {
    "eap": EAP,
    "clean-corrupted": CleanCorrupted,
    "eap-ig": lambda metric, ablation: EAPIG(metric, ablation, STEPS),
    "eap-ig-activations": lambda metric, ablation: EAPIGActivations(metric, ablation, STEPS),
    "relp": RelP,
    "gim": GIM,
}
ALTERED = {"relp": Relevance, "gim": Modified}


@cache
def literal(family: str, seed: int, kind: type[Altered] = Altered) -> Altered:
    return kind(random_model(family, seed))


def with_neuron_means(model: Transformer, batch: Batch, ablation: AblationName) -> Batch:
    if ablation not in OF_MEANS:
        return batch
    means = mean_outputs(model, REFERENCE, batch.n_pos, ablation, batch_size=2, of_neurons=True)
    return replace(batch, constants=means)


def score(
    name: str, model: Transformer, batch: Batch, metric: MetricName, ablation: AblationName, size: int = 8
) -> torch.Tensor:
    method = ExactNeurons(metric, ablation) if name == "exact" else ByNeuron(MAKE[name](metric, ablation))
    return method.score(Problem(model, with_neuron_means(model, batch, ablation), size))


def find(model: Transformer, batch: Batch, batch_size: int = 8, **options: object) -> FoundNeurons:
    return ACDCNeurons(**options).find(Problem(model, batch, batch_size))  # type: ignore[arg-type]


# runs


@pytest.mark.parametrize("ablation", OF_NEURONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_under_any_mask_is_the_literal_one(family: str, ablation: AblationName) -> None:
    model, batch = random_transformer(family, 3), random_batch(3, LENGTHS)
    prompts = oracle.Prompts(literal(family, 3), batch, "loss", ablation)
    runner = NeuronRunner(model, with_neuron_means(model, batch, ablation), ablation)
    for seed in range(3):
        kept = torch.rand(len(runner.neurons), generator=torch.Generator().manual_seed(seed)) < 0.5
        removed = {runner.neurons.at(place) for place in (~kept).nonzero().flatten().tolist()}
        expected = torch.stack(prompts.logits(removed))
        assert torch.allclose(unembed(model, runner.run(kept)), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
def test_with_every_neuron_kept_a_run_is_the_clean_one_to_the_last_bit(
    family: str, dtype: torch.dtype
) -> None:
    model, batch = random_transformer(family, 3, dtype=dtype), random_batch(3, LENGTHS)
    runner = NeuronRunner(model, batch, "corrupted")
    assert torch.equal(
        runner.run(torch.ones(len(runner.neurons)) > 0),
        at_end(trace(model, batch.clean).final, batch.end),
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_from_a_stage_on_is_the_whole_run(family: str) -> None:
    model, batch = random_transformer(family, 4, 3), random_batch(4, LENGTHS)
    runner = NeuronRunner(model, batch, "corrupted")
    for stage in range(6):
        own = runner.neurons.stage(stage)
        kept = torch.rand(len(runner.neurons), generator=torch.Generator().manual_seed(stage)) < 0.5
        kept[: own.start] = True
        masks = torch.rand(3, own.stop - own.start, generator=torch.Generator().manual_seed(9)) < 0.5
        found = runner.run_from(stage, masks, kept)
        for mask, final in zip(masks, found, strict=True):
            whole = kept.clone()
            whole[own] = mask
            assert torch.allclose(final, runner.run(whole), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ablation", MEANS)
def test_what_mean_neurons_write_is_what_their_mlp_writes_in_the_mean(ablation: AblationName) -> None:
    model = random_transformer("llama", 2)
    batch = with_neuron_means(model, random_batch(2), ablation)
    means = ablated_neurons(model, batch, ablation)
    for layer, weights in enumerate(model.layers):
        assert torch.allclose(means.hidden[layer] @ weights.W_out, means.mlp_out[layer], atol=1e-12)


@pytest.mark.parametrize("family", ["gpt2", "llama", "pythia"])
def test_the_evaluation_is_of_the_literal_runs(family: str) -> None:
    model, batch = random_transformer(family, 3), random_batch(3, LENGTHS)
    neurons = neurons_of(model)
    prompts = oracle.Prompts(literal(family, 3), batch, "loss", "corrupted")
    kept = torch.arange(len(neurons)) % 3 > 0
    removed = {neuron for neuron in neurons if not kept[neurons.place(neuron)]}
    found = evaluate_neurons(model, batch, kept, "corrupted", 2)
    for run, expected in ((found.full, ()), (found.circuit, removed), (found.ablated, set(neurons))):
        assert run.values["loss"] == pytest.approx(prompts.values(expected), abs=1e-9)
    again = evaluate_neurons(model, batch, ~kept, "corrupted", 2, known=found)
    assert again.full is found.full and again.circuit.values["loss"] != found.circuit.values["loss"]


# attribution


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_score_is_the_literal_one(family: str, name: str, metric: MetricName) -> None:
    if metric == "kl" and name in ("eap", "relp", "gim"):  # refused, as at edge level
        return
    batch = random_batch(3, LENGTHS)
    batch = late(batch) if metric in ("kl", "prob-diff") else batch
    model = literal(family, 3, ALTERED.get(name, Altered))
    place = "eap" if name in ALTERED else name
    expected = oracle.attribution(model, batch, place, metric, "corrupted", STEPS)
    for size in (8, 2, 1) if metric == "loss" else (3,):
        agrees(score(name, random_transformer(family, 3), batch, metric, "corrupted", size), expected)


@pytest.mark.parametrize("ablation", ["zero", *MEANS])
@pytest.mark.parametrize("name", ["eap", "eap-ig", "eap-ig-activations", "gim"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_score_under_another_ablation_is_the_literal_one(
    family: str, name: str, ablation: AblationName
) -> None:
    if ablation == "zero" and name == "eap-ig" and family != "gpt2":  # refused, as at edge level
        return
    model, batch = literal(family, 4, ALTERED.get(name, Altered)), random_batch(4, LENGTHS)
    expected = oracle.attribution(
        model, batch, "eap" if name in ALTERED else name, "loss", ablation, STEPS
    )
    agrees(score(name, random_transformer(family, 4), batch, "loss", ablation), expected)


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_scores_of_a_nodes_neurons_sum_to_those_of_its_edges(family: str, name: str) -> None:
    model, batch = random_transformer(family, 6), random_batch(6, LENGTHS)
    neurons = neurons_of(model)
    found = score(name, model, batch, "loss", "corrupted")
    edges = score_edges(MAKE[name]("loss", "corrupted"), model, batch).nan_to_num(0).sum(1)
    widths = [neurons.width(node) for node in neurons.nodes]
    sums = torch.stack([part.sum(1) for part in torch.split(found, widths, dim=1)], dim=1)
    assert float(edges[:, 1:].abs().max()) > 1e-2
    assert torch.allclose(sums, edges[:, 1:], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", [*MAKE, "exact"])
@pytest.mark.parametrize(
    ("family", "dtype"), [("gpt2", torch.float32), ("llama", torch.float32), ("pythia", torch.float64)]
)
def test_batch_size_and_threads_change_no_bit(
    family: str, dtype: torch.dtype, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = random_transformer(family, 7, dtype=dtype), random_batch(7, (5, 7, 4, 6, 7, 3, 5))
    batch = batch if family == "gpt2" else late(batch)
    expected, before = score(name, model, batch, "loss", "corrupted"), torch.get_num_threads()
    assert expected.dtype == dtype
    try:
        for n_threads, batch_size, n_rows in ((2, 4, 64), (2, 3, 1), (1, 1, 4096)):
            torch.set_num_threads(n_threads)
            monkeypatch.setattr(exact, "ROWS_AT_ONCE", n_rows)
            found = score(name, model, batch, "loss", "corrupted", batch_size)
            assert torch.equal(found, expected), (n_threads, batch_size)
    finally:
        torch.set_num_threads(before)


# exact


@pytest.mark.parametrize("ablation", OF_NEURONS)
@pytest.mark.parametrize("metric", ["kl", "logit-diff"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_exact_score_is_the_literal_one(
    family: str, metric: MetricName, ablation: AblationName
) -> None:
    batch = random_batch(3, LENGTHS) if metric == "kl" else late(random_batch(3, LENGTHS))
    expected = oracle.exact(literal(family, 3), batch, metric, ablation)
    for size in (8, 1) if ablation == "corrupted" else (3,):
        agrees(score("exact", random_transformer(family, 3), batch, metric, ablation, size), expected)


@pytest.mark.parametrize("family", ["gpt2", "pythia"])
def test_in_a_linear_model_attribution_is_exact(family: str) -> None:
    model, batch = linear(random_transformer(family, 5)), random_batch(5)
    assert float(total_effect(model, batch, "logit-diff").abs().min()) > 0.1
    found, expected = (score(name, model, batch, "logit-diff", "corrupted") for name in ("exact", "eap"))
    assert float(expected.abs().max()) > 1e-3
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)


# acdc


def agrees_with_oracle(family: str, seed: int, n_layers: int = 2, **options: object) -> FoundNeurons:
    batch, ablation = random_batch(seed, LENGTHS), options.get("ablation", "corrupted")
    given = {"metric": "kl", "ablation": "corrupted"} | options
    given["match"] = given.pop("objective", "improve") == "match"
    outcome = oracle.acdc(Altered(random_model(family, seed, n_layers)), batch, **given)  # type: ignore[arg-type]
    assert outcome.margin > 1e-9  # the oracle's own decisions are clear of rounding
    model = random_transformer(family, seed, n_layers)
    found = find(model, with_neuron_means(model, batch, ablation), **options)  # type: ignore[arg-type]
    assert found.kept.tolist() == outcome.kept
    assert found.scores.tolist() == pytest.approx(outcome.scores, abs=1e-8)
    assert 0 < int(found.kept.sum()) < len(outcome.kept)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_every_neuron_is_decided_as_the_literal_algorithm_decides_it(family: str) -> None:
    agrees_with_oracle(family, 1, threshold=0.003)


@pytest.mark.parametrize(
    ("family", "metric", "ablation", "objective"),
    [
        ("gpt2", "logit-diff", "zero", "improve"),
        ("llama", "logit-diff", "mean", "match"),
        ("pythia", "loss", "mean-positional", "improve"),
        ("pythia-sequential", "prob-diff", "corrupted", "match"),
    ],
)
def test_other_metrics_ablations_and_objectives_agree_with_the_literal_algorithm(
    family: str, metric: str, ablation: str, objective: str
) -> None:
    threshold = 0.01 if metric == "logit-diff" else 0.002
    agrees_with_oracle(
        family, 2, threshold=threshold, metric=metric, ablation=ablation, objective=objective
    )


@pytest.mark.parametrize(
    ("family", "dtype"), [("gpt2", torch.float32), ("llama", torch.float32), ("pythia", torch.float64)]
)
def test_batch_size_threads_and_chains_change_no_bit_of_a_search(
    family: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = random_transformer(family, 7, dtype=dtype), random_batch(7, (5, 7, 4, 6, 7, 3, 5))
    expected, before = find(model, batch, threshold=0.003), torch.get_num_threads()
    assert 0 < int(expected.kept.sum()) < len(expected.kept)
    try:
        for n_threads, batch_size, n_rows, longest in ((2, 3, 64, 5), (1, 1, 4096, 64)):
            torch.set_num_threads(n_threads)
            monkeypatch.setattr(neurons, "ROWS_AT_ONCE", n_rows)
            monkeypatch.setattr(neurons, "chain_length", lambda since, has_kept, most=longest: most)
            found = find(model, batch, batch_size, threshold=0.003)
            assert torch.equal(found.scores, expected.scores), (n_threads, batch_size)
            assert torch.equal(found.kept, expected.kept)
    finally:
        torch.set_num_threads(before)


def test_a_threshold_that_nothing_reaches_keeps_nothing() -> None:
    model = random_transformer("gpt2", 3)
    assert not find(model, random_batch(3), threshold=1e9).kept.any()


# selection and bootstrap


def test_the_largest_scores_are_chosen_and_of_equal_ones_the_first() -> None:
    scores = torch.tensor([0.5, -2.0, 0.5, 1.0, 0.5], dtype=torch.float64)
    assert choose(scores, NeuronSelection(3)).tolist() == [True, True, False, True, False]
    assert choose(scores, NeuronSelection(2, select="top-signed")).tolist() == [
        True,
        False,
        False,
        True,
        False,
    ]
    assert choose(scores, NeuronSelection(threshold=1.0)).tolist() == [False, True, False, True, False]
    assert choose(scores, NeuronSelection(fraction=0.5)).sum() == 2
    with pytest.raises(UsageError, match="the model has 5"):
        choose(scores, NeuronSelection(6))
    with pytest.raises(UsageError, match="finite"):
        choose(scores / 0, NeuronSelection(1))


def test_a_bootstrap_counts_how_often_a_neuron_is_chosen() -> None:
    scores = torch.tensor([[3.0, 1.0, 0.0], [3.0, 0.0, 1.0]])
    options = Bootstrap(resamples=300, bar=0.9)
    found = bootstrap_neurons(scores, NeuronSelection(2), options)
    means = (options.draw(2).double() @ scores.double()) / 2
    second = float((means[:, 1] >= means[:, 2]).double().mean())  # of equal ones the first
    assert found.inclusion.tolist() == [[1.0, pytest.approx(second), pytest.approx(1 - second)]]
    assert found.consensus.tolist() == [[True, False, False]]
    assert found.mean.tolist() == [[3.0, 0.5, 0.5]]


# what is refused


def test_scores_that_overflow_are_no_outcome() -> None:
    model = random_transformer("gpt2", 1)
    broken = replace(model, final_gain=model.final_gain * float("inf"))
    for name in ("eap", "exact"):
        with pytest.raises(ModelError, match="float64"):
            score(name, broken, random_batch(1), "loss", "corrupted")
    with pytest.raises(ModelError, match="float64"):
        find(broken, random_batch(1), threshold=0.1)


def test_a_metric_that_compares_needs_wrong_answers() -> None:
    batch = replace(random_batch(1), wrong_answers=((), (), ()))
    for name in ("eap", "exact"):
        with pytest.raises(UsageError, match="wrong answers"):
            score(name, random_transformer("gpt2", 1), batch, "logit-diff", "corrupted")


def test_a_mean_ablation_without_the_means_of_hidden_layers_is_refused() -> None:
    model = random_transformer("gpt2", 1)
    with pytest.raises(UsageError, match="means"):
        NeuronRunner(model, random_batch(1), "mean")


def test_the_record_names_every_option_and_the_level() -> None:
    record = ByNeuron(EAPIG("kl", steps=7)).to_dict()
    assert record.pop("score") == "(ablated - clean) . gradient: positive if ablation hurts"
    assert record == {
        "name": "eap-ig",
        "metric": "kl",
        "ablation": "corrupted",
        "steps": 7,
        "level": "neuron",
    }
    assert ACDCNeurons(0.1).to_dict() == {
        "name": "acdc", "threshold": 0.1, "metric": "kl", "ablation": "corrupted", "objective": "improve",
        "order": "reverse forward", "level": "neuron",
    }  # fmt: skip
    assert ExactNeurons().to_dict()["level"] == "neuron"
