"""Random circuits have the size and shape they are said to have, and nothing else of the circuit."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch

from circuitfind.circuits.draws import Draw
from circuitfind.circuits.graph import Edge, Graph
from circuitfind.circuits.masks import readable
from circuitfind.circuits.selection import prune
from circuitfind.errors import UsageError
from circuitfind.evaluation.options import RandomCircuits
from circuitfind.evaluation.performance import evaluate
from circuitfind.evaluation.randoms import Paths, draw_alike, measure_against_random, n_runs, quantile
from circuitfind.evaluation.trials import Kept, Trials
from circuitfind.models.workers import Threads
from circuitfind.progress import Silent
from tests.evaluation.made import Counting, Made, edges_in, mask, some
from tests.oracles.selection import on_paths
from tests.random_models import random_batch, random_transformer

AT_ROLES = Graph(2, 2, roles=("A", "rest", "END"))
GRAPHS = (Graph(2, 2), Graph(3, 2, parallel=True), Graph(1, 4), AT_ROLES)


def shape(graph: Graph, kept: Kept) -> Counter[tuple[int, str, str | None, str | None]]:
    """How many edges lead into each layer's q, k, v inputs and MLP, at each role, and into the logits."""
    receivers = (edge.receiver for edge in edges_in(graph, kept))
    return Counter(
        (receiver.node.layer, receiver.node.kind, receiver.slot, receiver.role) for receiver in receivers
    )


@pytest.mark.parametrize("graph", GRAPHS, ids=str)
@pytest.mark.parametrize("size", [0.0, 0.2, 0.7, 2.0])
def test_a_random_circuit_has_as_many_edges_into_every_stage(graph: Graph, size: float) -> None:
    kept = some(readable(graph), size, 1)
    draw = Draw(0)
    drawn = [draw_alike(graph, kept, draw) for _ in range(5)]
    assert all(shape(graph, other) == shape(graph, kept) for other in drawn)
    assert all(not (other & ~readable(graph)).any() for other in drawn)
    assert size in (0.0, 2.0) or any((other != kept).any() for other in drawn)


def test_every_edge_of_a_stage_is_drawn_as_often_as_any_other() -> None:
    graph, draw = Graph(1, 2), Draw(1)
    kept = mask(graph, "a0.h0->logits")
    often = Counter(
        str(edge) for _ in range(2000) for edge in edges_in(graph, draw_alike(graph, kept, draw))
    )
    assert set(often) == {"input->logits", "a0.h0->logits", "a0.h1->logits", "m0->logits"}
    assert all(430 < n < 570 for n in often.values())


def test_random_paths_at_roles_are_on_paths_by_themselves() -> None:
    within = some(readable(AT_ROLES), 0.5, 2)
    paths = Paths(AT_ROLES, within)
    for seed in range(20):
        drawn = paths.draw(1 + seed, Draw(seed))
        assert drawn.any() and not (drawn & ~within).any()
        assert torch.equal(prune(AT_ROLES, drawn), drawn)
    assert torch.equal(paths.draw(len(paths), Draw(0)), prune(AT_ROLES, within))


