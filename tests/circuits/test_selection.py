"""From scores to a circuit, beside the literal version."""

from __future__ import annotations

import math
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitfind.circuits.graph import Edge, Graph
from circuitfind.circuits.masks import readable
from circuitfind.circuits.selection import Selected, prune, select
from circuitfind.circuits.size import SELECTS, Selection, SelectName, find_select
from circuitfind.errors import UsageError
from tests.oracles import selection as literal

SMALL = Graph(2, 1)
"""input; a0.h0, m0; a1.h0, m1: with the logits, 23 edges."""

graphs = st.builds(Graph, st.integers(1, 3), st.integers(1, 3), st.booleans())
seeds = st.integers(0, 2**32 - 1)
every_select = pytest.mark.parametrize("name", SELECTS)


def draw_scores(graph: Graph, seed: int, n_values: int | None = None) -> torch.Tensor:
    """Normal scores, NaN where there is no edge; or only so many different sizes of them, of either sign."""
    generator = torch.Generator().manual_seed(seed)
    edges = readable(graph)
    scores = torch.randn(edges.shape, generator=generator, dtype=torch.float64)
    if n_values is not None:
        scores = torch.randint(-n_values, n_values + 1, edges.shape, generator=generator).double()
    return scores.masked_fill(~edges, math.nan)


def named(scores: torch.Tensor, graph: Graph) -> dict[Edge, float]:
    return {edge: float(scores[graph.order(edge)]) for edge in graph.edges()}


def edges_of(graph: Graph, kept: torch.Tensor) -> set[Edge]:
    assert not (kept & ~readable(graph)).any()
    return {edge for edge in graph.edges() if kept[graph.order(edge)]}


def mask(graph: Graph, *names: str) -> torch.Tensor:
    kept = torch.zeros_like(readable(graph))
    for name in names:
        kept[graph.order(Edge.parse(name))] = True
    return kept


def hand(values: dict[str, float]) -> torch.Tensor:
    """Scores of the small graph: 0.001 but for those named."""
    scores = torch.full(readable(SMALL).shape, 0.001, dtype=torch.float64).masked_fill(
        ~readable(SMALL), math.nan
    )
    for name, value in values.items():
        scores[SMALL.order(Edge.parse(name))] = value
    return scores


def chosen_names(selected: Selected) -> set[str]:
    return {str(edge) for edge in edges_of(SMALL, selected.kept)}


HAND = hand(
    {
        "input->a0.h0<q>": 9.0,  # nothing that leaves a0.h0 is strong: only top takes it, and it is pruned
        "input->m1": -6.0,
        "m1->logits": 3.0,
        "m0->m1": 5.0,
        "input->m0": -2.0,
        "m0->logits": -1.0,
    }
)


def test_the_largest_are_taken_and_what_leads_nowhere_is_pruned() -> None:
    selected = select(SMALL, HAND, Selection(edges=4))
    assert chosen_names(selected) == {"input->m1", "m1->logits"}  # into a0.h0 and out of m0 alone
    assert (selected.n_nominal, selected.n_kept) == (4, 2)


def test_signed_selection_leaves_the_most_negative_to_the_last() -> None:
    selected = select(SMALL, HAND, Selection(edges=19, select="top-signed"))
    negative = {"input->m1", "input->m0", "m0->logits"}
    assert not chosen_names(selected) & negative
    assert selected.n_nominal == 19


def test_greedy_climbs_from_the_logits() -> None:
    """m1->logits; then of what m1 and the logits read: input->m1, m0->m1; then, m0 having joined, input->m0."""
    taken = [{"m1->logits"}, {"input->m1"}, {"m0->m1"}, {"input->m0"}, {"m0->logits"}]
    for n in range(2, 6):
        selected = select(SMALL, HAND, Selection(edges=n, select="greedy"))
        expected = set().union(*taken[:n]) - ({"m0->m1"} if n == 3 else set())
        assert chosen_names(selected) == expected
        assert selected.n_nominal == n


def test_of_equal_scores_the_first_in_graph_order_is_taken() -> None:
    scores = draw_scores(SMALL, 0).sign().abs()
    flat = readable(SMALL).flatten().nonzero().flatten()
    for n in range(1, SMALL.n_edges + 1):
        first = torch.zeros(readable(SMALL).numel(), dtype=torch.bool)
        first[flat[:n]] = True
        expected = prune(SMALL, first.reshape(readable(SMALL).shape))
        assert torch.equal(select(SMALL, scores, Selection(edges=n)).kept, expected)
        assert torch.equal(select(SMALL, -scores, Selection(edges=n, select="top-signed")).kept, expected)


