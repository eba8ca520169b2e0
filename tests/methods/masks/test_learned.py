"""Learned masks against a literal oracle, step by step, and the laws that they obey."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache

import pytest
import torch

from circuitfind.circuits.masks import readable
from circuitfind.errors import UsageError
from circuitfind.methods.masks import gates, pruning
from circuitfind.methods.masks.learned import DivergedError, Learned
from circuitfind.methods.masks.probing import SubnetworkProbing
from circuitfind.methods.masks.pruning import EdgePruning
from circuitfind.methods.method import Job
from circuitfind.metrics.measures import MetricName
from circuitfind.models.transformer import Transformer
from circuitfind.patching.ablation import AblationName
from circuitfind.patching.problem import Problem
from circuitfind.progress import Silent
from circuitfind.prompts.batch import Batch
from tests.oracles.learned import Task, probability_open, probe, prune, ranked
from tests.oracles.learned import sample as literal_sample
from tests.oracles.literal import Literal
from tests.random_models import FAMILIES, random_batch, random_model, random_transformer

STEPS = 6
every_family = pytest.mark.parametrize("family", FAMILIES)
METHODS: dict[str, type[Learned]] = {"subnetwork-probing": SubnetworkProbing, "edge-pruning": EdgePruning}
every_method = pytest.mark.parametrize("name", METHODS)


@cache
def literal(family: str, seed: int) -> Literal:
    return Literal(random_model(family, seed))


def learn(
    method: Learned,
    model: Transformer,
    batch: Batch,
    batch_size: int = 8,
    initial: torch.Tensor | None = None,
) -> torch.Tensor:
    return method.score(Problem(model, batch, batch_size), initial=initial)


def task(family: str, batch: Batch, method: Learned, seed: int = 3) -> Task:
    return Task(
        literal(family, seed),
        batch,
        method.metric,
        method.ablation,
        method.steps,
        method.learning_rate,
        method.seed,
        method.prompts_per_step,
    )


def check(found: torch.Tensor, expected: torch.Tensor, model: Transformer) -> None:
    """Odds as they should be, to 1e-8 of each."""
    edges = readable(model.architecture.graph)
    assert found.shape == (1, *edges.shape)
    assert torch.equal(~found[0].isnan(), edges)
    assert float(expected.std()) > 0.1 * float(expected.mean())  # they have moved apart
    assert torch.allclose(found[0][edges], expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize(
    ("family", "metric", "ablation"),
    [
        ("gpt2", "kl", "corrupted"),
        ("gpt2", "prob-diff", "zero"),
        ("llama", "logit-diff", "corrupted"),
        ("pythia", "loss", "corrupted"),
        ("pythia-sequential", "kl", "zero"),
    ],
)
def test_probing_goes_the_literal_way(family: str, metric: MetricName, ablation: AblationName) -> None:
    model, batch = random_transformer(family, 3), random_batch(3, (5, 7, 4))
    method = SubnetworkProbing(metric, ablation, STEPS, 0.3, seed=5, penalty=2.0)
    check(learn(method, model, batch), probe(task(family, batch, method), 2.0), model)


@pytest.mark.parametrize(
    ("family", "metric", "ablation", "node_sparsity"),
    [
        ("gpt2", "kl", "corrupted", None),
        ("gpt2", "loss", "zero", 0.5),
        ("llama", "kl", "corrupted", 0.3),
        ("pythia", "logit-diff", "corrupted", None),
        ("pythia-sequential", "prob-diff", "corrupted", 0.9),
    ],
)
def test_pruning_goes_the_literal_way(
    family: str,
    metric: MetricName,
    ablation: AblationName,
    node_sparsity: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        pruning, "START", 1.0
    )  # 10 leaves nearly every gate fully open for more than a few steps
    model, batch = random_transformer(family, 3), random_batch(3, (5, 7, 4))
    method = EdgePruning(metric, ablation, STEPS, seed=6, sparsity=0.9, node_sparsity=node_sparsity)
    expected = prune(task(family, batch, method), 0.9, node_sparsity, start=1.0)
    check(learn(method, model, batch), expected, model)


def test_among_more_edges_than_the_published_model_has_each_is_pushed_as_hard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pruning, "START", 1.0)
    model, batch = random_transformer("llama", 3), random_batch(3, (5, 7, 4))
    method = EdgePruning("kl", "corrupted", STEPS, seed=6, sparsity=0.9, node_sparsity=0.5)
    as_published = learn(method, model, batch)
    n_edges, n_nodes = model.architecture.graph.n_edges, len(model.architecture.graph.senders)
    monkeypatch.setattr(pruning, "PUBLISHED_EDGES", most := n_edges // 4)
    assert n_nodes < most  # these are pushed as they were
    expected = prune(task("llama", batch, method), 0.9, 0.5, start=1.0, most=most)
    found = learn(method, model, batch)
    check(found, expected, model)
    assert not torch.allclose(found, as_published, rtol=0.01, atol=0, equal_nan=True)


@every_method
def test_steps_of_some_prompts_go_the_literal_way(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "START", 1.0)
    model, batch = random_transformer("llama", 3), random_batch(3, (5, 7, 4, 6, 5, 4, 7, 5, 6, 4))
    method = METHODS[name]("loss", "corrupted", STEPS, 0.3, seed=2, prompts_per_step=4)
    place = task("llama", batch, method)
    assert len({tuple(prompts) for prompts in place.prompts()}) == 3
    expected = probe(place, 50.0) if name == "subnetwork-probing" else prune(place, 0.98, None, start=1.0)
    check(learn(method, model, batch), expected, model)


@every_method
def test_a_warm_start_goes_the_literal_way(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "START", 1.0)
    model, batch = random_transformer("gpt2", 3), random_batch(3)
    edges = readable(model.architecture.graph)
    initial = torch.randn(edges.shape, generator=torch.Generator().manual_seed(1)).masked_fill(
        ~edges, math.nan
    )
    initial[-1, :3] = 0.25
    scores = initial[edges].tolist()
    method = METHODS[name]("loss", "corrupted", 2, 0.1)
    place = task("gpt2", batch, method)
    expected = (
        probe(place, 50.0, scores)
        if name == "subnetwork-probing"
        else prune(place, 0.98, None, scores, start=1.0)
    )
    check(learn(method, model, batch, initial=initial), expected, model)


def test_gates_are_the_literal_ones_and_so_are_their_slopes() -> None:
    generator = torch.Generator().manual_seed(0)
    log_alpha = torch.linspace(-6, 6, 200, dtype=torch.float64).requires_grad_()
    noise = gates.draw(200, generator)
    expected = literal_sample(log_alpha, noise)
    shares, slopes = gates.sample(log_alpha.detach(), noise)
    assert torch.allclose(shares, expected.detach(), atol=1e-12)
    assert torch.allclose(slopes, torch.autograd.grad(expected.sum(), log_alpha)[0], atol=1e-12)
    assert {0.0, 1.0} < set(shares.tolist())
    assert torch.allclose(gates.probability_open(log_alpha), probability_open(log_alpha), atol=1e-12)


def test_the_odds_of_two_gates_are_those_that_both_are_open() -> None:
    first, second = (
        torch.linspace(-9, 9, 19, dtype=torch.float64),
        torch.linspace(7, -3, 19, dtype=torch.float64),
    )
    both = probability_open(first) * probability_open(second)
    assert torch.allclose(gates.odds(first, second), both / (1 - both), rtol=1e-9)
    one = probability_open(first)
    assert torch.allclose(gates.odds(first), one / (1 - one), rtol=1e-9)


def test_odds_stay_apart_and_finite_where_probabilities_do_not() -> None:
    far = torch.tensor([-35.0, -34.9, 40.0, 40.1, 1e4], dtype=torch.float64)
    for found in (gates.odds(far), gates.odds(far, far)):
        assert found.float().isfinite().all()
        assert bool((found.float().diff() > 0).all())


def test_a_warm_start_keeps_the_order_and_nothing_else() -> None:
    scores = torch.tensor([1e-9, 5.0, -2.0, 1e9, 5.0])
    found = gates.warm_start(scores, 1.0)
    assert torch.allclose(found, ranked(scores.tolist(), 1.0))
    assert float(found[1]) == float(found[4])
    assert torch.equal(found.argsort(stable=True), scores.double().argsort(stable=True))


@pytest.mark.parametrize(
    ("family", "dtype"), [("gpt2", torch.float32), ("llama", torch.float32), ("pythia", torch.float64)]
)
@every_method
def test_batch_size_and_threads_change_no_bit(family: str, dtype: torch.dtype, name: str) -> None:
    model, batch = (
        random_transformer(family, 7, dtype=dtype),
        random_batch(7, (5, 7, 4, 6, 7, 3, 5, 4, 6)),
    )
    method = METHODS[name]("loss", steps=4, learning_rate=0.5)
    expected = learn(method, model, batch)
    assert expected.dtype == dtype
    before = torch.get_num_threads()
    try:
        for n_threads, batch_size in ((2, 4), (2, 3), (1, 1), (3, 64)):
            torch.set_num_threads(n_threads)
            found = learn(method, model, batch, batch_size)
            assert torch.equal(found.nan_to_num(9), expected.nan_to_num(9)), (n_threads, batch_size)
    finally:
        torch.set_num_threads(before)


@every_method
def test_a_seed_decides_and_another_one_decides_otherwise(name: str) -> None:
    model, batch = random_transformer("gpt2", 1), random_batch(1)
    first, again, other = (learn(METHODS[name](steps=3, seed=seed), model, batch) for seed in (1, 1, 2))
    assert torch.equal(first.nan_to_num(9), again.nan_to_num(9))
    assert not torch.equal(first.nan_to_num(9), other.nan_to_num(9))


@every_family
def test_an_edge_that_changes_nothing_is_closed_and_the_one_that_matters_stays(family: str) -> None:
    """Only the input and what it moves differ; here every layer's output is zero, so that one edge carries all."""
    model = random_transformer(family, 2)
    silent = tuple(replace(layer, W_O=layer.W_O * 0, W_out=layer.W_out * 0) for layer in model.layers)
    model, batch = replace(model, layers=silent), random_batch(2)
    last = batch.end.tolist()
    corrupted = batch.clean.clone()
    for i, end in enumerate(last):
        corrupted[i, end] = (batch.clean[i, end] + 7) % 29
    batch = replace(batch, corrupted=corrupted)
    scores = learn(SubnetworkProbing(steps=60, learning_rate=0.2, penalty=1.0), model, batch)[0]
    place = (len(scores) - 1, 0)
    assert float(scores[place]) > 3
    others = scores.clone()
    others[place] = math.nan
    assert float(others.nan_to_num(0).max()) < 0.5 * float(scores[place])


