"""What may be read off a search's decisions, against searches that were made."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jobs import resuming

from circuitfind.circuits.graph import Edge, Graph
from circuitfind.circuits.masks import readable
from circuitfind.circuits.units import Units
from circuitfind.methods.outcome import Found, nothing_decided
from circuitfind.methods.search.acdc import ACDC
from circuitfind.methods.search.reuse import (
    decided_alike,
    decision_order,
    is_tested,
    start_from,
    undecidable,
)
from circuitfind.patching.problem import Problem
from tests.random_models import random_batch, random_transformer

MODEL, BATCH = random_transformer("gpt2", 3), random_batch(3)
GRAPH = MODEL.architecture.graph
THRESHOLDS = (3.0, 1.0, 0.3, 0.1, 0.03, 0.0)


@cache
def search(threshold: float) -> Found:
    return ACDC(threshold).find(Problem(MODEL, BATCH, 8))


# which edges were tested


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_as_many_edges_are_tested_as_the_search_counted(threshold: float) -> None:
    found = search(threshold)
    assert int(is_tested(GRAPH, found).sum()) == found.n_tests


def test_an_edge_into_a_dead_node_is_not_tested() -> None:
    found = nothing_decided(GRAPH)
    into_logits = [edge for edge in GRAPH.edges() if is_tested(GRAPH, found)[GRAPH.order(edge)]]
    assert into_logits == [edge for edge in GRAPH.edges() if edge.receiver.node.kind == "logits"]


# which hang on rounding


def scored(scores: dict[str, float], kept: tuple[str, ...] = ()) -> tuple[Graph, Found]:
    """A finished search on one layer of two heads whose edges got these scores, the others 0."""
    graph = Graph(1, 2)
    found = nothing_decided(graph)
    for name, score in scores.items():
        found.scores[graph.order(Edge.parse(name))] = score
    for name in kept:
        found.kept[graph.order(Edge.parse(name))] = True
    return graph, found


@pytest.mark.parametrize("margin", [1e-12, 1e-6, 1e-2])
@pytest.mark.parametrize("side", [-1, 1])
def test_a_test_within_the_margin_is_undecidable_and_one_beyond_is_not(margin: float, side: int) -> None:
    graph, found = scored(
        {"input->logits": 0.1 + 0.9 * side * margin, "m0->logits": 0.1 + 1.1 * side * margin}
    )
    assert list(map(str, undecidable(Units(graph), found, 0.1, margin))) == ["input->logits"]


def test_an_edge_that_had_no_test_is_never_undecidable() -> None:
    graph, found = scored({"m0->logits": 1.0}, kept=("m0->logits",))
    names = list(map(str, undecidable(Units(graph), found, 0.0, 1e-6)))
    assert "input->m0" in names and "a0.h0->logits" in names  # live, and their score is the threshold
    assert not any("<" in name for name in names)  # no kept edge leaves the heads


# which another threshold shares


@pytest.mark.parametrize("earlier", THRESHOLDS)
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_what_is_taken_over_is_what_the_search_at_that_threshold_decided(
    earlier: float, threshold: float
) -> None:
    alone = search(threshold)
    start = decided_alike(GRAPH, search(earlier), earlier, threshold)
    assert torch.equal(start.kept, alone.kept & start.decided)
    assert torch.equal(start.scores[start.decided], alone.scores[start.decided])
    assert start.n_tests == int((is_tested(GRAPH, alone) & start.decided).sum())


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_a_search_at_the_same_threshold_shares_everything(threshold: float) -> None:
    start = decided_alike(GRAPH, search(threshold), threshold, threshold)
    assert torch.equal(start.decided, readable(GRAPH)) and start.n_tests == search(threshold).n_tests


@given(st.integers(0, GRAPH.n_edges - 1))
def test_nothing_is_taken_over_beyond_the_first_decision_that_differs(place: int) -> None:
    order = decision_order(GRAPH)
    scores = nothing_decided(GRAPH).scores
    scores.view(-1)[order[place]] = 0.5
    found = Found(readable(GRAPH), scores, readable(GRAPH), GRAPH.n_edges, GRAPH.n_edges)
    start = decided_alike(GRAPH, found, earlier=0.6, threshold=0.4)
    assert int(start.decided.sum()) == place + 1 and bool(start.kept.view(-1)[order[place]])


def test_where_scores_are_rough_nothing_near_either_threshold_is_taken_over() -> None:
    """Logits of one layer, from the latest sender: one that goes, one that stays, one that goes, one near."""
    for near in (0.31, 0.29, 0.2, 0.11, 0.09):
        graph, found = scored(
            {"a0.h1->logits": 0.5, "a0.h0->logits": 0.05, "input->logits": near}, ("a0.h1->logits",)
        )
        start = decided_alike(graph, found, earlier=0.3, threshold=0.1, slack=0.02)
        names = [str(edge) for edge in graph.edges() if start.decided[graph.order(edge)]]
        assert names == ["a0.h1->logits", "m0->logits"] and start.n_tests == 2
    graph, found = scored(
        {"a0.h1->logits": 0.5, "input->logits": 0.33}, ("a0.h1->logits", "input->logits")
    )
    assert decided_alike(graph, found, 0.3, 0.1, slack=0.02).decided[-1].all()


@cache
def search_large(threshold: float, dtype: torch.dtype) -> Found:
    """On a model whose last receiver has more edges than a chain of tests."""
    return ACDC(threshold).find(Problem(random_transformer("llama", 5, 8, 10, dtype=dtype), BATCH, 8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("earlier", "threshold"), [(0.3, 0.2), (0.2, 0.1), (0.2, 0.3)])
def test_a_search_that_starts_from_another_ends_as_it_would_alone(
    earlier: float, threshold: float, dtype: torch.dtype
) -> None:
    model = random_transformer("llama", 5, 8, 10, dtype=dtype)
    graph, methods = model.architecture.graph, (ACDC(earlier), ACDC(threshold))
    start = start_from(graph, search_large(earlier, dtype), *methods, dtype)
    assert start is not None and start.n_tests > 0
    found, alone = (
        methods[1].find(Problem(model, BATCH, 8), resuming(start)),
        search_large(threshold, dtype),
    )
    assert torch.equal(found.kept, alone.kept) and found.n_tests == alone.n_tests
    assert torch.equal(found.scores.nan_to_num(), alone.scores.nan_to_num())
    assert found.n_evaluated < alone.n_evaluated


def test_searches_that_compute_their_tests_in_other_ways_share_nothing() -> None:
    assert start_from(GRAPH, search(0.1), ACDC(0.1), ACDC(0.001), torch.float32) is None
    assert start_from(GRAPH, search(0.1), ACDC(0.1), ACDC(0.001), torch.float64) is not None


def test_every_edge_is_decided_once() -> None:
    assert (
        sorted(decision_order(GRAPH).tolist()) == readable(GRAPH).flatten().nonzero().flatten().tolist()
    )
