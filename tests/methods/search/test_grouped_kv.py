"""The k and v inputs of heads that share a key/value head as one receiver: against literal oracles, and the laws."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from jobs import keeping, resuming

from circuitfind.circuits.graph import Edge, Graph, Node
from circuitfind.circuits.masks import readable
from circuitfind.circuits.units import Units
from circuitfind.methods.attribution.atp import AtP
from circuitfind.methods.attribution.eap import EAP
from circuitfind.methods.attribution.summed import Summed
from circuitfind.methods.ensemble import Ensemble
from circuitfind.methods.exact import Exact
from circuitfind.methods.method import Job
from circuitfind.methods.outcome import Found
from circuitfind.methods.search.acdc import ACDC
from circuitfind.methods.search.grouped import Grouped
from circuitfind.methods.search.reuse import undecidable
from circuitfind.metrics.measures import MetricName
from circuitfind.models.architectures.table import read_transformer
from circuitfind.models.transformer import Transformer
from circuitfind.patching.ablation import ABLATIONS, AblationName
from circuitfind.patching.problem import Problem
from circuitfind.prompts.batch import Batch
from circuitfind.prompts.task_metric import METRICS
from tests.attributions import Scorer, agrees, score
from tests.methods.search.test_acdc import ROUNDING
from tests.methods.search.test_nodes import same
from tests.oracles import units as literally
from tests.oracles.atp import atp
from tests.oracles.attribution import attribution
from tests.oracles.grouped import Search
from tests.oracles.literal import Literal
from tests.random_models import N_CTX, bridge, make_model, random_batch, random_transformer, with_means

SHAPES = ((2, 4, 2), (2, 3, 3), (2, 4, 4))
"""Layers, query heads, and how many of them share a key/value head."""
LENGTHS = (5, 3)
SCHEDULES = ("sequential", "screened", "grouped")


@cache
def hugging_face(seed: int, shape: tuple[int, int, int]) -> Any:
    n_layers, n_heads, group = shape
    return make_model("llama", seed, n_layers, n_heads, num_key_value_heads=n_heads // group)


@cache
def made(seed: int, shape: tuple[int, int, int], dtype: torch.dtype = torch.float64) -> Transformer:
    return read_transformer(bridge(hugging_face(seed, shape), dtype), N_CTX)


def kept_edges(graph: Graph, found: Found) -> set[Edge]:
    return {edge for edge in graph.edges() if found.kept[graph.order(edge)]}


# scores


def summed(graph: Graph, scores: torch.Tensor, group: int) -> torch.Tensor:
    """Every edge with the sum over what goes together."""
    total = scores.clone()
    for unit in literally.grouped(graph, group):
        places = [graph.order(edge) for edge in unit]
        for row, column in places:
            total[:, row, column] = sum(scores[:, r, c] for r, c in places)
    return total


@pytest.mark.parametrize("shape", SHAPES)
def test_the_attribution_of_a_unit_is_the_sum_over_its_edges(shape: tuple[int, int, int]) -> None:
    model, batch = made(3, shape), random_batch(3, (5, 7, 4))
    edges = attribution(Literal(hugging_face(3, shape)), batch, "eap", "loss", "corrupted")
    agrees(
        score(Summed(EAP("loss"), kv="grouped"), model, batch),
        summed(model.architecture.graph, edges, shape[2]),
    )


@pytest.mark.parametrize("grad_drop", [True, False])
def test_the_edges_of_a_unit_add_up_in_each_pass_of_grad_drop(grad_drop: bool) -> None:
    shape = (3, 4, 2)
    model, batch = made(5, shape), random_batch(5, (5, 7, 4))
    units = literally.grouped(model.architecture.graph, 2)
    expected = atp(hugging_face(5, shape), batch, "loss", "corrupted", True, grad_drop, units)
    for batch_size in (8, 2):
        agrees(score(AtP("loss", grad_drop=grad_drop, kv="grouped"), model, batch, batch_size), expected)


@pytest.mark.parametrize(
    ("shape", "metric", "ablation"),
    [
        *((SHAPES[0], "logit-diff", name) for name in ABLATIONS),
        *((shape, "kl", "corrupted") for shape in SHAPES),
    ],
)
def test_the_exact_score_of_a_unit_is_the_literal_one(
    shape: tuple[int, int, int], metric: MetricName, ablation: AblationName
) -> None:
    model, batch = made(3, shape), random_batch(3, (5, 3))
    units = literally.grouped(model.architecture.graph, shape[2])
    expected = literally.exact(Literal(hugging_face(3, shape)), batch, metric, ablation, units)
    batch = with_means(model, batch, ablation)
    for batch_size in (8, 1):
        found = score(Exact(metric, ablation, kv="grouped"), model, batch, batch_size)
        assert torch.allclose(found, expected, rtol=1e-8, atol=1e-8, equal_nan=True), batch_size


@pytest.mark.parametrize("n_done", [0, 3])
def test_exact_scores_that_were_cut_off_go_on_to_the_same_bits(n_done: int) -> None:
    model, batch, states = made(3, SHAPES[0], torch.float32), random_batch(3), []
    method = Exact("kl", kv="grouped")
    expected = method.score(
        Problem(model, batch, 8), Job(save=lambda so_far: states.append(so_far.copy()))
    )
    assert len(states) == len(
        list(
            Units.of(
                model.architecture.graph, model.architecture.n_kv_heads, "edge", "grouped"
            ).receivers()
        )
    )
    found = method.score(Problem(model, batch, 2), Job(start=states[n_done]))
    assert torch.equal(found.nan_to_num(9), expected.nan_to_num(9))


def test_an_ensemble_counts_each_unit_once() -> None:
    model, batch = made(3, SHAPES[0]), random_batch(3, (5, 7, 4))
    members = (Summed(EAP("loss"), kv="grouped"), Exact("loss", kv="grouped"))
    found = score(Ensemble(members, "rank-mean", kv="grouped"), model, batch)[0]
    units = literally.grouped(model.architecture.graph, 2)
    first = [model.architecture.graph.order(unit[0]) for unit in units]
    each = [score(member, model, batch).mean(0) for member in members]
    sizes = [torch.tensor([abs(float(scores[place])) for place in first]) for scores in each]
    ranks = torch.stack([(size.argsort().argsort() + 1).double() / len(units) for size in sizes]).mean(0)
    for unit, expected in zip(units, ranks.tolist(), strict=True):
        for edge in unit:
            assert float(found[model.architecture.graph.order(edge)]) == pytest.approx(expected)


# the search


def agrees_with_oracle(
    seed: int, shape: tuple[int, int, int], batch: Batch, threshold: float, **options: str
) -> bool:
    """Whether the oracle's own decisions were clear of rounding; if they were, ours are the same."""
    literal, model = Literal(hugging_face(seed, shape)), made(seed, shape)
    graph, given = literal.graph, {"metric": "kl", "ablation": "corrupted", **options}
    match = given.pop("objective", "improve") == "match"
    search = literally.Search(literal, batch, threshold, **given, match=match)
    order = literally.visits(graph, shape[2])
    tested = search.run(order, search.leaves_nothing)
    rounding = ROUNDING
    if search.margin <= rounding:
        return False
    method = ACDC(threshold, kv="grouped", **options)  # type: ignore[arg-type]
    found = method.find(Problem(model, with_means(model, batch, given["ablation"]), 8))  # type: ignore[arg-type]
    alive = {edge.sender for edge in search.kept} | {Node("logits")}
    assert kept_edges(graph, found) == {edge for edge in search.kept if edge.receiver.node in alive}
    assert found.n_tests == len(tested)
    for unit, expected in tested.items():
        for edge in unit:
            score_of_live = expected if edge.receiver.node in alive else 0
            assert found.scores[graph.order(edge)].item() == pytest.approx(score_of_live, abs=rounding)
    return True