def test_an_edge_at_the_threshold_is_kept() -> None:
    assert chosen_names(select(SMALL, HAND, Selection(threshold=3.0))) == {"input->m1", "m1->logits"}
    above = math.nextafter(3.0, 4.0)
    assert chosen_names(select(SMALL, HAND, Selection(threshold=above))) == set()


def test_a_threshold_is_compared_as_written_in_float32_too() -> None:
    """0.1 in float32 is above 0.1, 0.7 below 0.7; both as the score is written to the file."""
    for value, kept in ((0.1, True), (0.7, False)):
        scores = hand({"input->logits": value}).float()
        assert (
            "input->logits" in chosen_names(select(SMALL, scores, Selection(threshold=value)))
        ) is kept


@every_select
@settings(max_examples=40)
@given(graph=graphs, seed=seeds, n_values=st.sampled_from([None, 1, 3]), share=st.floats(0, 1))
def test_a_number_of_edges_is_that_of_the_literal_version(
    name: SelectName, graph: Graph, seed: int, n_values: int | None, share: float
) -> None:
    scores = draw_scores(graph, seed, n_values)
    selection = Selection(edges=max(1, int(share * graph.n_edges)), select=name)
    expected = literal.choose(graph, named(scores, graph), selection)
    selected = select(graph, scores, selection)
    assert selected.n_nominal == len(expected) == selection.edges
    assert edges_of(graph, selected.kept) == literal.prune(expected)


@every_select
@settings(max_examples=40)
@given(
    graph=graphs,
    seed=seeds,
    n_values=st.sampled_from([None, 3]),
    threshold=st.sampled_from([0.0, 0.3, 1, 2, 9]),
)
def test_a_threshold_is_that_of_the_literal_version(
    name: SelectName, graph: Graph, seed: int, n_values: int | None, threshold: float
) -> None:
    scores = draw_scores(graph, seed, n_values)
    selection = Selection(threshold=threshold, select=name)
    expected = literal.choose(graph, named(scores, graph), selection)
    selected = select(graph, scores, selection)
    assert selected.n_nominal == len(expected)
    assert edges_of(graph, selected.kept) == literal.prune(expected)


@given(graph=graphs, seed=seeds, share=st.floats(0, 1))
def test_what_is_left_after_pruning_are_the_edges_on_paths_from_input_to_logits(
    graph: Graph, seed: int, share: float
) -> None:
    drawn = torch.rand(readable(graph).shape, generator=torch.Generator().manual_seed(seed))
    chosen = readable(graph) & (drawn < share)
    before = chosen.clone()
    kept = prune(graph, chosen)
    assert (
        edges_of(graph, kept)
        == literal.on_paths(edges_of(graph, chosen))
        == literal.prune(edges_of(graph, chosen))
    )
    assert torch.equal(prune(graph, kept), kept)
    assert torch.equal(chosen, before)


@given(graph=graphs, seed=seeds, threshold=st.floats(0, 2))
def test_with_a_threshold_top_and_greedy_are_one_after_pruning(
    graph: Graph, seed: int, threshold: float
) -> None:
    scores = draw_scores(graph, seed)
    top, greedy = (
        select(graph, scores, Selection(threshold=threshold, select=name)) for name in ("top", "greedy")
    )
    assert torch.equal(top.kept, greedy.kept)
    assert top.n_nominal >= greedy.n_nominal >= greedy.n_kept


@every_select
@given(graph=graphs, seed=seeds, scale=st.sampled_from([1e-30, 0.5, 1e20]))
def test_scale_and_sign_do_not_matter_where_they_should_not(
    name: SelectName, graph: Graph, seed: int, scale: float
) -> None:
    scores, selection = draw_scores(graph, seed), Selection(fraction=0.4, select=name)
    kept = select(graph, scores, selection).kept
    assert torch.equal(select(graph, scale * scores, selection).kept, kept)
    if name != "top-signed":
        assert torch.equal(select(graph, -scores, selection).kept, kept)


@every_select
@pytest.mark.parametrize("graph", [Graph(2, 2), Graph(2, 2, parallel=True)])
def test_all_edges_are_the_whole_graph(graph: Graph, name: SelectName) -> None:
    for selection in (Selection(edges=graph.n_edges, select=name), Selection(fraction=1, select=name)):
        selected = select(graph, draw_scores(graph, 1), selection)
        assert torch.equal(selected.kept, readable(graph))
        assert selected.n_nominal == selected.n_kept == graph.n_edges


