"""ACDC against a literal oracle, edge for edge, and the laws that any circuit search obeys."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from jobs import keeping, resuming

from circuitfind.circuits.graph import Edge, Graph
from circuitfind.errors import UsageError
from circuitfind.methods.outcome import Found
from circuitfind.methods.search import acdc
from circuitfind.methods.search.acdc import ACDC, visiting_order
from circuitfind.methods.search.chain import Chain
from circuitfind.methods.search.judge import judge
from circuitfind.metrics import objective
from circuitfind.metrics.log_z import enclose_log_partition
from circuitfind.models.transformer import Transformer
from circuitfind.patching.ablation import ABLATIONS
from circuitfind.patching.problem import Problem
from circuitfind.prompts.batch import Batch
from tests.oracles.acdc import acdc as literal_acdc
from tests.oracles.acdc import order
from tests.oracles.literal import Literal
from tests.random_models import FAMILIES, random_batch, random_model, random_transformer, with_means

METRICS = ("kl", "logit-diff", "prob-diff", "loss")
ROUNDING = 1e-9
"""How far float64 may take a score."""


def find(model: Transformer, batch: Batch, batch_size: int = 8, **options: object) -> Found:
    return ACDC(**options).find(Problem(model, batch, batch_size))  # type: ignore[arg-type]


def kept_edges(graph: Graph, found: Found) -> frozenset[Edge]:
    return frozenset(edge for edge in graph.edges() if found.kept[graph.order(edge)])


def agrees_with_oracle(
    family: str, model_seed: int, batch: Batch, n_layers: int = 2, n_heads: int = 2, **options: object
) -> bool:
    """Whether the oracle's own decisions were clear of rounding; if they were, ours are the same."""
    literal = Literal(random_model(family, model_seed, n_layers, n_heads))
    outcome = literal_acdc(
        literal, batch, **{"match": options.get("objective") == "match", **_oracle_options(options)}
    )  # type: ignore[arg-type]
    if outcome.margin <= ROUNDING:
        return False
    model = random_transformer(family, model_seed, n_layers, n_heads)
    found = find(model, with_means(model, batch, options.get("ablation", "corrupted")), **options)  # type: ignore[arg-type]
    assert kept_edges(literal.graph, found) == outcome.kept
    for edge, score in outcome.scores.items():
        assert found.scores[literal.graph.order(edge)].item() == pytest.approx(score, abs=ROUNDING)
    assert found.n_tests == len(outcome.scores)
    return True


def _oracle_options(options: dict[str, object]) -> dict[str, object]:
    return {"metric": "kl", "ablation": "corrupted"} | {
        k: v for k, v in options.items() if k != "objective"
    }


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_edge_is_decided_as_the_literal_algorithm_decides_it(family: str, metric: str) -> None:
    for seed, threshold in ((1, 0.001), (2, 0.01), (3, 0.1)):
        assert agrees_with_oracle(family, seed, random_batch(seed), threshold=threshold, metric=metric)


@pytest.mark.parametrize("family", FAMILIES)
def test_zero_ablation_agrees_with_the_literal_algorithm(family: str) -> None:
    for metric in ("kl", "logit-diff"):
        assert agrees_with_oracle(
            family, 4, random_batch(4), threshold=0.0347, metric=metric, ablation="zero"
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_matching_the_full_model_agrees_with_the_literal_algorithm(family: str) -> None:
    assert agrees_with_oracle(
        family, 5, random_batch(5), threshold=0.02, metric="logit-diff", objective="match"
    )


@settings(
    max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much]
)
@given(
    family=st.sampled_from(FAMILIES),
    shape=st.sampled_from([(1, 1), (1, 3), (2, 2), (3, 1), (3, 2)]),
    seed=st.integers(10, 30),
    lengths=st.lists(st.integers(2, 8), min_size=1, max_size=4),
    threshold=st.sampled_from([0.0, 0.003, 0.05, 0.3, 2.0]),
    metric=st.sampled_from(METRICS),
    ablation=st.sampled_from(ABLATIONS),
)
def test_any_model_and_prompts_agree_with_the_literal_algorithm(
    family: str,
    shape: tuple[int, int],
    seed: int,
    lengths: list[int],
    threshold: float,
    metric: str,
    ablation: str,
) -> None:
    batch = random_batch(seed, tuple(lengths))
    options = {"threshold": threshold, "metric": metric, "ablation": ablation}
    assume(agrees_with_oracle(family, seed, batch, *shape, **options))