def test_pruning_arrives_at_its_sparsity() -> None:
    notes: list[str] = []

    class Told(Silent):
        def update(self, done: float, total: float, note: str = "") -> None:
            notes.append(f"{done:g} of {total:g}: {note}")

    model, batch = random_transformer("gpt2", 1), random_batch(1)
    method = EdgePruning(steps=400, sparsity=0.7)
    scores = method.score(Problem(model, batch, 8), Job(Told()))
    edges = readable(model.architecture.graph)
    assert float((scores[0][edges] < 1).double().mean()) == pytest.approx(0.7, abs=0.15)
    assert notes[0].startswith("1 of 400: loss ")
    assert ", sparsity " in notes[-1]
    assert len(notes) == 400


@every_method
def test_a_run_that_diverges_names_the_step_and_keeps_what_was_sound(name: str) -> None:
    model, batch = random_transformer("gpt2", 1), random_batch(1)
    broken = replace(model, final_gain=model.final_gain * math.inf)
    with pytest.raises(DivergedError, match=rf"{name} diverged at step 1 of 9[\s\S]*float64") as caught:
        learn(METHODS[name](steps=9), broken, batch)
    edges = readable(model.architecture.graph)
    assert caught.value.scores.shape == (1, *edges.shape)
    assert caught.value.scores[0][edges].isfinite().all()


