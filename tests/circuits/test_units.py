"""What goes together, beside a literal partition of the edges by their names; and what a selection makes of it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from circuitfind.circuits.bootstrap import Bootstrap, bootstrap
from circuitfind.circuits.graph import Graph, Node
from circuitfind.circuits.masks import readable
from circuitfind.circuits.selection import select
from circuitfind.circuits.size import Selection
from circuitfind.circuits.units import KVS, LEVELS, Units, find_kv, find_level
from circuitfind.errors import UsageError
from circuitfind.runs.plan import CHOICES
from tests.circuits.test_selection import draw_scores, edges_of
from tests.oracles import units as literal
from tests.oracles.selection import prune
from tests.random_models import random_transformer

groups = st.sampled_from([(1, 1), (2, 1), (2, 2), (4, 2), (3, 3), (6, 3)])
"""Heads, and how many of them share a key and a value."""
graphs = st.builds(lambda layers, heads, parallel: (Graph(layers, heads[0], parallel), heads[1]),
                   st.integers(1, 3), groups, st.booleans())  # fmt: skip
seeds = st.integers(0, 2**32 - 1)


def every_kind(graph: Graph, group: int) -> list[tuple[Units, list[literal.Unit]]]:
    return [
        (Units(graph), literal.single(graph)),
        (Units(graph, "node"), literal.nodes(graph)),
        (Units(graph, group=group), literal.grouped(graph, group)),
    ]


@given(graphs, seeds)
def test_every_edge_has_the_sum_over_its_unit(shape: tuple[Graph, int], seed: int) -> None:
    graph, group = shape
    scores = torch.stack([draw_scores(graph, seed), draw_scores(graph, seed + 1)])
    for units, partition in every_kind(graph, group):
        found = units.sum(scores)
        assert torch.equal(found.isnan(), ~readable(graph).expand(2, -1, -1))
        for unit in partition:
            for prompt in range(2):
                expected = sum(float(scores[prompt][graph.order(edge)]) for edge in unit)
                for edge in unit:
                    assert float(found[prompt][graph.order(edge)]) == pytest.approx(expected, abs=1e-12)


@given(graphs)
def test_each_unit_has_one_leader_and_all_but_the_input_can_be_chosen(shape: tuple[Graph, int]) -> None:
    for units, partition in every_kind(*shape):
        leaders = edges_of(shape[0], units.leaders)
        assert all(len(leaders & set(unit)) == 1 for unit in partition)
        assert units.n == len(partition) - (units.level == "node")


@given(graphs, seeds, st.floats(0, 1))
def test_a_number_of_nodes_is_the_best_nodes_with_all_edges_among_them(
    shape: tuple[Graph, int], seed: int, share: float
) -> None:
    graph, _ = shape
    units = Units(graph, "node")
    scores = units.sum(draw_scores(graph, seed, 2).unsqueeze(0))[0]
    count = max(1, int(share * units.n))
    size = {node: abs(float(scores[-1, i])) for i, node in enumerate(graph.senders)}
    best = sorted(graph.senders[1:], key=lambda node: -size[node])[:count]
    among = {Node("input"), Node("logits"), *best}
    share = min(1.0, (count + 0.5) / units.n)
    for selection in (Selection(nodes=count), Selection(fraction=share)):
        selected = select(graph, scores, selection, units)
        assert selected.n_nominal == count
        assert edges_of(graph, selected.kept) == {
            edge for edge in graph.edges() if edge.sender in among and edge.receiver.node in among
        }


@given(graphs, seeds, st.floats(0, 1))
def test_a_number_of_units_is_the_best_units_with_all_their_edges(
    shape: tuple[Graph, int], seed: int, share: float
) -> None:
    graph, group = shape
    units, partition = Units(graph, group=group), literal.grouped(graph, group)
    scores = units.sum(draw_scores(graph, seed).unsqueeze(0))[0]
    count = max(1, int(share * len(partition)))
    best = sorted(partition, key=lambda unit: -abs(float(scores[graph.order(unit[0])])))[:count]
    selected = select(graph, scores, Selection(edges=count), units)
    assert selected.n_nominal == count
    assert edges_of(graph, selected.kept) == prune({edge for unit in best for edge in unit})


def test_a_threshold_keeps_nodes_at_it_and_the_input_whatever_it_scores() -> None:
    graph = Graph(1, 2)
    scores = (
        torch.tensor([0.0, 0.5, -0.2, 0.4])
        .expand(len(graph.receivers), 4)
        .masked_fill(~readable(graph), math.nan)
    )
    units = Units(graph, "node")

    def kept_nodes(threshold: float, **options: str) -> set[str]:
        kept = select(graph, scores, Selection(threshold=threshold, **options), units).kept  # type: ignore[arg-type]
        return {str(edge.sender) for edge in edges_of(graph, kept)}

    assert kept_nodes(0.4) == {"input", "a0.h0", "m0"}
    assert kept_nodes(0.1) == {"input", "a0.h0", "a0.h1", "m0"}
    assert kept_nodes(0.1, select="top-signed") == {"input", "a0.h0", "m0"}
    assert kept_nodes(0.6) == {"input"}


@pytest.mark.parametrize("units", [Units(Graph(1, 2), "node"), Units(Graph(1, 2), group=2)])
def test_greedy_chooses_edges_alone(units: Units) -> None:
    with pytest.raises(UsageError, match="greedy goes edge by edge"):
        select(units.graph, draw_scores(units.graph, 0), Selection(fraction=0.5, select="greedy"), units)


def test_more_than_there_are_are_refused() -> None:
    graph = Graph(2, 2)
    for units, selection, message in (
        (Units(graph, "node"), Selection(nodes=7), "7 nodes are asked for; the model's graph has 6"),
        (
            Units(graph, group=2),
            Selection(edges=99),
            r"99 units are asked for; the model's graph has \d\d\.",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            select(graph, draw_scores(graph, 0), selection, units)


def test_a_consensus_of_nodes_has_all_edges_among_them() -> None:
    graph, units = Graph(2, 3), Units(Graph(2, 3), "node")
    scores = units.sum(torch.stack([draw_scores(graph, seed) for seed in range(6)]))
    found = bootstrap(graph, scores, Selection(nodes=4), Bootstrap(200, bar=0.6), units)
    sure = {
        "input",
        "logits",
        *(str(node) for i, node in enumerate(graph.senders) if found.inclusion[-1, i] >= 0.6),
    }
    assert 3 < len(sure) < len(graph.senders) + 1
    assert edges_of(graph, found.consensus) == {
        edge for edge in graph.edges() if {str(edge.sender), str(edge.receiver.node)} <= sure
    }
    least = found.inclusion[found.consensus].min()
    assert least < 0.6  # an edge is seldomer than each of its ends


def test_without_grouped_queries_grouped_is_per_head() -> None:
    for family, group in (("gpt2", 1), ("pythia", 1), ("llama", 2)):
        architecture = random_transformer(family, 1).architecture
        assert Units.of(architecture.graph, architecture.n_kv_heads, "edge", "grouped") == Units(
            architecture.graph, group=group
        )
        assert Units.of(architecture.graph, architecture.n_kv_heads, "edge", "per-head").are_edges


def test_the_words_that_are_known_without_torch_are_those_that_units_have() -> None:
    assert CHOICES["level"] == (*LEVELS, "neuron")  # which are no units of edges
    assert tuple(map(find_level, LEVELS)) == LEVELS
    assert CHOICES["way to take k and v inputs"] == KVS == tuple(map(find_kv, KVS))
    with pytest.raises(UsageError, match=r"No level named 'nodes'\. Did you mean 'node'"):
        find_level("nodes")
    with pytest.raises(UsageError, match="Did you mean 'grouped'"):
        find_kv("group")