@pytest.mark.parametrize("longest", [1, 2, 5, 64])
def test_the_length_of_the_chains_changes_no_bit(longest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = random_transformer("llama", 6, dtype=torch.float32), random_batch(6)
    expected = find(model, batch, threshold=0.02)
    monkeypatch.setattr(acdc, "LONGEST_CHAIN", longest)
    monkeypatch.setattr(acdc, "SHORTEST_CHAIN", min(longest, 3))
    found = find(model, batch, threshold=0.02)
    assert torch.equal(found.scores.nan_to_num(9), expected.scores.nan_to_num(9))
    assert found.n_tests == expected.n_tests


class Known(Chain):
    """A chain of tests whose true values are known beforehand."""

    def __init__(self, truth: list[float], values: list[float], radii: list[float]) -> None:
        self.truth = [0.0, *truth]
        self.values = dict(enumerate([0.0, *values]))
        self.radii = dict(enumerate([0.0, *radii]))
        self.computed: list[int] = []

    def compute(self, cuts: Iterable[int]) -> None:
        for cut in cuts:
            self.values[cut], self.radii[cut] = self.truth[cut], 0.0
            self.computed.append(cut)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 1e-4, 0.019, 0.0199, 0.02, 0.0201, 0.03, -0.05]), st.floats(-1, 1)
        ),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from([1e-3, 1e-5]),
)
def test_enclosed_tests_are_judged_as_exact_ones_are(
    rises: list[tuple[float, float]], radius: float
) -> None:
    truth = list(itertools.accumulate(rise for rise, _ in rises))
    chain = Known(
        truth, [value + radius * off for value, (_, off) in zip(truth, rises, strict=True)], [radius] * 12
    )
    verdict = judge(chain, len(truth), 0.02)
    scores, n_removed = verdict.scores, verdict.n_removed
    exact = [after - before for before, after in itertools.pairwise([0.0, *truth])]
    stays = [i for i, score in enumerate(exact) if not score < 0.02]
    assert n_removed == (stays[0] if stays else len(exact))
    assert len(scores) == min(n_removed + 1, len(exact))
    assert all(abs(score - true) <= 2 * radius for score, true in zip(scores, exact, strict=False))
    assert [score < 0.02 for score in scores] == [True] * n_removed + [False] * (len(scores) - n_removed)


def test_only_what_lies_near_the_threshold_or_keeps_an_edge_is_computed_in_full() -> None:
    chain = Known(
        [0.001, 0.002, 0.0215, 0.0216, 0.06, 0.07], [0.001, 0.002, 0.0215, 0.0216, 0.06, 0.07], [1e-3] * 6
    )
    assert judge(chain, 6, 0.02).n_removed == 4 and sorted(set(chain.computed)) == [2, 3, 4, 5]


def test_enclosing_log_z_changes_no_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    radii: list[float] = []

    def enclose(*arguments: Any) -> Any:
        log_z, radius = enclose_log_partition(*arguments)
        radii.append(float(radius.max()))
        return log_z, radius

    monkeypatch.setattr(objective, "enclose_log_partition", enclose)
    monkeypatch.setattr(acdc, "TOLERANCES", (5e-3,))
    model, batch = (
        random_transformer("llama", 12, 6, 2, dtype=torch.float32),
        random_batch(12, (5, 7, 4, 6)),
    )
    enclosed = find(model, batch, threshold=0.03)
    assert max(radii) > 0
    monkeypatch.setattr(acdc, "TOLERANCES", ())
    computed = find(model, batch, threshold=0.03)
    assert torch.equal(enclosed.kept, computed.kept) and enclosed.n_tests == computed.n_tests
    assert torch.allclose(enclosed.scores, computed.scores, atol=5e-3, equal_nan=True)


