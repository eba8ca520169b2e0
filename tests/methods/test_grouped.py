"""The grouped schedule against a literal oracle, edge for edge, and the laws that it obeys."""

from __future__ import annotations

import pytest

from circuitfind.batch import Batch
from circuitfind.graph import Edge, Graph
from circuitfind.methods.found import Found
from circuitfind.methods.grouped import Grouped
from circuitfind.metrics import METRICS, MetricName
from circuitfind.patching import AblationName
from circuitfind.progress import Silent
from circuitfind.transformer import Transformer
from tests.oracles.grouped import Search
from tests.oracles.literal import Literal
from tests.random_models import FAMILIES, random_batch, random_model, random_transformer

ROUNDING = 1e-9


def find(model: Transformer, batch: Batch, batch_size: int = 8, **options: object) -> Found:
    return Grouped(**options).find(model, batch, batch_size, Silent())  # type: ignore[arg-type]


def kept_edges(graph: Graph, found: Found) -> set[Edge]:
    return {edge for edge in graph.edges() if found.kept[graph.order(edge)]}


def agrees_with_oracle(
    family: str,
    seed: int,
    threshold: float,
    metric: MetricName = "kl",
    ablation: AblationName = "corrupted",
    match: bool = False,
) -> bool:
    """Whether the oracle's own decisions were clear of rounding; if they were, ours are the same."""
    batch, literal = random_batch(seed), Literal(random_model(family, seed))
    outcome = Search(literal, batch, threshold, metric, ablation, match).search()
    if outcome.margin <= ROUNDING:
        return False
    model = random_transformer(family, seed)
    found = find(model, batch, threshold=threshold, metric=metric, ablation=ablation, match=match)
    assert kept_edges(literal.graph, found) == outcome.kept
    assert (found.n_tests, found.n_evaluated) == (len(outcome.groups), outcome.n_evaluated)
    for edge in literal.graph.edges():
        expected = outcome.scores.get(edge, 0.0)
        assert found.scores[literal.graph.order(edge)].item() == pytest.approx(expected, abs=1e-7, rel=1e-6)
    return True


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_edge_is_decided_as_the_literal_schedule_decides_it(family: str, metric: MetricName) -> None:
    agreed = [agrees_with_oracle(family, seed, threshold, metric) for seed, threshold in ((1, 0.003), (2, 0.05))]
    assert all(agreed)
