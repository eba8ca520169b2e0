"""The grouped schedule against a literal oracle, edge for edge, and the laws that it obeys."""

from __future__ import annotations

import pytest
import torch
from jobs import keeping, resuming

from circuitfind.circuits.graph import Edge, Graph
from circuitfind.circuits.masks import readable
from circuitfind.methods.outcome import Found, nothing_decided
from circuitfind.methods.search.acdc import ACDC
from circuitfind.methods.search.grouped import Grouped, middle
from circuitfind.metrics.measures import MetricName
from circuitfind.metrics.objective import make_objective
from circuitfind.models.transformer import Transformer
from circuitfind.patching.ablation import AblationName
from circuitfind.patching.problem import Problem
from circuitfind.patching.reference import prepare, run_patched
from circuitfind.prompts.batch import Batch
from circuitfind.prompts.task_metric import METRICS
from tests.oracles.grouped import Search
from tests.oracles.literal import Literal
from tests.random_models import FAMILIES, random_batch, random_model, random_transformer

ROUNDING = 1e-9


def find(model: Transformer, batch: Batch, batch_size: int = 8, **options: object) -> Found:
    return Grouped(**options).find(Problem(model, batch, batch_size))  # type: ignore[arg-type]


def kept_edges(graph: Graph, found: Found) -> set[Edge]:
    return {edge for edge in graph.edges() if found.kept[graph.order(edge)]}


def agrees_with_oracle(
    family: str,
    seed: int,
    threshold: float,
    metric: MetricName = "kl",
    ablation: AblationName = "corrupted",
    match: bool = False,
) -> bool:
    """Whether the oracle's own decisions were clear of rounding; if they were, ours are the same."""
    batch, literal = random_batch(seed), Literal(random_model(family, seed))
    outcome = Search(literal, batch, threshold, metric, ablation, match).search()
    if outcome.margin <= ROUNDING:
        return False
    model = random_transformer(family, seed)
    found = find(model, batch, threshold=threshold, metric=metric, ablation=ablation, match=match)
    assert kept_edges(literal.graph, found) == outcome.kept
    assert (found.n_tests, found.n_evaluated) == (len(outcome.groups), outcome.n_evaluated)
    for edge in literal.graph.edges():
        expected = outcome.scores.get(edge, 0.0)
        assert found.scores[literal.graph.order(edge)].item() == pytest.approx(
            expected, abs=1e-7, rel=1e-6
        )
    return True


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_edge_is_decided_as_the_literal_schedule_decides_it(
    family: str, metric: MetricName
) -> None:
    agreed = [
        agrees_with_oracle(family, seed, threshold, metric) for seed, threshold in ((1, 0.003), (2, 0.05))
    ]
    assert any(agreed)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "llama"])
def test_zero_ablation_agrees_with_the_literal_schedule(family: str) -> None:
    # Llama's first heads read nothing but the input through an RMSNorm, which does not see its scale: half of it
    # removed is none removed, and what orders those edges is rounding.
    assert agrees_with_oracle(family, 4, 0.0347, ablation="zero")


@pytest.mark.parametrize("family", FAMILIES)
def test_matching_the_full_model_agrees_with_the_literal_schedule(family: str) -> None:
    assert agrees_with_oracle(family, 5, 0.02, "logit-diff", match=True)


def objective_of(
    model: Transformer, batch: Batch, kept: torch.Tensor, metric: MetricName = "kl"
) -> float:
    baseline = prepare(model, batch, "corrupted")
    objective = make_objective(metric, model, batch, baseline.final)
    return float(objective(run_patched(baseline, kept).unsqueeze(0)).mean())


def every_state(model: Transformer, batch: Batch, **options: object) -> list[Found]:
    """What is found after each decision."""
    states: list[Found] = []
    Grouped(**options).find(Problem(model, batch, 8), keeping(states, model.architecture.graph))  # type: ignore[arg-type]
    return states


@pytest.mark.parametrize(
    ("family", "metric"), [("gpt2", "kl"), ("llama", "loss"), ("pythia", "prob-diff")]
)
def test_every_removed_group_costs_less_than_the_threshold_when_it_goes(
    family: str, metric: MetricName
) -> None:
    model, batch, threshold = random_transformer(family, 3), random_batch(3), 0.02
    edges, before = readable(model.architecture.graph), nothing_decided(model.architecture.graph)
    n_groups = 0
    for state in every_state(model, batch, threshold=threshold, metric=metric):
        values = [
            objective_of(model, batch, s.kept | (edges & ~s.decided), metric) for s in (before, state)
        ]
        now = state.decided & ~before.decided & ~state.kept
        n_groups += bool(now.any())
        assert values[1] - values[0] < threshold + ROUNDING
        assert float(state.scores[now].sum()) == pytest.approx(values[1] - values[0], abs=1e-7)
        before = state
    full, circuit = (objective_of(model, batch, kept, metric) for kept in (edges, before.kept))
    assert n_groups > 0
    assert circuit - full < n_groups * threshold


