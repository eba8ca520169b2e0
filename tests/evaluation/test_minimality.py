"""What an edge or node contributes agrees with literal runs without it."""

from __future__ import annotations

import json

import pytest

from circuitfind.circuits.graph import Edge, Graph, Node
from circuitfind.circuits.selection import prune
from circuitfind.errors import UsageError
from circuitfind.evaluation.minimality import Minimality, edges_of, measure_minimality, n_runs
from circuitfind.evaluation.options import LeaveOneOut
from circuitfind.evaluation.trials import Trials
from circuitfind.metrics.measures import MetricName
from circuitfind.models.workers import Threads
from circuitfind.progress import Silent
from tests.evaluation.made import Counting, Made, edges_in, mask, some
from tests.oracles.judgements import Judge
from tests.oracles.literal import Literal
from tests.random_models import random_batch, random_model, random_transformer

SMALL = Graph(1, 2)
WORTH = {"a0.h0->logits": 4.0, "m0->logits": 1.0, "input->logits": 0.01, "a0.h1->logits": -2.0}
CIRCUIT = ("input->a0.h0<v>", *WORTH)


def worth(kept: frozenset[str]) -> list[float]:
    """Each edge into the logits is worth what it is worth, on the second prompt twice that."""
    total = sum(value for name, value in sorted(WORTH.items()) if name in kept)
    return [total, 2 * total]


def made(**options: float) -> Minimality:
    return measure_minimality(
        Made(SMALL, worth), mask(SMALL, *CIRCUIT), "logit-diff", LeaveOneOut(**options), Silent()
    )


def test_a_contribution_is_the_mean_of_what_each_prompt_loses() -> None:
    found = made()
    assert {str(edge): value for edge, value in found.edges.values.items()} == pytest.approx(
        {"input->a0.h0<v>": 0.0, **{name: 1.5 * value for name, value in WORTH.items()}}
    )
    assert {str(node): value for node, value in found.nodes.values.items()} == pytest.approx(
        {"a0.h0": 6.0, "a0.h1": -3.0, "m0": 1.5}
    )


def test_parts_of_less_than_the_share_are_needless_whatever_their_sign() -> None:
    found = made()  # full - ablated is 1.5 * 3.01, 1% of it 0.04515
    assert found.least == pytest.approx(0.04515)
    assert found.edges.n_below(found.least) == 2 and found.nodes.n_below(found.least) == 0
    assert made(share=0.9).edges.n_below(made(share=0.9).least) == 4
    assert found.lines()[0].startswith(
        "Left out alone, 2 of all 5 edges change logit-diff by less than 1% of"
    )
    assert "a0.h0->logits, 6 (132.9%)" in found.lines()[0]


def test_a_sample_is_drawn_by_its_seed_and_said_to_be_one() -> None:
    found = made(most=2, seed=1)
    assert len(found.edges.values) == len(found.nodes.values) == 2
    assert found.edges.is_sample and "2 edges drawn of 5" in found.lines()[0]
    assert set(found.edges.values.items()) < set(made().edges.values.items())
    assert len({tuple(made(most=2, seed=seed).edges.values) for seed in range(6)}) > 1
    assert made(most=2, seed=1) == found


@pytest.mark.parametrize(
    ("family", "metric"), [("gpt2", "logit-diff"), ("llama", "kl"), ("pythia", "prob-diff")]
)
def test_every_edge_and_node_contributes_what_literal_runs_say(family: str, metric: MetricName) -> None:
    model, batch = random_transformer(family, 5), random_batch(6)
    with Threads(model.device) as threads:
        trials = Trials(model, batch, "corrupted", 2, threads)
        kept = some(trials.edges, 0.5, 2)
        found = measure_minimality(trials, kept, metric, LeaveOneOut(most=12), Silent())
    judge, circuit = Judge(Literal(random_model(family, 5)), batch, metric), edges_in(trials.graph, kept)
    whole = judge.mean(circuit)
    assert found.circuit == pytest.approx(whole, abs=1e-8)
    assert len(found.edges.values) == 12
    for edge, value in found.edges.values.items():
        assert value == pytest.approx(whole - judge.mean(circuit - {edge}), abs=1e-8)
    for node, value in found.nodes.values.items():
        without = [edge for edge in circuit if node not in (edge.sender, edge.receiver.node)]
        assert value == pytest.approx(whole - judge.mean(without), abs=1e-8)


def test_leaving_out_a_dead_edge_changes_nothing_at_all() -> None:
    model = random_transformer("gpt2", 5)
    with Threads(model.device) as threads:
        trials = Trials(model, random_batch(6), "corrupted", 2, threads)
        kept = some(trials.edges, 0.6, 3)
        kept[:, trials.graph.sender_index[Node("head", 1, 0)]] = (
            False  # nothing leaves it: all edges into it are dead
        )
        found = measure_minimality(trials, kept, "kl", LeaveOneOut(), Silent())
    dead = [edge for edge in found.edges.values if edge.receiver.node == Node("head", 1, 0)]
    assert len(dead) > 3 and all(found.edges.values[edge] == 0.0 for edge in dead)
    live = edges_of(trials.graph, prune(trials.graph, kept))
    assert all(found.edges.values[edge] != 0.0 for edge in live)


def test_it_takes_as_many_runs_as_it_says_and_tells_of_each() -> None:
    trials, progress, options = Made(SMALL, worth), Counting(), LeaveOneOut(most=4)
    kept = mask(SMALL, *CIRCUIT)
    measure_minimality(trials, kept, "kl", options, progress)
    total = n_runs(SMALL, kept, options)
    assert total == 1 + 4 + 3 and trials.n_runs == total + 2
    assert progress.tells_of(total)


def test_the_record_is_json_with_parts_by_name() -> None:
    record = made().to_dict()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["edges"]["n_needless"] == 2 and record["edges"]["contributions"]["m0->logits"] == 1.5
    assert list(map(Edge.parse, record["edges"]["contributions"])) == edges_of(
        SMALL, mask(SMALL, *CIRCUIT)
    )


def test_an_empty_circuit_has_nothing_to_leave_out() -> None:
    found = measure_minimality(Made(SMALL, worth), mask(SMALL), "kl", LeaveOneOut(), Silent())
    assert found.lines()[0].startswith("Left out alone, 0 of all 0 edges")


@pytest.mark.parametrize("options", [{"most": 0}, {"share": 0.0}, {"share": 1.0}])
def test_numbers_that_cannot_be_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="give"):
        LeaveOneOut(**options)
