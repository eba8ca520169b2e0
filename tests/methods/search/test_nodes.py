"""Whole nodes: scores and search against literal oracles, and the laws that both obey."""

from __future__ import annotations

import pytest
import torch
from jobs import keeping, resuming

from circuitfind.circuits.graph import Edge, Graph, Node
from circuitfind.circuits.masks import readable
from circuitfind.circuits.units import Units
from circuitfind.errors import ModelError, UsageError
from circuitfind.methods.attribution.atp import AtP
from circuitfind.methods.attribution.eap import EAP, EAPIG
from circuitfind.methods.attribution.gim import GIM
from circuitfind.methods.attribution.summed import Summed
from circuitfind.methods.baselines import HISP, ActivationMagnitude
from circuitfind.methods.ensemble import Ensemble, combine
from circuitfind.methods.exact import Exact
from circuitfind.methods.outcome import Found
from circuitfind.methods.search.acdc import ACDC
from circuitfind.methods.search.nodes import NodeSearch
from circuitfind.methods.search.reuse import undecidable
from circuitfind.metrics.measures import MetricName
from circuitfind.models.transformer import Transformer
from circuitfind.patching.ablation import ABLATIONS, AblationName
from circuitfind.patching.problem import Problem
from circuitfind.prompts.batch import Batch
from circuitfind.prompts.task_metric import METRICS
from tests.attributions import Scorer, agrees, late, linear, literal, same_bits, score, total_effect
from tests.methods.attribution.test_eap import METHODS, STEPS, make
from tests.oracles import units as literally
from tests.oracles.atp import atp
from tests.oracles.literal import Literal
from tests.random_models import FAMILIES, random_batch, random_model, random_transformer, with_means

ROUNDING = dict.fromkeys(ABLATIONS, 1e-9) | {"zero": 1e-5}
"""As in test_acdc.py: zero ablation may leave a stream of rounding errors, which norms blow up."""
BITS = [("gpt2", torch.float32), ("llama", torch.float32), ("pythia", torch.float64)]


def of_edges(graph: Graph, scores: torch.Tensor) -> torch.Tensor:
    """Every edge with the score of its sender."""
    edges = readable(graph)
    return scores.unsqueeze(1).expand(-1, len(edges), -1).masked_fill(~edges, torch.nan)


# scores


@pytest.mark.parametrize("metric", ["loss", "kl"])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_score_of_a_node_is_its_change_times_the_gradient_at_what_it_writes(
    family: str, name: str, metric: MetricName
) -> None:
    if (name, metric) == ("eap", "kl"):  # refused
        return
    model, batch = random_transformer(family, 3), random_batch(3, (5, 7, 4))
    expected = literally.of_nodes(literal(family, 3), batch, name, metric, "corrupted", STEPS)
    method = Summed(make(name, metric), "node")
    for batch_size in (8, 2):
        agrees(score(method, model, batch, batch_size), of_edges(model.architecture.graph, expected))


@pytest.mark.parametrize("ablation", ["zero", "mean"])
@pytest.mark.parametrize("family", FAMILIES)
def test_so_it_is_under_other_ablations(family: str, ablation: AblationName) -> None:
    model, batch = random_transformer(family, 4), late(random_batch(4, (5, 7, 4)))
    expected = literally.of_nodes(literal(family, 4), batch, "eap", "prob-diff", ablation, STEPS)
    found = score(Summed(EAP("prob-diff", ablation), "node"), model, with_means(model, batch, ablation))
    agrees(found, of_edges(model.architecture.graph, expected))


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_exact_score_of_a_node_is_the_literal_one(
    family: str, metric: MetricName, ablation: AblationName
) -> None:
    model, batch = random_transformer(family, 3), random_batch(3, (5, 7, 4))
    units = literally.nodes(model.architecture.graph)
    expected = literally.exact(literal(family, 3), batch, metric, ablation, units)
    batch = with_means(model, batch, ablation)
    edges = ROUNDING[ablation]
    for batch_size in (8, 2, 1) if metric == "kl" else (3,):
        found = score(Exact(metric, ablation, "node"), model, batch, batch_size)
        assert torch.equal(found.isnan(), expected.isnan())
        assert torch.allclose(found, expected, rtol=1e-8, atol=max(1e-8, edges), equal_nan=True), (
            batch_size
        )


