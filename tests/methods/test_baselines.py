"""The baselines against literal oracles, and that chance is the same everywhere."""

from __future__ import annotations

import pytest
import torch

from circuitfind.circuits.graph import Node
from circuitfind.circuits.masks import readable
from circuitfind.errors import UsageError
from circuitfind.methods.baselines import HISP, ActivationMagnitude, Random, random_order
from circuitfind.metrics.measures import MetricName
from circuitfind.patching.ablation import ABLATIONS, AblationName
from tests.attributions import Scorer, agrees, literal, same_bits, score
from tests.oracles.baselines import hisp, magnitude
from tests.random_models import FAMILIES, random_batch, random_transformer, with_means

BITS = [("gpt2", torch.float32), ("llama", torch.float32), ("pythia", torch.float64)]


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("metric", ["logit-diff", "prob-diff", "loss"])
@pytest.mark.parametrize("family", FAMILIES)
def test_head_importance_is_the_literal_one(
    family: str, metric: MetricName, ablation: AblationName
) -> None:
    model, batch = random_transformer(family, 3), random_batch(3, (5, 7, 4))
    expected, batch = (
        hisp(literal(family, 3), batch, metric, ablation),
        with_means(model, batch, ablation),
    )
    for batch_size in (8, 2):
        agrees(score(HISP(metric, ablation), model, batch, batch_size), expected)


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_activation_magnitude_is_the_literal_one(family: str, ablation: AblationName) -> None:
    model, batch = random_transformer(family, 3), random_batch(3, (5, 7, 4))
    expected, batch = magnitude(literal(family, 3), batch, ablation), with_means(model, batch, ablation)
    for batch_size in (8, 2):
        agrees(score(ActivationMagnitude(ablation), model, batch, batch_size), expected)


@pytest.mark.parametrize("method", [HISP("loss"), ActivationMagnitude(), ActivationMagnitude("zero")])
@pytest.mark.parametrize(("family", "dtype"), BITS)
def test_batch_size_and_threads_change_no_bit(family: str, dtype: torch.dtype, method: Scorer) -> None:
    same_bits(method, family, dtype)


@pytest.mark.parametrize("method", [HISP("loss"), ActivationMagnitude()])
def test_the_best_edges_are_those_between_the_best_nodes(method: Scorer) -> None:
    model, batch = random_transformer("gpt2", 1, 3, 2), random_batch(1, (5,))
    graph, (scores,) = model.architecture.graph, score(method, model, batch)
    assert torch.equal(~scores.isnan(), readable(graph))
    nodes = graph.senders[1:]
    values = {node: float(scores[-1, graph.sender_index[node]]) for node in nodes}
    for n_best in range(1, len(nodes) + 1):
        best = sorted(nodes, key=values.__getitem__)[-n_best:]
        among = {Node("input"), Node("logits"), *best}
        bar = min(values[node] for node in best)
        chosen = {edge for edge in graph.edges() if scores[graph.order(edge)] >= bar}
        assert chosen == {
            edge for edge in graph.edges() if edge.sender in among and edge.receiver.node in among
        }


def test_head_importance_refuses_kl() -> None:
    with pytest.raises(UsageError, match=r"clean run.*zero[\s\S]*--metric logit-diff"):
        HISP("kl")


def test_chance_gives_every_edge_a_place_of_its_own_in_one_row() -> None:
    model, n_edges = (
        random_transformer("llama", 1),
        random_transformer("llama", 1).architecture.graph.n_edges,
    )
    scores = score(Random(), model, random_batch(1))
    assert scores.shape[0] == 1 and not Random.per_prompt
    assert torch.equal(~scores[0].isnan(), readable(model.architecture.graph))
    places = (scores[~scores.isnan()] * n_edges).sort().values
    assert torch.allclose(places, torch.arange(1.0, n_edges + 1).double())


def test_chance_depends_on_the_seed_and_on_nothing_else() -> None:
    model = random_transformer("gpt2", 1)
    first = score(Random(3), model, random_batch(1), 8).nan_to_num(9)
    assert torch.equal(
        first, score(Random(3), random_transformer("gpt2", 2), random_batch(2), 1).nan_to_num(9)
    )
    assert not torch.equal(first, score(Random(4), model, random_batch(1)).nan_to_num(9))


def test_the_order_of_a_seed_is_the_same_everywhere() -> None:
    assert random_order(10, 0) == [3, 7, 5, 2, 8, 4, 9, 1, 6, 0]
    assert random_order(10, 1) == [9, 8, 0, 3, 5, 4, 6, 2, 7, 1]


def test_the_records_say_what_has_no_metric_and_no_ablation() -> None:
    records = [
        method.to_dict() for method in (HISP("loss", "zero"), ActivationMagnitude("zero"), Random(7))
    ]
    assert all("never negative" in record.pop("score") for record in records)
    assert records == [
        {"name": "hisp", "metric": "loss", "ablation": "zero"},
        {"name": "activation-magnitude", "metric": None, "ablation": "zero"},
        {"name": "random", "seed": 7, "metric": None, "ablation": None},
    ]
