"""Runs under any mask: those of ``run_patched``, and the same to the last bit whatever was run before."""

from __future__ import annotations

import pytest
import torch

from circuitfind.circuits.graph import Edge, Graph
from circuitfind.circuits.layout import Layout
from circuitfind.circuits.masks import readable
from circuitfind.patching.ablation import ABLATIONS, AblationName
from circuitfind.patching.masked import Runner, find_reach
from circuitfind.patching.reference import prepare, run_patched
from tests.random_models import FAMILIES, random_batch, random_transformer, with_means

every_family = pytest.mark.parametrize("family", FAMILIES)


def random_mask(graph: Graph, seed: int, share: float) -> torch.Tensor:
    edges = readable(graph)
    return (
        edges & (torch.rand(edges.shape, generator=torch.Generator().manual_seed(seed)) < share)
    ).double()


def runner(
    family: str, ablation: AblationName = "corrupted", dtype: torch.dtype = torch.float64
) -> Runner:
    model = random_transformer(family, 1, 3, 2, dtype=dtype)
    return Runner(prepare(model, with_means(model, random_batch(1), ablation), ablation))


@pytest.mark.parametrize("ablation", ABLATIONS)
@every_family
def test_a_run_is_that_of_run_patched(family: str, ablation: AblationName) -> None:
    run = runner(family, ablation)
    for seed, share in enumerate((0.05, 0.2, 0.5, 0.8, 0.97, 1.0)):
        kept = random_mask(run.baseline.graph, seed, share)
        expected = run_patched(run.baseline, kept > 0)
        assert torch.allclose(run.run(kept).final, expected, atol=1e-9), share


@every_family
def test_with_every_edge_kept_the_run_is_the_clean_run_to_the_last_bit(family: str) -> None:
    run = runner(family, dtype=torch.float32)
    outcome = run.run(run.edges.double())
    assert torch.equal(outcome.final, run.baseline.final)
    assert not outcome.excess  # nothing was computed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_family
def test_a_run_does_not_depend_on_the_runs_before_it(family: str, dtype: torch.dtype) -> None:
    run = runner(family, dtype=dtype)
    before = None
    for seed, share in enumerate((1.0, 0.9, 0.3, 0.6, 0.6, 0.1, 0.95)):
        kept = random_mask(run.baseline.graph, seed, share)
        before, afresh = run.rerun(before, kept), run.run(kept)
        assert torch.equal(before.final, afresh.final)
        assert before.excess.keys() == afresh.excess.keys()
        assert all(torch.equal(x, afresh.excess[sender]) for sender, x in before.excess.items())


@every_family
def test_what_two_runs_have_in_common_is_not_computed_again(family: str) -> None:
    run = runner(family)
    kept = random_mask(run.baseline.graph, 3, 0.9)
    before = run.run(kept)
    place = run.baseline.graph.order(Edge.parse("a2.h1->logits"))
    kept = kept.clone()
    kept[place] = 1 - kept[place]
    after = run.rerun(before, kept)
    same = [sender for sender, x in after.excess.items() if x is before.excess.get(sender)]
    assert set(after.excess) - set(same) <= {place[1]}


def test_a_half_kept_edge_is_half_way_between_kept_and_removed() -> None:
    run = runner("gpt2")
    place = run.baseline.graph.order(Edge.parse("m1->logits"))
    finals = []
    for share in (0.0, 0.5, 1.0):
        kept = random_mask(run.baseline.graph, 3, 0.9)
        kept[place] = share
        finals.append(run.run(kept).final)
    assert torch.allclose(finals[1], (finals[0] + finals[2]) / 2, atol=1e-12)
    assert not torch.allclose(finals[0], finals[2], atol=1e-3)


def test_a_node_is_live_where_kept_edges_lead_on_and_whole_where_a_key_or_value_is_read() -> None:
    graph = Graph(2, 1)
    kept = torch.zeros(readable(graph).shape, dtype=torch.float64)
    for name in ("a1.h0->logits", "m0->a1.h0<q>", "a0.h0->a1.h0<v>", "a0.h0->m0", "input->m1"):
        kept[graph.order(Edge.parse(name))] = 1
    reach = find_reach(Layout(graph), kept)
    assert graph.senders == tuple(
        map(type(graph.senders[0]).parse, ("input", "a0.h0", "m0", "a1.h0", "m1"))
    )
    assert reach.live.tolist() == [False, True, True, True, False]
    assert reach.whole.tolist() == [False, True, False, False, False]
