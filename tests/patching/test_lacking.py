"""Parts of a circuit, and the full model without some nodes, come out as whole runs of each by itself."""

from __future__ import annotations

import pytest
import torch

from circuitfind.circuits.graph import Node
from circuitfind.circuits.masks import readable
from circuitfind.evaluation.meter import heads_and_mlps, knock_out
from circuitfind.patching.ablation import AblationName
from circuitfind.patching.lacking import Lacking
from circuitfind.patching.one_change import Onward, join_reads
from circuitfind.patching.reference import prepare, run_patched
from circuitfind.patching.shortlisted import prepare_reduced
from tests.random_models import FAMILIES, random_batch, random_transformer, with_means

ABLATIONS = ("corrupted", "zero", "mean")


def some(edges: torch.Tensor, share: float, seed: int) -> torch.Tensor:
    return edges & (torch.rand(edges.shape, generator=torch.Generator().manual_seed(seed)) < share)


def some_nodes(nodes: tuple[Node, ...], share: float, seed: int) -> list[Node]:
    drawn = torch.rand(len(nodes), generator=torch.Generator().manual_seed(seed)) < share
    return [node for node, is_drawn in zip(nodes, drawn.tolist(), strict=True) if is_drawn]


@pytest.mark.parametrize("share", [0.15, 0.5, 0.9])
@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_circuit_without_some_edges_is_what_a_whole_run_of_it_is(
    family: str, ablation: AblationName, share: float
) -> None:
    model = random_transformer(family, 3, 3, 2)
    batch = with_means(model, random_batch(4, (5, 7, 4, 6)), ablation)
    baseline = prepare(model, batch, ablation)
    edges = readable(baseline.graph)
    kept, lacking = (
        (circuit := some(edges, share, 1)),
        Lacking(prepare_reduced(model, batch, ablation, circuit)),
    )
    nodes = heads_and_mlps(baseline.graph, kept)
    missing = [some(kept, 0.12 * i, i) for i in range(8)]  # the first misses nothing
    missing += [
        kept & ~knock_out(baseline.graph, kept, some_nodes(nodes, 0.4, seed)) for seed in range(4)
    ]
    missing.append(kept & ~knock_out(baseline.graph, kept, [Node("input")]))
    found = lacking.finals([edges.numpy() for edges in missing])
    expected = torch.stack([run_patched(baseline, kept & ~edges) for edges in missing])
    assert torch.allclose(found, expected, atol=1e-6 if ablation == "zero" else 1e-9)
    assert torch.equal(found, torch.cat([lacking.finals([edges.numpy()]) for edges in missing]))
    assert torch.equal(found[0], lacking.baseline.final)


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_without_some_nodes_is_what_a_whole_run_of_it_is(
    family: str, ablation: AblationName
) -> None:
    model = random_transformer(family, 3, 3, 2)
    baseline = prepare(model, with_means(model, random_batch(4, (5, 7, 4, 6)), ablation), ablation)
    onward, edges = Onward(baseline, join_reads(model)), readable(baseline.graph)
    nodes = heads_and_mlps(baseline.graph, edges)
    sets = [[], *(some_nodes(nodes, 0.3, seed) for seed in range(6)), *([node] for node in nodes)]
    found = onward.knock_out(sets)
    expected = torch.stack([run_patched(baseline, knock_out(baseline.graph, edges, out)) for out in sets])
    assert torch.allclose(found, expected, atol=1e-9)
    assert torch.equal(found, torch.cat([onward.knock_out([out]) for out in sets]))
