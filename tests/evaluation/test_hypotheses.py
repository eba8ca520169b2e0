"""Each test rejects what it should on circuits whose worth is known, and says so."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from circuitfind.circuits.draws import Draw
from circuitfind.circuits.graph import Edge, Graph
from circuitfind.circuits.masks import readable
from circuitfind.errors import UsageError
from circuitfind.evaluation.hypotheses import (
    Hypotheses,
    Outcome,
    correct_together,
    judge_edges,
    judge_equivalence,
    judge_independence,
    n_runs,
    run_tests,
)
from circuitfind.evaluation.options import HypothesisOptions
from circuitfind.evaluation.randoms import Paths
from circuitfind.evaluation.statistics import holm
from circuitfind.evaluation.trials import Trials
from circuitfind.models.workers import Threads
from circuitfind.progress import Silent
from tests.evaluation.made import Counting, Made, edges_in, mask, some
from tests.oracles.judgements import Judge
from tests.oracles.literal import Literal
from tests.random_models import random_batch, random_model, random_transformer

GRAPH = Graph(2, 3)
WANTED = ("input->a0.h1<v>", "a0.h1->a1.h2<q>", "a1.h2->logits")
OPTIONS = HypothesisOptions(n_random=60, n_permutations=199)
N_PROMPTS = 24


def path_alone(kept: frozenset[str]) -> list[float]:
    """Each edge of the path adds a tenth of what all three together are worth, which is another on each prompt."""
    whole = sum(name in kept for name in WANTED) / 10 + 7 * all(name in kept for name in WANTED) / 10
    return [whole * (1 + (7 * i) % 11) for i in range(N_PROMPTS)]


def judge(*names: str, options: HypothesisOptions = OPTIONS) -> dict[str, Outcome]:
    found = run_tests(Made(GRAPH, path_alone), mask(GRAPH, *names), "prob-diff", options, Silent())
    return {outcome.name: outcome for outcome in found.tests}


def test_the_ideal_circuit_passes_every_test() -> None:
    found = judge(*WANTED)
    assert [outcome.rejected for outcome in found.values()] == [False, False, False, True, True]
    assert found["equivalence"].p_value == 1.0 and found["equivalence"].n == 0  # the same on every prompt
    assert found["independence"].p_value == 1.0  # outside of it nothing changes from prompt to prompt
    assert found["minimality"].effect_size == 0.0
    assert found["sufficiency"].statistic == found["partial necessity"].statistic == 60.0


def test_half_a_circuit_is_not_equivalent() -> None:
    found = judge(*WANTED[:2])
    assert found["equivalence"].rejected and found["equivalence"].effect_size == -0.5


def test_a_circuit_with_a_needless_edge_is_not_minimal_and_the_edge_is_named() -> None:
    needless = "a0.h0->m1"
    steep = replace(OPTIONS, quantile=0.5, n_random=200)

    def noisy(kept: frozenset[str]) -> list[float]:
        return [value + len(kept) / 1000 - (needless in kept) / 1000 for value in path_alone(kept)]

    kept = mask(GRAPH, *WANTED, needless)
    found = run_tests(Made(GRAPH, noisy), kept, "prob-diff", steep, Silent()).tests[2]
    assert found.rejected and found.statistic == 1.0 and found.effect_size == 0.25
    assert [str(edge.edge) for edge in found.edges if edge.corrected <= 0.05] == [needless]
    assert found.p_value == min(edge.corrected for edge in found.edges)
    assert (
        "1 of all 4 edges matter less than random ones, so the circuit is not minimal" in found.sentence
    )


def test_a_circuit_beside_the_behaviour_is_neither_sufficient_nor_necessary() -> None:
    found = judge("input->a0.h0<v>", "a0.h0->logits")
    assert found["independence"].rejected and found["independence"].effect_size == pytest.approx(1.0)
    assert found["partial necessity"].statistic == 0.0 and not found["partial necessity"].rejected
    assert not found["sufficiency"].rejected
    assert found["minimality"].rejected and found["minimality"].statistic == 2.0


def test_equivalence_counts_prompts_won_and_leaves_out_ties() -> None:
    options = HypothesisOptions(epsilon=0.0)
    found = judge_equivalence((2.0, 1.0, 5.0, 3.0), (1.0, 2.0, 4.0, 3.0), "logit-diff", options)
    assert (found.n, found.statistic, found.effect_size, found.p_value) == (
        3,
        2 / 3,
        pytest.approx(1 / 6),
        1.0,
    )
    lost = judge_equivalence((0.0,) * 10, (1.0,) * 10, "logit-diff", options)
    assert lost.p_value == pytest.approx(2 / 2**10)


def test_one_prompt_cannot_show_independence() -> None:
    found = judge_independence((1.0,), (2.0,), "loss", OPTIONS)
    assert found.p_value is None and "not run, it needs two prompts or more" in found.sentence


def test_an_edge_wins_against_those_that_change_strictly_less() -> None:
    edges = [Edge.parse(name) for name in WANTED]
    tests = judge_edges(dict(zip(edges, (0.0, 5.0, 2.0), strict=True)), [0.0, 1.0, 2.0, 3.0], 0.5)
    assert [test.wins for test in tests] == [0, 4, 2]
    assert [test.p_value for test in tests] == pytest.approx([1 / 16, 1.0, 11 / 16])
    assert [test.corrected for test in tests] == pytest.approx([3 / 16, 1.0, 1.0])


def test_p_values_are_corrected_for_the_tests_that_were_run_alone() -> None:
    ran = [Outcome("a", "kl", "", "", "", "", 0, 0.05, p_value=p) for p in (0.02, 0.01)]
    left = Outcome("b", "kl", "", "", "", "", 0, 0.05, why_not="no reason")
    corrected = correct_together([ran[0], left, ran[1]])
    assert [outcome.corrected for outcome in corrected] == [0.02, None, 0.02]
    assert [outcome.rejected for outcome in corrected] == [True, None, True]
    found = list(judge(*WANTED).values())
    assert [o.corrected for o in found] == list(holm([o.p_value for o in found if o.p_value is not None]))


def test_the_circuit_of_all_edges_has_no_outside_to_be_compared_with() -> None:
    found = judge(*map(str, GRAPH.edges()))
    assert "not run, no path lies outside of the circuit" in found["minimality"].sentence
    assert "not run, as many edges do not lie outside of it" in found["partial necessity"].sentence
    assert found["equivalence"].corrected == 1.0 and found["sufficiency"].statistic == 0.0


def test_the_empty_circuit_has_no_edge_to_test() -> None:
    found = judge()
    assert "not run, the circuit has no edge" in found["minimality"].sentence
    assert "not run, the circuit has no edge" in found["partial necessity"].sentence
    assert not found["sufficiency"].rejected


def test_too_few_random_circuits_are_said_to_be_too_few() -> None:
    found = judge(*WANTED, options=replace(OPTIONS, n_random=20))
    assert found["sufficiency"].statistic == 20.0 and not found["sufficiency"].rejected
    assert "with 20 random circuits no outcome could reject it" in found["sufficiency"].sentence


def test_it_takes_as_many_runs_as_it_says_and_tells_of_each() -> None:
    trials, progress, options = Made(GRAPH, path_alone), Counting(), replace(OPTIONS, n_random=3, most=2)
    kept = mask(GRAPH, *WANTED)
    run_tests(trials, kept, "loss", options, progress)
    total = n_runs(GRAPH, kept, options)
    assert trials.n_runs == total + 2 - 1  # the full and the ablated model's; the latter no test needs
    assert progress.tells_of(total)


def test_the_record_is_json_and_every_test_has_one_sentence() -> None:
    found = run_tests(Made(GRAPH, path_alone), mask(GRAPH, *WANTED), "kl", OPTIONS, Silent())
    record = found.to_dict()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert [test["metric"] for test in record["tests"]] == ["loss", "loss", "kl", "kl", "kl"]
    assert list(record["tests"][2]["edges"]) == sorted(
        WANTED, key=lambda name: GRAPH.order(Edge.parse(name))
    )
    assert found.lines() == [test["sentence"] for test in record["tests"]] and len(found.lines()) == 5
    assert all(line.endswith(".") and ". " not in line.replace("0. ", "") for line in found.lines())


def real(seed: int, options: HypothesisOptions, batch_size: int = 2) -> Hypotheses:
    model = random_transformer("gpt2", 3)
    with Threads(model.device) as threads:
        trials = Trials(model, random_batch(7, (5, 4, 6, 5)), "corrupted", batch_size, threads)
        return run_tests(trials, some(trials.edges, 0.3, seed), "logit-diff", options, Silent())


def test_every_number_agrees_with_literal_runs() -> None:
    options = HypothesisOptions(n_random=5, n_permutations=19, most=6, seed=3)
    found = real(1, options)
    batch, graph = random_batch(7, (5, 4, 6, 5)), Graph(2, 2)
    judge = Judge(Literal(random_model("gpt2", 3)), batch, "logit-diff")
    everything = readable(graph)
    kept = some(everything, 0.3, 1)
    circuit, outside = edges_in(graph, kept), edges_in(graph, everything & ~kept)

    def distance(a: set[Edge], b: set[Edge]) -> float:
        return (
            sum(abs(x - y) for x, y in zip(judge.values(a), judge.values(b), strict=True))
            / batch.n_prompts
        )

    for edge in found.tests[2].edges:
        assert edge.change == pytest.approx(distance(circuit, circuit - {edge.edge}), abs=1e-8)
    draw, paths, own = Draw(3), Paths(graph, everything), distance(circuit, judge.everything)
    others = [
        distance(edges_in(graph, paths.draw(len(circuit), draw)), judge.everything) for _ in range(5)
    ]
    assert found.tests[3].statistic == sum(own < other for other in others)
    draw, paths, own = Draw(3), Paths(graph, everything & ~kept), distance(outside, judge.everything)
    drawn = [edges_in(graph, paths.draw(len(circuit), draw)) for _ in range(5)]
    assert found.tests[4].statistic == sum(
        own > distance(judge.everything - d, judge.everything) for d in drawn
    )
    wins = [x > y for x, y in zip(judge.values(circuit), judge.values(judge.everything), strict=True)]
    assert found.tests[0].statistic == sum(wins) / len(wins)


def test_neither_batch_size_nor_an_earlier_call_changes_a_bit() -> None:
    options = HypothesisOptions(n_random=3, n_permutations=19, most=4)
    assert real(1, options) == real(1, options, batch_size=64)
    assert real(1, options) != real(1, replace(options, seed=1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"epsilon": 0.5},
        {"quantile": 1.0},
        {"alpha": 0.0},
        {"n_random": 0},
        {"n_permutations": 0},
        {"most": 0},
    ],
)
def test_numbers_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="give"):
        HypothesisOptions(**wrong)
