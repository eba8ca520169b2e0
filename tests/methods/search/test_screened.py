"""The screened schedule against a literal oracle, decision for decision, and against the published schedule."""

from __future__ import annotations

import pytest
import torch
from jobs import keeping, resuming

from circuitfind.circuits.graph import Edge, Graph
from circuitfind.methods.outcome import Found
from circuitfind.methods.search import screened
from circuitfind.methods.search.acdc import ACDC
from circuitfind.methods.search.screened import Estimates
from circuitfind.metrics.measures import MetricName
from circuitfind.metrics.objective import make_objective
from circuitfind.models.transformer import Transformer
from circuitfind.patching.problem import Problem
from circuitfind.patching.reference import prepare, run_patched
from circuitfind.prompts.batch import Batch
from circuitfind.prompts.task_metric import METRICS
from tests.oracles.literal import Literal
from tests.oracles.screened import Screened
from tests.random_models import FAMILIES, random_batch, random_model, random_transformer

ROUNDING = 1e-9


@pytest.fixture
def few_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """One look a range, as with 16 prompts: with more the few edges of a small model would all be looked at alone."""
    monkeypatch.setattr(screened, "HALVES", 3)


takes_few = pytest.mark.usefixtures("few_halves")


def find(
    model: Transformer, batch: Batch, threshold: float, batch_size: int = 8, **options: object
) -> Found:
    return ACDC(threshold, schedule="screened", **options).find(Problem(model, batch, batch_size))  # type: ignore[arg-type]


def kept_edges(graph: Graph, found: Found) -> set[Edge]:
    return {edge for edge in graph.edges() if found.kept[graph.order(edge)]}


def compare(
    family: str, seed: int, threshold: float, metric: MetricName = "kl", **options: object
) -> Screened | None:
    """The oracle's outcome, ours being the same; None where the oracle's own decisions were not clear of rounding."""
    batch, literal = random_batch(seed), Literal(random_model(family, seed, 3, 2))
    ablation, match = str(options.get("ablation", "corrupted")), options.get("objective") == "match"
    outcome = Screened(literal, batch, threshold, metric, ablation, match).search()
    if outcome.margin <= ROUNDING:
        return None
    found = find(random_transformer(family, seed, 3, 2), batch, threshold, metric=metric, **options)
    assert kept_edges(literal.graph, found) == outcome.kept
    assert (found.n_tests, found.n_evaluated) == (len(outcome.scores), outcome.n_looks)
    for edge, score in outcome.scores.items():
        assert found.scores[literal.graph.order(edge)].item() == pytest.approx(score, abs=1e-8)
    return outcome


def agrees(family: str, metric: MetricName = "kl", **options: object) -> bool:
    """Whether one of a few searches is clear of rounding, keeps something, and takes edges together."""
    for seed, threshold in ((1, 0.01), (2, 0.05), (3, 0.02), (4, 0.2), (5, 0.5)):
        outcome = compare(family, seed, threshold, metric, **options)
        if outcome is not None and outcome.n_together > 1 and outcome.kept:
            return True
    return False


@takes_few
@pytest.mark.parametrize("metric", METRICS)
def test_every_decision_is_that_of_the_literal_schedule(metric: MetricName) -> None:
    assert agrees("gpt2", metric)


@takes_few
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "gpt2"])
def test_every_family_agrees_with_the_literal_schedule(family: str) -> None:
    assert agrees(family)


@takes_few
@pytest.mark.slow
def test_zero_ablation_agrees_with_the_literal_schedule() -> None:
    assert agrees("pythia", "loss", ablation="zero")


@takes_few
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zero_ablation_is_searched_as_published_in_low_precision_too(dtype: torch.dtype) -> None:
    model, batch = random_transformer("gpt2", 21, 3, 2, dtype=dtype), random_batch(21)
    found = find(model, batch, 0.2, ablation="zero")
    published = ACDC(0.2, ablation="zero").find(Problem(model, batch, 8))
    assert torch.equal(found.kept, published.kept) and found.n_evaluated < published.n_evaluated


@takes_few
def test_matching_the_full_model_agrees_with_the_literal_schedule() -> None:
    assert agrees("llama", "logit-diff", objective="match")