@pytest.mark.parametrize("threshold", [pytest.param(0.02, marks=pytest.mark.slow), 0.2])
def test_a_search_taken_up_after_any_chain_ends_with_the_same_bits(threshold: float) -> None:
    model, batch = (
        random_transformer("llama", 13, 3, 2, dtype=torch.float32),
        random_batch(13, (5, 7, 4, 6)),
    )
    states: list[Found] = []
    method = ACDC(threshold)
    whole = method.find(Problem(model, batch, 8), keeping(states, model.architecture.graph))
    assert len(states) > 20
    for state in states:
        again = method.find(Problem(model, batch, 4), resuming(state))
        assert torch.equal(again.scores.nan_to_num(9), whole.scores.nan_to_num(9))
        assert torch.equal(again.kept, whole.kept) and again.n_tests == whole.n_tests
        assert torch.equal(again.decided, whole.decided)


@pytest.mark.parametrize("metric", ["kl", "logit-diff"])
def test_how_much_memory_there_is_changes_no_bit(metric: str) -> None:
    model, batch = random_transformer("gpt2", 14, dtype=torch.float32), random_batch(14, (5, 7, 4, 6))
    method = ACDC(0.02, metric)  # type: ignore[arg-type]
    amply, barely = (
        method.find(Problem(model, batch, 8, bytes_in_flight=n_bytes)) for n_bytes in (1 << 30, 1)
    )
    assert torch.equal(amply.scores.nan_to_num(9), barely.scores.nan_to_num(9))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
def test_batch_size_and_threads_change_no_bit(family: str, dtype: torch.dtype) -> None:
    model, batch = random_transformer(family, 7, dtype=dtype), random_batch(7, (5, 7, 4, 6, 7, 3, 5))
    expected = find(model, batch, threshold=0.02)
    before = torch.get_num_threads()
    try:
        for n_threads, batch_size in ((1, 8), (2, 4), (2, 3), (1, 1)):
            torch.set_num_threads(n_threads)
            found = find(model, batch, batch_size=batch_size, threshold=0.02)
            assert torch.equal(found.scores.nan_to_num(9), expected.scores.nan_to_num(9)), (
                n_threads,
                batch_size,
            )
    finally:
        torch.set_num_threads(before)


def test_the_order_of_prompts_changes_no_decision() -> None:
    model, batch = random_transformer("gpt2", 8), random_batch(8, (5, 7, 4, 6))
    graph = model.architecture.graph
    straight = kept_edges(graph, find(model, batch, threshold=0.02))
    assert kept_edges(graph, find(model, batch.rows([2, 0, 3, 1]), threshold=0.02)) == straight


def test_what_stands_behind_the_answer_position_changes_nothing() -> None:
    model, batch = random_transformer("pythia", 9), random_batch(9, (4, 8, 5))
    graph = model.architecture.graph
    straight = find(model, batch, threshold=0.02)
    batch.clean[0, 5:] = 3
    batch.corrupted[2, 6:] = 4
    padded = find(model, batch, threshold=0.02)
    assert kept_edges(graph, padded) == kept_edges(graph, straight)
    assert torch.allclose(padded.scores, straight.scores, equal_nan=True, atol=1e-12)


def test_the_visiting_order_is_the_published_one() -> None:
    assert list(visiting_order(Graph(3, 2))) == order(3, 2)


def test_a_threshold_that_nothing_reaches_keeps_nothing_and_asks_only_the_logits() -> None:
    model, batch = random_transformer("gpt2", 3), random_batch(3)
    found = find(model, batch, threshold=1e9)
    assert not found.kept.any()
    assert found.n_tests == len(model.architecture.graph.senders)


def test_scores_stand_exactly_where_the_graph_has_edges() -> None:
    model = random_transformer("pythia", 1)
    found = find(model, random_batch(1), threshold=0.1)
    assert int(found.scores.isfinite().sum()) == model.architecture.graph.n_edges


@pytest.mark.parametrize("threshold", [-0.1, math.nan, math.inf])
def test_a_threshold_that_means_nothing_is_refused(threshold: float) -> None:
    with pytest.raises(UsageError, match="threshold"):
        ACDC(threshold)