@given(graph=graphs, seed=seeds, fraction=st.floats(0, 1, exclude_min=True))
def test_a_fraction_is_cut_to_a_whole_number_of_edges(graph: Graph, seed: int, fraction: float) -> None:
    assert select(graph, draw_scores(graph, seed), Selection(fraction=fraction)).n_nominal == int(
        fraction * graph.n_edges
    )


@every_select
def test_what_stands_where_there_is_no_edge_is_not_looked_at(name: SelectName) -> None:
    selection = Selection(fraction=0.5, select=name)
    expected = select(SMALL, draw_scores(SMALL, 2), selection).kept
    for filling in (-math.inf, 0.0, 1e9, math.inf):
        scores = torch.where(readable(SMALL), draw_scores(SMALL, 2), filling)
        assert torch.equal(select(SMALL, scores, selection).kept, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_any_dtype_will_do_and_the_scores_stay_as_they_were(dtype: torch.dtype) -> None:
    scores = draw_scores(SMALL, 3).to(dtype).requires_grad_()
    before = scores.detach().clone()
    kept = select(SMALL, scores, Selection(edges=9)).kept
    assert torch.equal(kept, select(SMALL, scores.double(), Selection(edges=9)).kept)
    assert torch.equal(scores.detach().nan_to_num(7), before.nan_to_num(7))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@every_select
def test_a_score_that_is_no_number_is_refused_with_its_edge(name: SelectName, value: float) -> None:
    with pytest.raises(UsageError, match=rf"^1 scores? .*'a0.h0->m1' is {value}\. Run again"):
        select(SMALL, hand({"a0.h0->m1": value}), Selection(edges=3, select=name))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of --edges, --nodes, --fraction and --threshold, not none"),
        ({"edges": 3, "threshold": 0.5}, "not --edges 3 and --threshold 0.5"),
        (
            {"edges": 3, "fraction": 0.1, "threshold": 0.5},
            "not --edges 3 and --fraction 0.1 and --threshold 0.5",
        ),
        ({"edges": 0}, "0 edges are asked for"),
        ({"edges": -4}, "-4 edges are asked for"),
        ({"nodes": 0}, "0 nodes are asked for; give --nodes a whole number"),
        ({"edges": 3, "nodes": 3}, "not --edges 3 and --nodes 3"),
        ({"fraction": 0.0}, r"The fraction is 0\.0; give --fraction"),
        ({"fraction": 1.01}, r"The fraction is 1\.01"),
        ({"fraction": math.nan}, "The fraction is nan"),
        ({"threshold": math.nan}, "The threshold is nan; give --threshold a finite number"),
        ({"threshold": math.inf, "select": "top-signed"}, "The threshold is inf"),
        ({"threshold": -0.1}, r"The threshold is -0\.1, below every .*--select top-signed"),
        ({"threshold": -0.1, "select": "greedy"}, "below every"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Selection(**options)  # type: ignore[arg-type]


def test_an_unknown_way_to_select_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"named 'greedily'\. Did you mean 'greedy'"):
        find_select("greedily")
    assert [find_select(name) for name in SELECTS] == list(SELECTS)


@every_select
def test_more_edges_than_there_are_are_refused(name: SelectName) -> None:
    select(SMALL, draw_scores(SMALL, 0), Selection(edges=SMALL.n_edges, select=name))
    with pytest.raises(
        UsageError, match=r"^24 edges are asked for; the model's graph has 23\. Ask for no more\.$"
    ):
        select(SMALL, draw_scores(SMALL, 0), Selection(edges=SMALL.n_edges + 1, select=name))


def test_a_negative_threshold_of_signed_scores_keeps_some_negative_ones() -> None:
    names = chosen_names(select(SMALL, HAND, Selection(threshold=-2.0, select="top-signed")))
    assert {"m0->logits", "input->m0"} <= names
    assert "input->m1" not in names


@every_select
def test_a_graph_of_a_hundred_thousand_edges_takes_less_than_a_second(name: SelectName) -> None:
    graph = Graph(30, 9)
    scores = draw_scores(graph, 0)
    begin = time.process_time()
    select(graph, scores, Selection(fraction=0.5, select=name))
    assert time.process_time() - begin < 1