@takes_few
@pytest.mark.parametrize(("family", "metric"), list(zip(FAMILIES, METRICS, strict=True)))
def test_the_circuit_is_the_published_schedules(family: str, metric: MetricName) -> None:
    n_saved = 0
    for seed, threshold in ((20, 0.003), (21, 0.02), (22, 0.1), (23, 0.5)):
        model, batch = random_transformer(family, seed, 3, 2), random_batch(seed)
        found = find(model, batch, threshold, metric=metric)
        published = ACDC(threshold, metric).find(Problem(model, batch, 8))
        assert torch.equal(found.kept, published.kept)
        n_saved += max(0, found.n_tests - found.n_evaluated)
    assert n_saved > 0


def test_a_threshold_of_nothing_leaves_every_edge_its_own_test() -> None:
    model, batch = random_transformer("llama", 6), random_batch(6)
    found, published = find(model, batch, 0.0), ACDC(0.0).find(Problem(model, batch, 8))
    assert torch.equal(found.kept, published.kept)
    assert torch.allclose(found.scores, published.scores, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_scores_of_what_is_removed_add_up_to_what_the_circuit_costs(family: str) -> None:
    model, batch = random_transformer(family, 6), random_batch(6)
    found = find(model, batch, 0.02)
    baseline = prepare(model, batch, "corrupted")
    objective = make_objective("kl", model, batch, baseline.final)
    cost = float(objective(run_patched(baseline, found.kept).unsqueeze(0)).mean())
    assert found.kept.any()
    assert float(found.scores[~found.kept].nansum()) == pytest.approx(cost, abs=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
def test_batch_size_memory_and_threads_change_no_bit(family: str, dtype: torch.dtype) -> None:
    model, batch = random_transformer(family, 7, dtype=dtype), random_batch(7, (5, 7, 4, 6, 7, 3, 5))
    method, n_threads = ACDC(0.02, schedule="screened"), torch.get_num_threads()
    expected = method.find(Problem(model, batch, 8))
    try:
        for size, threads, in_flight in ((1, 1, 1), (4, 2, 1 << 30), (3, 2, 1)):
            torch.set_num_threads(threads)
            found = method.find(Problem(model, batch, size, bytes_in_flight=in_flight))
            assert torch.equal(found.scores.nan_to_num(9), expected.scores.nan_to_num(9))
            assert found.n_evaluated == expected.n_evaluated
    finally:
        torch.set_num_threads(n_threads)


@pytest.mark.parametrize("threshold", [pytest.param(0.02, marks=pytest.mark.slow), 0.2])
def test_a_search_taken_up_after_any_chain_ends_with_the_same_bits(threshold: float) -> None:
    model, batch = (
        random_transformer("llama", 13, 3, 2, dtype=torch.float32),
        random_batch(13, (5, 7, 4, 6)),
    )
    states: list[Found] = []
    method = ACDC(threshold, schedule="screened")
    whole = method.find(Problem(model, batch, 8), keeping(states, model.architecture.graph))
    assert len(states) > 10
    for state in states[:: max(1, len(states) // 10)]:
        again = method.find(Problem(model, batch, 4), resuming(state))
        assert torch.equal(again.scores.nan_to_num(9), whole.scores.nan_to_num(9))
        assert torch.equal(again.kept, whole.kept) and torch.equal(again.decided, whole.decided)
        assert (again.n_tests, again.n_evaluated) == (whole.n_tests, whole.n_evaluated)


def test_estimates_go_in_a_straight_line_from_one_end_of_the_chain_to_the_other() -> None:
    first, last = (
        torch.tensor([[1.0, 3.0], [0.0, 0.0]]).double(),
        torch.tensor([[5.0, 3.0], [2.0, -2.0]]).double(),
    )
    estimates = Estimates.between(first, last)
    assert estimates.rises.tolist() == [[2.0, 3.0], [1.5, -1.5]]
    assert estimates.bend.tolist() == [[4.0, 0.0], [2.0, -2.0]]
    assert estimates.drift.tolist() == [2.0, 0.0]
    assert estimates.sizes(64.0).tolist() == [4.5, 1.0]