@pytest.mark.parametrize("qk_fix", [True, False])
@pytest.mark.parametrize("grad_drop", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_edges_of_a_node_add_up_in_each_pass_of_grad_drop(
    family: str, grad_drop: bool, qk_fix: bool
) -> None:
    model, batch = random_transformer(family, 5, 3, 2), random_batch(5, (5, 7, 4))
    units = literally.nodes(model.architecture.graph)
    expected = atp(
        random_model(family, 5, 3, 2), batch, "loss", "corrupted", qk_fix, grad_drop, units, True
    )
    for batch_size in (8, 2):
        agrees(
            score(
                AtP("loss", qk_fix=qk_fix, grad_drop=grad_drop, level="node"), model, batch, batch_size
            ),
            expected,
        )


@pytest.mark.parametrize("name", ["hisp", "activation-magnitude"])
def test_methods_that_score_nodes_anyway_give_each_edge_its_senders(name: str) -> None:
    model, batch = random_transformer("gpt2", 3), random_batch(3, (5, 7, 4))
    nodes: Scorer = HISP("loss", level="node") if name == "hisp" else ActivationMagnitude(level="node")
    edges: Scorer = HISP("loss") if name == "hisp" else ActivationMagnitude()
    found = score(nodes, model, batch)
    # an edge into the logits has its sender's score at edge level too; the input's is another matter there
    into_logits = score(edges, model, batch)[:, -1, 1:]
    graph = model.architecture.graph
    assert torch.equal(found.isnan(), ~readable(graph).expand(3, -1, -1))
    assert torch.equal(found[:, -1, 1:], into_logits)
    assert torch.equal(
        found[:, :, 1:].nan_to_num(9), of_edges(graph, found[:, -1])[:, :, 1:].nan_to_num(9)
    )
    if name == "hisp":
        sums = score(Summed(EAP("loss"), "node"), model, batch).abs()
        assert torch.allclose(found, sums, rtol=1e-10, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("family", ["gpt2", "pythia"])
def test_in_a_linear_model_attribution_is_exact_and_the_input_has_the_whole_effect(family: str) -> None:
    model, batch = linear(random_transformer(family, 5)), random_batch(5)
    expected = score(Summed(EAP("logit-diff"), "node"), model, batch)
    found = score(Exact("logit-diff", level="node"), model, batch)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6, equal_nan=True)
    assert torch.allclose(found[:, -1, 0], total_effect(model, batch, "logit-diff"), rtol=1e-5)


METHODS_OF_NODES = [
    Summed(EAPIG("loss"), "node"),
    Summed(GIM("loss"), "node"),
    Exact("loss", level="node"),
    AtP("loss", grad_drop=True, level="node"),
    HISP("loss", level="node"),
]


@pytest.mark.parametrize("method", METHODS_OF_NODES, ids=lambda method: method.name)
@pytest.mark.parametrize(("family", "dtype"), BITS)
def test_batch_size_and_threads_change_no_bit_of_a_score(
    family: str, dtype: torch.dtype, method: Scorer
) -> None:
    same_bits(method, family, dtype)


@pytest.mark.parametrize("how", ["mean", "max", "min", "rank-mean"])
def test_an_ensemble_of_nodes_combines_the_scores_of_nodes(how: str) -> None:
    model, batch = random_transformer("llama", 3), random_batch(3, (5, 7, 4))
    members = (Summed(EAP("loss"), "node"), Exact("loss", level="node"))
    found = score(Ensemble(members, how, "node"), model, batch)
    each = [score(member, model, batch)[:, -1:] for member in members]
    expected = combine(each, torch.ones_like(each[0][0], dtype=torch.bool), how)[:, 0]
    assert torch.equal(found.nan_to_num(9), of_edges(model.architecture.graph, expected).nan_to_num(9))


def test_scores_that_overflow_are_no_outcome() -> None:
    from dataclasses import replace

    model = random_transformer("gpt2", 1)
    with pytest.raises(ModelError, match="float64"):
        score(
            Exact("loss", level="node"),
            replace(model, final_gain=model.final_gain * torch.inf),
            random_batch(1),
        )


def test_a_record_names_the_level_and_what_is_summed() -> None:
    assert Summed(EAP("loss"), "node").to_dict() == {
        "name": "eap",
        "metric": "loss",
        "ablation": "corrupted",
        "score": "(ablated - clean) . gradient: positive if ablation hurts, summed over the edges that leave a node",
        "level": "node",
    }
    record = Exact("kl", level="node").to_dict()
    assert (record["level"], record["score"]) == (
        "node",
        "node ablated alone - full model: positive if it hurts",
    )
    record = ACDC(0.1, level="node").to_dict()
    assert (record["level"], record["order"]) == ("node", "nodes, from the last")


# the search


def find(model: Transformer, batch: Batch, batch_size: int = 8, **options: object) -> Found:
    return ACDC(level="node", **options).find(Problem(model, batch, batch_size))  # type: ignore[arg-type]


def agrees_with_oracle(family: str, seed: int, threshold: float, **options: object) -> bool:
    """Whether the oracle's own decisions were clear of rounding; if they were, ours are the same."""
    batch, hugging_face = random_batch(seed), Literal(random_model(family, seed))
    given = {"metric": "kl", "ablation": "corrupted", **options}
    match = given.pop("objective", "improve") == "match"
    search = literally.Search(hugging_face, batch, threshold, **given, match=match)  # type: ignore[arg-type]
    graph = hugging_face.graph
    units = [unit for unit in reversed(literally.nodes(graph)) if unit[0].sender != Node("input")]
    tested = search.run(
        sorted(units, key=lambda unit: -graph.sender_index[unit[0].sender]), lambda unit: False
    )
    rounding = ROUNDING[str(given["ablation"])]
    if search.margin <= rounding:
        return False
    model = random_transformer(family, seed)
    found = find(model, with_means(model, batch, given["ablation"]), threshold=threshold, **options)  # type: ignore[arg-type]
    left = {edge.sender for edge in search.kept} | {Node("logits")}
    assert {edge for edge in graph.edges() if found.kept[graph.order(edge)]} == {
        edge for edge in search.kept if edge.receiver.node in left
    }
    for unit, expected in tested.items():
        for edge in unit:
            assert found.scores[graph.order(edge)].item() == pytest.approx(expected, abs=rounding)
    assert found.scores[:, 0].eq(0).all()
    assert found.n_tests == len(tested)
    return True


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_node_is_decided_as_the_literal_search_decides_it(family: str, metric: str) -> None:
    for seed, threshold in ((1, 0.01), (2, 0.3), (3, 2.0)):
        assert agrees_with_oracle(family, seed, threshold, metric=metric)


@pytest.mark.parametrize("options", [{"ablation": "zero"}, {"ablation": "mean"}, {"objective": "match"}])
@pytest.mark.parametrize("family", FAMILIES)
def test_so_it_is_under_another_ablation_or_objective(family: str, options: dict[str, object]) -> None:
    assert agrees_with_oracle(family, 4, 0.2347, metric="logit-diff", **options)


def every_state(model: Transformer, batch: Batch, threshold: float) -> list[Found]:
    states: list[Found] = []
    NodeSearch(threshold).find(Problem(model, batch, 8), keeping(states, model.architecture.graph))
    return states


def same(one: Found, other: Found) -> bool:
    tensors = zip(
        (one.kept, one.scores, one.decided), (other.kept, other.scores, other.decided), strict=True
    )
    equal = all(torch.equal(a.nan_to_num(9), b.nan_to_num(9)) for a, b in tensors)
    return equal and (one.n_tests, one.n_evaluated) == (other.n_tests, other.n_evaluated)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_search_taken_up_after_any_test_ends_the_same_to_the_last_bit(family: str) -> None:
    model, batch = random_transformer(family, 8, dtype=torch.float32), random_batch(8)
    states = every_state(model, batch, 0.5)
    assert 0 < int(states[-1].kept[-1, 1:].sum()) < 6 and len(states) == 7
    for state in states:
        before = state.copy()
        assert same(NodeSearch(0.5).find(Problem(model, batch, 2), resuming(state)), states[-1])
        assert same(state, before)


@pytest.mark.parametrize(("family", "dtype"), BITS)
def test_batch_size_and_threads_change_no_bit_of_a_search(family: str, dtype: torch.dtype) -> None:
    model, batch = random_transformer(family, 7, dtype=dtype), random_batch(7, (5, 7, 4, 6, 7, 3, 5))
    expected = find(model, batch, threshold=0.3)
    before = torch.get_num_threads()
    try:
        for n_threads, batch_size in ((2, 4), (2, 3), (1, 1)):
            torch.set_num_threads(n_threads)
            assert same(find(model, batch, batch_size, threshold=0.3), expected), (n_threads, batch_size)
    finally:
        torch.set_num_threads(before)


def test_at_any_price_the_input_stays() -> None:
    model, batch = random_transformer("gpt2", 3), random_batch(3)
    graph, found = model.architecture.graph, find(model, batch, threshold=1e9)
    assert [edge for edge in graph.edges() if found.kept[graph.order(edge)]] == [
        Edge.parse("input->logits")
    ]
    assert bool(found.decided[readable(graph)].all())


def test_a_node_whose_test_comes_out_at_the_threshold_is_named() -> None:
    model, batch = random_transformer("gpt2", 3), random_batch(3)
    units, found = Units(model.architecture.graph, "node"), find(model, batch, threshold=1e9)
    score_of_m0 = float(found.scores[-1, units.graph.sender_index[Node("mlp", 0)]])
    assert list(map(str, undecidable(units, found, score_of_m0, 1e-12))) == ["m0"]


@pytest.mark.parametrize(
    "options", [{"schedule": "grouped"}, {"schedule": "screened"}, {"kv": "grouped"}]
)
def test_what_saves_tests_of_edges_is_not_for_nodes(options: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="At node level there is one schedule"):
        ACDC(0.1, level="node", **options)  # type: ignore[arg-type]
