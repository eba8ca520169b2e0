"""Incompleteness agrees with knock-outs done literally, and finds the backup that a circuit lacks."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch

from circuitfind.circuits.graph import Graph, Node
from circuitfind.errors import UsageError
from circuitfind.evaluation.completeness import Completeness, measure_completeness, n_runs
from circuitfind.evaluation.meter import heads_and_mlps
from circuitfind.evaluation.options import KnockOuts
from circuitfind.evaluation.trials import Kept, Trials
from circuitfind.metrics.measures import MetricName
from circuitfind.models.workers import Threads
from circuitfind.progress import Silent
from tests.evaluation.made import Counting, Made, edges_in, mask, some
from tests.oracles.judgements import Judge
from tests.oracles.literal import Literal
from tests.random_models import random_batch, random_model, random_transformer

LENGTHS = (5, 7, 4)


def found_and_literal(
    family: str, metric: MetricName, share: float, options: KnockOuts
) -> tuple[Completeness, Judge, set]:
    model, batch = random_transformer(family, 2), random_batch(3, LENGTHS)
    with Threads(model.device) as threads:
        trials = Trials(model, batch, "corrupted", 2, threads)
        kept = some(trials.edges, share, 4)
        found = measure_completeness(trials, kept, metric, options, Silent())
        circuit = edges_in(trials.graph, kept)
    return found, Judge(Literal(random_model(family, 2)), batch, metric), circuit


@pytest.mark.parametrize(
    ("family", "metric"), [("gpt2", "logit-diff"), ("llama", "kl"), ("pythia", "loss")]
)
def test_every_knock_out_is_worth_what_literal_runs_say(family: str, metric: MetricName) -> None:
    found, judge, circuit = found_and_literal(
        family, metric, 0.6, KnockOuts(n_random=4, n_steps=2, seed=1)
    )
    assert len({knock.nodes for knock in found.randoms}) > 2
    for knock in (found.nothing, *found.randoms, *found.greedy):
        assert (knock.circuit, knock.model) == pytest.approx(
            judge.knock_out(circuit, knock.nodes), abs=1e-8
        )
    complement = judge.mean(judge.everything - circuit)
    assert found.complement.circuit.mean(metric) == pytest.approx(complement, abs=1e-8)
    assert found.full == pytest.approx(judge.mean(judge.everything), abs=1e-8)
    assert found.ablated == pytest.approx(judge.mean([]), abs=1e-8)


def test_the_greedy_knock_out_is_the_literal_one() -> None:
    found, judge, circuit = found_and_literal("gpt2", "logit-diff", 0.5, KnockOuts(n_random=0, n_steps=3))
    nodes = [
        n for n in judge._state.literal.graph.senders[1:] if any(edge.sender == n for edge in circuit)
    ]
    assert [knock.nodes for knock in found.greedy] == judge.grow(circuit, nodes, 3) != []
    grown = [found.nothing, *found.greedy]
    assert all(a.incompleteness < b.incompleteness for a, b in pairwise(grown))


@pytest.mark.parametrize("family", ["gpt2", "pythia"])
def test_the_circuit_of_all_edges_is_complete(family: str) -> None:
    found, _, _ = found_and_literal(family, "logit-diff", 2.0, KnockOuts(n_random=5, n_steps=5))
    assert [knock.incompleteness for knock in (found.nothing, *found.randoms)] == [0.0] * 6
    assert found.greedy == () and found.worst.incompleteness == 0.0
    assert found.complement.circuit == found.complement.ablated
    assert "no node that was looked at raises the incompleteness" in found.lines()[-1]


OR = Graph(1, 2)


def either(kept: frozenset[str]) -> list[float]:
    """Either head alone does it all: the other one is its backup."""
    heads = ("a0.h0->logits", "a0.h1->logits")
    return [float(any(head in kept for head in heads))] * 3


def test_a_missing_backup_head_shows_under_a_knock_out_and_nowhere_else() -> None:
    kept = mask(OR, "input->a0.h0<v>", "a0.h0->logits")
    found = measure_completeness(Made(OR, either), kept, "logit-diff", KnockOuts(n_random=0), Silent())
    assert found.nothing.incompleteness == 0.0
    (knock,) = found.greedy  # without a0.h0 the circuit has 0, the model still 1
    assert (knock.nodes, knock.circuit, knock.model) == ((Node("head", 0, 0),), 0.0, 1.0)
    assert found.share(knock) == 1.0
    assert found.complement.faithfulness("logit-diff") == 1.0


def test_with_both_heads_nothing_is_missing() -> None:
    kept = mask(OR, "input->a0.h0<v>", "a0.h0->logits", "input->a0.h1<v>", "a0.h1->logits")
    found = measure_completeness(Made(OR, either), kept, "logit-diff", KnockOuts(), Silent())
    assert found.worst.incompleteness == 0.0 and found.greedy == ()


def test_only_heads_and_mlps_that_a_kept_edge_leaves_are_knocked_out() -> None:
    kept = mask(OR, "input->a0.h0<v>", "a0.h0->m0", "m0->logits", "input->a0.h1<q>")
    assert list(map(str, heads_and_mlps(OR, kept))) == ["a0.h0", "m0"]


def grown(kept: frozenset[str]) -> list[float]:
    """Where input->logits is kept each sender that is gone is worth its number, else nothing is."""
    gone = [
        sender
        for sender in Graph(2, 2).senders
        if not any(name.startswith(f"{sender}->") for name in kept)
    ]
    return [float(sum(Graph(2, 2).sender_index[sender] for sender in gone) * ("input->logits" in kept))]


def without_direct_path(trials: Made) -> Kept:
    """Every knock-out tears this circuit and the model further apart."""
    return some(trials.edges, 0.5, 1) & ~mask(trials.graph, "input->logits")


@pytest.mark.parametrize("n_candidates", [None, 2])
def test_it_takes_as_many_runs_as_it_says_and_tells_of_each(n_candidates: int | None) -> None:
    trials, progress = Made(Graph(2, 2), grown), Counting()
    kept, options = (
        without_direct_path(trials),
        KnockOuts(n_random=3, n_steps=2, n_candidates=n_candidates),
    )
    found = measure_completeness(trials, kept, "logit-diff", options, progress)
    total = n_runs(trials.graph, kept, options)
    assert len(found.greedy) == 2 and trials.n_runs == total + 2  # the full and the ablated model's
    assert progress.tells_of(total)


def test_a_step_looks_at_the_candidates_that_were_drawn_alone() -> None:
    trials = Made(Graph(2, 2), grown)
    kept = without_direct_path(trials)

    def greedy(**options: int) -> list[tuple[Node, ...]]:
        chosen = KnockOuts(n_random=0, n_steps=2, **options)
        return [
            knock.nodes for knock in measure_completeness(trials, kept, "kl", chosen, Silent()).greedy
        ]

    drawn = [greedy(n_candidates=1, seed=seed) for seed in range(6)]
    assert drawn == [greedy(n_candidates=1, seed=seed) for seed in range(6)]
    assert len({str(nodes) for nodes in drawn}) > 1
    assert greedy(n_candidates=99) == greedy()


def test_the_empty_circuit_has_no_node_to_knock_out() -> None:
    trials = Made(OR, either)
    found = measure_completeness(
        trials, torch.zeros_like(trials.edges), "logit-diff", KnockOuts(), Silent()
    )
    assert found.n_nodes == 0 and found.worst.incompleteness == 1.0 and found.greedy == ()


def test_the_record_is_json_and_the_sentences_name_the_nodes() -> None:
    kept = mask(OR, "input->a0.h0<v>", "a0.h0->logits")
    found = measure_completeness(Made(OR, either), kept, "logit-diff", KnockOuts(n_random=2), Silent())
    record = found.to_dict()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["greedy"][0] == {
        "nodes": ["a0.h0"],
        "circuit": 0.0,
        "model": 1.0,
        "incompleteness": 1.0,
        "share": 1.0,
    }
    assert (
        found.lines()[-1]
        == "Greedy knock-out: incompleteness 1 logits (100.0% of full - ablated) without a0.h0."
    )


@pytest.mark.parametrize(
    "options",
    [{"n_random": -1}, {"n_steps": -1}, {"n_candidates": 0}],
    ids=lambda options: next(iter(options)),
)
def test_numbers_that_cannot_be_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=f"is {next(iter(options.values()))}; give"):
        KnockOuts(**options)