def test_a_learning_rate_that_is_too_high_is_said_to_be() -> None:
    model, batch = random_transformer("gpt2", 1), random_batch(1)
    method = SubnetworkProbing("loss", steps=9, learning_rate=1e308)
    with pytest.raises(DivergedError, match=r"Lower the learning rate \(now 1e\+308\)") as caught:
        learn(method, model, batch)
    step = int(str(caught.value).split("step ")[1].split()[0])
    kept = learn(replace(method, steps=step - 1), model, batch) if step > 1 else None
    assert kept is None or torch.equal(kept.nan_to_num(9), caught.value.scores.nan_to_num(9))


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (SubnetworkProbing, {"steps": 0}, "--steps is 0"),
        (EdgePruning, {"steps": -1}, "--steps is -1"),
        (
            SubnetworkProbing,
            {"learning_rate": 0.0},
            "--set learning_rate=0.0: it must be a finite number above 0",
        ),
        (EdgePruning, {"learning_rate": math.nan}, "--set learning_rate=nan"),
        (SubnetworkProbing, {"penalty": -1.0}, "--set penalty=-1.0: it must be a finite number, 0"),
        (EdgePruning, {"sparsity": 1.3}, r"--set sparsity=1.3: it must be 0 to 1\.2"),
        (EdgePruning, {"node_sparsity": -0.1}, "--set node_sparsity=-0.1"),
        (EdgePruning, {"prompts_per_step": 0}, "--set prompts_per_step=0: it must be 1"),
    ],
)
def test_an_option_out_of_range_is_refused(
    method: type[Learned], options: dict[str, float], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        method(**options)  # type: ignore[arg-type]


def test_scores_to_start_from_must_fit() -> None:
    model, batch = random_transformer("gpt2", 1), random_batch(1)
    edges = readable(model.architecture.graph)
    with pytest.raises(UsageError, match=r"\(3, 2\)[\s\S]*same model"):
        learn(EdgePruning(), model, batch, initial=torch.zeros(3, 2))
    bad = torch.zeros(edges.shape)
    bad[-1, 0] = math.nan
    with pytest.raises(UsageError, match=f"1 of the {int(edges.sum())} scores"):
        learn(EdgePruning(), model, batch, initial=bad)


def test_a_metric_that_compares_needs_wrong_answers() -> None:
    batch = replace(random_batch(1), wrong_answers=((), (), ()))
    with pytest.raises(UsageError, match="wrong answers"):
        learn(EdgePruning("logit-diff"), random_transformer("gpt2", 1), batch)


def test_the_record_names_every_option_and_what_a_score_is() -> None:
    record = EdgePruning(steps=7).to_dict()
    assert json.loads(json.dumps(record)) == {
        "name": "edge-pruning",
        "metric": "kl",
        "ablation": "corrupted",
        "steps": 7,
        "learning_rate": 0.8,
        "seed": 0,
        "prompts_per_step": 8,
        "sparsity": 0.98,
        "node_sparsity": None,
        "score": "odds that the edge's gates are open",
    }
    assert not EdgePruning.per_prompt