@pytest.mark.parametrize("family", FAMILIES)
def test_the_scores_of_what_is_removed_add_up_to_what_the_circuit_costs(family: str) -> None:
    model, batch = random_transformer(family, 6), random_batch(6)
    found = find(model, batch, threshold=0.02)
    assert found.kept.any()
    cost = objective_of(model, batch, found.kept)
    assert float(found.scores[~found.kept].nansum()) == pytest.approx(cost, abs=1e-7)


def test_an_edge_stays_if_and_only_if_its_score_reaches_the_threshold() -> None:
    model, batch = random_transformer("llama", 6), random_batch(6)
    found = find(model, batch, threshold=0.02)
    assert torch.equal(found.kept, found.scores >= 0.02)


def test_an_edge_into_a_node_that_no_kept_edge_leaves_is_not_tested() -> None:
    model, batch = random_transformer("gpt2", 3), random_batch(3)
    found = find(model, batch, threshold=1e9)
    assert not found.kept.any()
    assert bool(found.decided[readable(model.architecture.graph)].all())
    assert (found.n_tests, found.n_evaluated) == (
        1,
        1,
    )  # all edges into the logits go at once, and nothing lives
    assert not found.scores[:-1].nan_to_num(0).any()


@pytest.mark.parametrize(
    ("family", "dtype"), [("gpt2", torch.float32), ("llama", torch.float32), ("pythia", torch.float64)]
)
def test_batch_size_and_threads_change_no_bit(family: str, dtype: torch.dtype) -> None:
    model, batch = random_transformer(family, 7, dtype=dtype), random_batch(7, (5, 7, 4, 6, 7, 3, 5))
    expected = find(model, batch, threshold=0.1)
    before = torch.get_num_threads()
    try:
        for n_threads, batch_size in ((2, 4), (2, 3), (1, 1)):
            torch.set_num_threads(n_threads)
            found = find(model, batch, batch_size=batch_size, threshold=0.1)
            assert same(found, expected), (n_threads, batch_size)
    finally:
        torch.set_num_threads(before)


def same(one: Found, other: Found) -> bool:
    tensors = zip(
        (one.kept, one.scores, one.decided), (other.kept, other.scores, other.decided), strict=True
    )
    equal = all(torch.equal(a.nan_to_num(9), b.nan_to_num(9)) for a, b in tensors)
    return equal and (one.n_tests, one.n_evaluated) == (other.n_tests, other.n_evaluated)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_search_taken_up_after_any_decision_ends_the_same_to_the_last_bit(family: str) -> None:
    model, batch = random_transformer(family, 8, dtype=torch.float32), random_batch(8)
    states = every_state(model, batch, threshold=0.03)
    assert len(states) > 10
    for state in states[::5]:
        assert same(Grouped(0.03).find(Problem(model, batch, 8), resuming(state)), states[-1])


def test_taking_a_search_up_leaves_the_state_it_starts_from_as_it_was() -> None:
    model, batch = random_transformer("gpt2", 8), random_batch(8)
    state = every_state(model, batch, threshold=0.03)[4]
    before = state.copy()
    Grouped(0.03).find(Problem(model, batch, 8), resuming(state))
    assert same(state, before)


def test_grouped_needs_fewer_tests_than_there_are_edges() -> None:
    model, batch = random_transformer("gpt2", 2, 3, 3), random_batch(2)
    found = find(model, batch, threshold=0.5)
    sequential = ACDC(0.5).find(Problem(model, batch, 8))
    assert found.n_evaluated < sequential.n_tests


def test_acdc_with_the_schedule_grouped_is_this_search() -> None:
    model, batch = random_transformer("pythia", 2), random_batch(2)
    found = ACDC(0.02, "loss", schedule="grouped").find(Problem(model, batch, 8))
    assert same(found, find(model, batch, threshold=0.02, metric="loss"))


@pytest.mark.parametrize(
    ("sizes", "expected"), [([1, 1], 1), ([9, 1, 1], 1), ([1, 1, 1, 1, 4], 4), ([0, 0, 0], 2)]
)
def test_a_group_is_halved_where_its_attributions_are(sizes: list[int], expected: int) -> None:
    assert middle(torch.tensor(sizes, dtype=torch.float64)) == expected