@pytest.mark.parametrize("metric", METRICS)
def test_every_unit_is_decided_as_the_literal_algorithm_decides_it(metric: str) -> None:
    for seed, (shape, threshold) in enumerate(zip(SHAPES, (0.003, 0.03, 0.3), strict=True)):
        assert agrees_with_oracle(seed, shape, random_batch(seed, LENGTHS), threshold, metric=metric)


@pytest.mark.parametrize("options", [{"ablation": "zero"}, {"ablation": "mean"}, {"objective": "match"}])
def test_so_it_is_under_another_ablation_or_objective(options: dict[str, str]) -> None:
    assert agrees_with_oracle(
        4, SHAPES[0], random_batch(4, LENGTHS), 0.0347, metric="logit-diff", **options
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_screened_decides_as_sequential_does(shape: tuple[int, int, int]) -> None:
    for seed, threshold in ((1, 0.003), (2, 0.03), (3, 0.3)):
        model, batch = made(seed, shape), random_batch(seed, LENGTHS)
        sequential, screened = (
            ACDC(threshold, schedule=schedule, kv="grouped").find(Problem(model, batch, 8))
            for schedule in ("sequential", "screened")
        )
        assert torch.equal(screened.kept, sequential.kept), (seed, threshold)
        assert torch.allclose(screened.scores[screened.kept], sequential.scores[screened.kept], atol=1e-9)


def test_of_a_group_the_heads_that_nothing_reads_take_no_part() -> None:
    """Some head of a live group is dead in one of these searches, or nothing was tested here."""
    met = False
    for seed in range(1, 6):
        model, graph = made(seed, SHAPES[0]), made(seed, SHAPES[0]).architecture.graph
        found = ACDC(0.3, kv="grouped").find(Problem(model, random_batch(seed), 8))
        read = {str(sender) for i, sender in enumerate(graph.senders) if found.kept[:, i].any()}
        for layer in range(2):
            for first in (0, 2):
                group = [f"a{layer}.h{first}", f"a{layer}.h{first + 1}"]
                met |= len(read & set(group)) == 1
        for row, receiver in enumerate(graph.receivers):
            if receiver.node.kind == "head" and str(receiver.node) not in read:
                assert not found.kept[row].any() and not found.scores[row].nan_to_num(0).any()
    assert met


class GroupedSearch(Search):
    """The literal grouped schedule with units for edges: one edge stands for its unit."""

    group = 2

    def search(self) -> Search:
        from tests.oracles.grouped import stages

        graph = self.literal.graph
        self.now = self.value(self.kept)
        for receivers in stages(graph.n_layers, graph.n_heads):
            live = [
                r
                for r in receivers
                if r.node.kind == "logits" or any(e.sender == r.node for e in self.kept)
            ]
            self.kept -= {edge for edge in self.kept if edge.receiver in set(receivers) - set(live)}
            units = [
                tuple(edge for edge in unit if edge.receiver in live)
                for unit in literally.grouped(graph, self.group)
            ]
            self.units = {unit[0]: unit for unit in units if unit}
            if live:
                attributions = self.attributions([edge for unit in self.units.values() for edge in unit])
                sums = {
                    first: sum(attributions[edge] for edge in unit) for first, unit in self.units.items()
                }
                self.divide(sorted(sums, key=sums.__getitem__), sums)
        return self

    def values(self, kept: set[Edge]) -> list[float]:
        """With every edge gone whose unit's first is."""
        gone = {
            edge
            for first, unit in getattr(self, "units", {}).items()
            if first not in kept
            for edge in unit
        }
        return super().values(kept - gone)

    def settle(self, group: Any, rise: float, attributions: dict[Edge, float]) -> None:
        super().settle(group, rise, attributions)
        for first in group:
            for edge in self.units[first]:
                self.scores[edge] = self.scores[first]
                if first not in self.kept:
                    self.kept.discard(edge)


@pytest.mark.parametrize("metric", ["kl", "logit-diff"])
def test_the_grouped_schedule_decides_on_units_as_the_literal_one_does(metric: MetricName) -> None:
    agreed = []
    for seed, threshold in ((1, 0.003), (2, 0.05), (3, 0.3)):
        literal, model, batch = (
            Literal(hugging_face(seed, SHAPES[0])),
            made(seed, SHAPES[0]),
            random_batch(seed, LENGTHS),
        )
        outcome = GroupedSearch(literal, batch, threshold, metric, "corrupted").search()
        if outcome.margin > 1e-9:
            found = Grouped(threshold, metric, kv="grouped").find(Problem(model, batch, 8))
            assert kept_edges(literal.graph, found) == outcome.kept
            assert found.n_tests == len(outcome.groups)
            for edge in literal.graph.edges():
                expected = outcome.scores.get(edge, 0.0)
                assert found.scores[literal.graph.order(edge)].item() == pytest.approx(
                    expected, abs=1e-7, rel=1e-6
                )
            agreed.append(seed)
    assert agreed


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_search_taken_up_after_any_decision_ends_the_same_to_the_last_bit(schedule: str) -> None:
    model, batch, states = made(8, SHAPES[0], torch.float32), random_batch(8), []
    method = ACDC(0.1, schedule=schedule, kv="grouped")
    method.find(Problem(model, batch, 8), keeping(states, model.architecture.graph))
    assert states[-1].kept.any() and len(states) > 10
    for state in states[::9]:
        assert same(method.find(Problem(model, batch, 2), resuming(state)), states[-1])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_batch_size_and_threads_change_no_bit(schedule: str) -> None:
    model, batch = made(7, SHAPES[0], torch.float32), random_batch(7, (5, 3, 4, 5, 3))
    method = ACDC(0.1, schedule=schedule, kv="grouped")
    expected = method.find(Problem(model, batch, 8))
    before = torch.get_num_threads()
    try:
        for n_threads, batch_size in ((2, 4), (1, 1)):
            torch.set_num_threads(n_threads)
            assert same(method.find(Problem(model, batch, batch_size)), expected), (n_threads, batch_size)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("family", ["gpt2", "pythia"])
def test_without_grouped_queries_it_is_the_search_per_head(family: str, schedule: str) -> None:
    model, batch = random_transformer(family, 2, dtype=torch.float32), random_batch(2)
    grouped, per_head = (
        ACDC(0.05, schedule=schedule, kv=kv).find(Problem(model, batch, 8))  # type: ignore[arg-type]
        for kv in ("grouped", "per-head")
    )
    assert same(grouped, per_head)


@pytest.mark.parametrize("make", [lambda kv: Exact("loss", kv=kv), lambda kv: Summed(EAP("loss"), kv=kv)])
def test_without_grouped_queries_it_is_the_score_of_each_edge(make: Any) -> None:
    model, batch = random_transformer("gpt2", 2, dtype=torch.float32), random_batch(2)
    grouped: Scorer = make("grouped")
    assert torch.equal(
        score(grouped, model, batch).nan_to_num(9), score(make("per-head"), model, batch).nan_to_num(9)
    )


def test_of_edges_that_go_together_at_the_threshold_one_is_named() -> None:
    model, batch = made(3, SHAPES[0]), random_batch(3)
    found = ACDC(0.03, kv="grouped").find(Problem(model, batch, 8))
    units = Units.of(model.architecture.graph, model.architecture.n_kv_heads, "edge", "grouped")
    graph = units.graph
    row = next(
        r for r, receiver in enumerate(graph.receivers) if receiver.slot == "k" and found.kept[r].any()
    )
    column = int(found.kept[row].nonzero()[0])
    named = undecidable(units, found, float(found.scores[row, column]), 1e-12)
    assert len(named) == 1 and named[0] in units_of(graph, row, column)
    assert torch.equal(found.kept & ~readable(graph), torch.zeros_like(found.kept))


def units_of(graph: Graph, row: int, column: int) -> tuple[Edge, ...]:
    edge = Edge(graph.senders[column], graph.receivers[row])
    return next(unit for unit in literally.grouped(graph, 2) if edge in unit)
