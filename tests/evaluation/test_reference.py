"""Scores and circuits against a reference: numbers worked by hand, laws, and every pair counted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Graph, Node
from circuitfind.circuits.masks import readable
from circuitfind.circuits.scores_file import scores_file
from circuitfind.errors import CircuitError
from circuitfind.evaluation.reference import (
    Ranking,
    agree_with_circuit,
    agree_with_nodes,
    edges_of,
    rank,
    read_scores,
    scores_of,
)
from tests.oracles import ranking as oracle

SMALL = Graph(1, 2)
"""input, a0.h0, a0.h1, m0: 13 edges; 6 into q, k and v, 3 into m0, 4 into the logits."""

items = st.lists(st.tuples(st.integers(-4, 4).map(float), st.booleans()), min_size=2, max_size=30).filter(
    lambda pairs: len({positive for _, positive in pairs}) == 2
)
graphs = st.builds(Graph, st.integers(1, 2), st.integers(1, 3), st.booleans())


def ranking(scores: Any, positive: Any) -> Ranking:
    return rank(np.array(scores, float), np.array(positive, bool))


def circuit(graph: Graph = SMALL, /, **scores: float) -> Circuit:
    """A circuit of these edges."""
    return Circuit(graph, {Edge.parse(name): score for name, score in scores.items()})


FOUND = circuit(**{"input->m0": 0.5, "m0->logits": -2.0, "a0.h0->logits": 1.0, "input->a0.h0<v>": 0.25})
REFERENCE = circuit(**{"input->m0": 1.0, "m0->logits": 1.0, "a0.h1->logits": 1.0})


# rankings


def test_the_area_is_the_share_of_pairs_in_the_right_order() -> None:
    """Of the pairs (3, 2), (3, 1), (1.5, 2), (1.5, 1) three are right; 3 is first, 1.5 third of two positives."""
    found = ranking([3, 2, 1.5, 1], [True, False, True, False])
    assert found == Ranking(2, 2, 0.75, (1 / 1 + 2 / 3) / 2)


def test_of_equal_scores_half_counts() -> None:
    """(1, 1) and (1, 0) are half a pair and a whole one; precision at 1 is 1 of 2."""
    assert ranking([1, 1, 0], [True, False, False]) == Ranking(1, 2, 0.75, 0.5)
    assert ranking([7, 7, 7, 7], [True, False, False, False]) == Ranking(1, 3, 0.5, 0.25)


@pytest.mark.parametrize("positive", [[True, True], [False, False], []])
def test_without_both_kinds_nothing_is_ranked(positive: list[bool]) -> None:
    found = ranking([1.0, 2.0][: len(positive)], positive)
    assert (found.auc, found.average_precision) == (None, None)


@given(items)
def test_it_is_what_counting_every_pair_gives(pairs: list[tuple[float, bool]]) -> None:
    scores, positive = zip(*pairs, strict=True)
    found = ranking(scores, positive)
    assert found.auc == pytest.approx(oracle.auc(scores, positive), abs=1e-12)
    assert found.average_precision == pytest.approx(oracle.average_precision(scores, positive), abs=1e-12)


@given(items)
def test_turned_round_it_is_the_rest_of_one_and_a_monotone_map_changes_nothing(
    pairs: list[tuple[float, bool]],
) -> None:
    scores, positive = np.array([s for s, _ in pairs]), np.array([p for _, p in pairs])
    found = rank(scores, positive)
    assert rank(-scores, positive).auc == pytest.approx(1 - found.auc)  # type: ignore[operator]
    assert rank(scores, ~positive).auc == pytest.approx(1 - found.auc)  # type: ignore[operator]
    assert rank(np.exp(scores) * 3 + 1, positive) == found == rank(scores**3, positive)


# circuits


def test_a_circuit_against_edges_worked_by_hand() -> None:
    """Two of its four edges are among the three: input->m0 and m0->logits.

    |score|: m0->logits 2, a0.h0->logits 1, input->m0 .5, input->a0.h0<v> .25, the other nine 0. The reference has 2,
    .5 and one of the nine. Against the ten others (1, .25, eight 0) they win 10, 9 and half of 8: 23 of 30.
    """
    found = agree_with_circuit(FOUND, REFERENCE)
    assert found.edges is not None and found.edge_ranking is not None
    assert (found.edges.precision, found.edges.recall, found.edges.jaccard) == (2 / 4, 2 / 3, 2 / 5)
    assert found.edge_ranking.auc == pytest.approx(23 / 30)
    assert found.edge_ranking.average_precision == pytest.approx((1 / 1 + 2 / 3 + 3 / 13) / 3)


def test_signed_scores_put_what_speaks_against_the_answer_last() -> None:
    """As above but for m0->logits, -2, which now loses all 10 pairs: 13 of 30."""
    found = agree_with_circuit(FOUND, REFERENCE, order="signed")
    assert found.edge_ranking is not None and found.edge_ranking.auc == pytest.approx(13 / 30)


def test_nodes_are_heads_and_mlps_with_the_largest_score_that_leaves_them() -> None:
    """a0.h0 1, a0.h1 0, m0 2. In the reference: a0.h1, m0; found: a0.h0, m0. Pairs with a0.h0: m0 wins, a0.h1 loses."""
    found = agree_with_circuit(FOUND, REFERENCE)
    assert (found.nodes.precision, found.nodes.recall, found.nodes.jaccard) == (1 / 2, 1 / 2, 1 / 3)
    assert found.node_ranking == Ranking(2, 1, 0.5, (1 + 2 / 3) / 2)


def test_a_reference_of_heads_alone_leaves_the_mlps_out() -> None:
    found = agree_with_nodes(FOUND, [Node("head", 0, 1)], kinds=("head",))
    assert (found.nodes.n_before, found.nodes.n_after, found.nodes.n_common) == (1, 1, 0)
    assert (found.node_ranking.auc, found.edges, found.edge_ranking) == (0.0, None, None)
    assert agree_with_nodes(FOUND, [Node("head", 0, 0)]).node_ranking == Ranking(1, 2, 0.5, 0.5)


def test_input_and_logits_are_nobodys_find() -> None:
    found = agree_with_nodes(FOUND, [Node("input"), Node("logits"), Node("mlp", 0)])
    assert (found.nodes.n_before, found.nodes.n_after) == (1, 2)


def test_scores_of_edges_that_were_not_kept_count_where_they_are_known() -> None:
    scores = np.where(edges_of(SMALL), 0.0, np.nan)
    scores[SMALL.order(Edge.parse("a0.h1->logits"))] = 9.0
    found = agree_with_nodes(FOUND, [Node("head", 0, 1)], scores)
    assert found.node_ranking.auc == 1.0 and found.nodes.n_common == 0


@given(graphs, st.integers(0, 2**32 - 1))
def test_edges_and_nodes_are_ranked_as_by_counting_pairs(graph: Graph, seed: int) -> None:
    draw = np.random.default_rng(seed)
    scores = np.where(edges_of(graph), draw.integers(-5, 6, edges_of(graph).shape), np.nan)
    every = list(graph.edges())
    chosen = Circuit(graph, {edge: 1.0 for edge in every if draw.random() < 0.3})
    found = agree_with_circuit(chosen, chosen, scores)
    size = {edge: abs(float(scores[graph.order(edge)])) for edge in every}
    nodes = graph.senders[1:]
    best = [max(x for edge, x in size.items() if edge.sender == node) for node in nodes]
    for ranking, values, positive in (
        (found.edge_ranking, list(size.values()), [edge in chosen.edges for edge in every]),
        (found.node_ranking, best, [node in chosen.nodes for node in nodes]),
    ):
        assert ranking is not None
        if 0 < sum(positive) < len(positive):
            assert ranking.auc == pytest.approx(oracle.auc(values, positive))
            assert ranking.average_precision == pytest.approx(oracle.average_precision(values, positive))
        else:
            assert ranking.auc is None


def test_a_circuit_against_itself_is_perfect_and_says_so_in_json() -> None:
    found = agree_with_circuit(FOUND, FOUND).to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert [
        found["edges"][key] for key in ("precision", "recall", "jaccard", "auc", "average_precision")
    ] == [1.0] * 5
    assert agree_with_nodes(FOUND, []).to_dict()["edges"] is None


def test_the_edges_are_the_graphs() -> None:
    for graph in (SMALL, Graph(2, 3), Graph(2, 3, parallel=True)):
        assert np.array_equal(edges_of(graph), readable(graph).numpy())
    assert float(scores_of(FOUND).sum()) == -0.25


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_refused(value: float) -> None:
    scores = np.zeros(edges_of(SMALL).shape)
    scores[0, 0] = value
    with pytest.raises(CircuitError, match="1 scores are no finite numbers"):
        agree_with_circuit(FOUND, REFERENCE, scores)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(CircuitError, match=r"circuit is of 1 layers of 2 heads.*\n.*one shape"):
        agree_with_circuit(FOUND, Circuit(Graph(1, 3), {}))


# files


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_are_read_as_a_run_writes_them(dtype: torch.dtype, tmp_path: Path) -> None:
    scores = torch.randn(readable(SMALL).shape, generator=torch.Generator().manual_seed(1)).double()
    scores = scores.masked_fill(~readable(SMALL), math.nan)
    (tmp_path / "scores.safetensors").write_bytes(scores_file(SMALL, scores, dtype))
    read = read_scores(tmp_path / "scores.safetensors", SMALL)
    assert read.dtype == np.float64 and np.array_equal(
        read, scores.to(dtype).double().numpy(), equal_nan=True
    )
    with pytest.raises(CircuitError, match="of another graph"):
        read_scores(tmp_path / "scores.safetensors", Graph(1, 3))


def test_what_is_no_file_of_scores_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.safetensors"
    with pytest.raises(CircuitError, match="no file of tensors"):
        read_scores(path, SMALL)
    path.write_bytes(b"scores")
    with pytest.raises(CircuitError, match="no file of tensors"):
        read_scores(path, SMALL)
    names = {key: json.dumps(list(map(str, getattr(SMALL, key)))) for key in ("receivers", "senders")}
    save_file({"scores": np.zeros((2, 2))}, path)
    with pytest.raises(CircuitError, match="of another graph"):
        read_scores(path, SMALL)
    save_file({"scores": np.zeros((2, 2))}, path, names)
    with pytest.raises(CircuitError, match=r"shape \[2, 2\]"):
        read_scores(path, SMALL)
    save_file({"scores": np.zeros((8, 4), bool)}, path, names)
    with pytest.raises(CircuitError, match="its 'scores' are BOOL; they must be F16, F32, F64"):
        read_scores(path, SMALL)