@pytest.mark.parametrize("graph", GRAPHS[:-1], ids=str)
def test_random_paths_lead_from_the_input_to_the_logits_along_allowed_edges_alone(graph: Graph) -> None:
    within = some(readable(graph), 0.7, 2)
    paths = Paths(graph, within)
    longest = 2 * graph.n_layers + 1
    for seed in range(5):
        for n_edges in (0, 1, len(paths) // 2, len(paths)):
            drawn = edges_in(graph, paths.draw(n_edges, Draw(seed)))
            assert drawn <= edges_in(graph, within)
            assert on_paths(drawn) == drawn
            assert n_edges <= len(drawn) < n_edges + longest
    assert edges_in(graph, paths.draw(len(paths), Draw(0))) == on_paths(edges_in(graph, within))


def test_more_edges_than_lie_on_paths_cannot_be_drawn() -> None:
    graph = Graph(1, 2)
    paths = Paths(graph, mask(graph, "input->a0.h0<q>", "a0.h0->logits", "input->m0"))
    assert len(paths) == 2
    with pytest.raises(UsageError, match="3 edges cannot be drawn: only 2 lie on a path"):
        paths.draw(3, Draw(0))


def test_the_draw_of_a_seed_never_changes() -> None:
    graph = Graph(2, 2)
    drawn = edges_in(graph, Paths(graph, readable(graph)).draw(1, Draw(7)))
    assert sorted(map(str, drawn)) == PATH
    assert sorted(map(str, edges_in(graph, draw_alike(graph, drawn_mask(graph), Draw(7))))) == ALIKE


def drawn_mask(graph: Graph) -> Kept:
    return mask(graph, "input->a1.h0<k>", "a0.h0->a1.h1<v>", "a1.h0->logits", "m0->logits", "a0.h1->m1")


PATH = ["a0.h1->m0", "a1.h0->logits", "input->a0.h1<v>", "m0->a1.h0<v>"]
ALIKE = ["a0.h0->m1", "a0.h1->logits", "a1.h1->logits", "input->a1.h0<v>", "input->a1.h1<k>"]


@pytest.mark.parametrize(
    ("value", "others", "expected"),
    [(1.0, [2.0, 3.0], 1.0), (2.0, [1.0, 2.0], 0.25), (9.0, [1.0, 2.0], 0.0)],
)
def test_the_quantile_is_the_share_of_larger_ones_and_half_of_the_equal(value, others, expected) -> None:
    assert quantile(value, others) == expected


def test_faithfulness_and_kl_are_those_of_the_drawn_circuits() -> None:
    model, batch, options = random_transformer("gpt2", 4), random_batch(5), RandomCircuits(n=4, seed=2)
    with Threads(model.device) as threads:
        trials = Trials(model, batch, "corrupted", 2, threads)
        kept = some(trials.edges, 0.5, 1)
        found = measure_against_random(trials, kept, "logit-diff", options, Silent())
    draw = Draw(2)
    expected = [
        evaluate(model, batch, draw_alike(trials.graph, kept, draw), "corrupted", 2) for _ in range(4)
    ]
    assert found.random_kl == pytest.approx([e.circuit.mean("kl") for e in expected], abs=1e-9)
    assert found.random_faithfulness == pytest.approx(
        [e.faithfulness("logit-diff") for e in expected], abs=1e-9
    )
    own = evaluate(model, batch, kept, "corrupted", 2)
    assert (found.kl, found.faithfulness) == pytest.approx(
        (own.circuit.mean("kl"), own.faithfulness("logit-diff"))
    )
    assert found.n_edges == int(kept.sum())


def test_the_circuit_that_alone_does_it_is_above_all_random_ones() -> None:
    graph, wanted = Graph(2, 3), ("input->a0.h1<v>", "a0.h1->a1.h2<q>", "a1.h2->logits")
    trials, options = (
        Made(graph, lambda kept: [float(all(name in kept for name in wanted))]),
        RandomCircuits(n=30),
    )
    found = measure_against_random(trials, mask(graph, *wanted), "prob-diff", options, Silent())
    assert found.faithfulness == 1.0 and found.faithfulness_quantile == 1.0
    assert found.random_faithfulness == (0.0,) * 30


def test_it_takes_as_many_runs_as_it_says_and_its_record_is_json() -> None:
    graph, progress, options = Graph(1, 2), Counting(), RandomCircuits(n=5)
    trials = Made(graph, lambda kept: [float(len(kept)), 1.0])
    found = measure_against_random(trials, some(readable(graph), 0.5, 1), "loss", options, progress)
    total = n_runs(options)
    assert trials.n_runs == total + 2 and progress.tells_of(total)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False)) == found.to_dict()
    assert found.kl_quantile == 0.5 and len(found.lines()) == 2


def test_without_a_difference_to_keep_there_is_a_kl_alone() -> None:
    trials = Made(Graph(1, 2), lambda kept: [1.0])
    found = measure_against_random(
        trials, torch.zeros_like(trials.edges), "loss", RandomCircuits(n=2), Silent()
    )
    assert (
        found.faithfulness
        is found.faithfulness_quantile
        is found.to_dict()["random_faithfulness"]
        is None
    )
    assert len(found.lines()) == 1


def test_paths_within_the_whole_graph_reach_every_edge() -> None:
    graph, draw = Graph(2, 2), Draw(0)
    paths = Paths(graph, readable(graph))
    seen: set[Edge] = set()
    for _ in range(300):
        seen |= edges_in(graph, paths.draw(1, draw))
    assert seen == set(graph.edges())
