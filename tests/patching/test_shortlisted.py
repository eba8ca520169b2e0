"""The run that a search of a shortlist starts from, against a literal one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from circuitfind.circuits.graph import Edge, Graph, Node, Receiver
from circuitfind.circuits.masks import readable
from circuitfind.methods.search.acdc import visiting_order
from circuitfind.models.transformer import unembed
from circuitfind.patching.ablation import ABLATIONS, AblationName
from circuitfind.patching.incremental import Rerun
from circuitfind.patching.reference import prepare, run_patched
from circuitfind.patching.shortlisted import Reduced, prepare_reduced
from tests.oracles.literal import Literal, ablated_outputs, run
from tests.random_models import FAMILIES, random_batch, random_model, random_transformer, with_means

LOGITS = Receiver(Node("logits"))


def draw(graph: Graph, seed: int, share: float = 0.5) -> Tensor:
    """About this share of the edges."""
    generator = torch.Generator().manual_seed(seed)
    edges = readable(graph)
    return edges & (torch.rand(edges.shape, generator=generator) < share)


def edges_of(graph: Graph, kept: Tensor) -> set[Edge]:
    return {edge for edge in graph.edges() if kept[graph.order(edge)]}


def reduced(
    family: str, seed: int, lengths: tuple[int, ...], ablation: AblationName, share: float = 0.5
) -> Reduced:
    model = random_transformer(family, seed)
    kept = draw(model.architecture.graph, seed, share)
    return prepare_reduced(
        model, with_means(model, random_batch(seed, lengths), ablation), ablation, kept
    )


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_node_writes_what_it_writes_in_the_literal_run(family: str, ablation: AblationName) -> None:
    begun, literal = reduced(family, 5, (5, 7, 4), ablation), Literal(random_model(family, 5))
    final = unembed(begun.model, at(begun.read(LOGITS), begun.batch.end))
    for prompt, end in enumerate(begun.batch.end.tolist()):
        clean, corrupted = (x[prompt, : end + 1] for x in (begun.batch.clean, begun.batch.corrupted))
        ablated = ablated_outputs(literal, clean, corrupted, ablation)
        logits, written = run(literal, clean, edges_of(begun.graph, begun.kept), ablated)
        assert torch.allclose(final[prompt], logits, atol=1e-8)
        for sender, node in enumerate(begun.graph.senders):
            change = begun.change[sender, prompt, : end + 1]
            assert torch.allclose(change, ablated[node] - written[node], atol=1e-8), str(node)


def at(x: Tensor, end: Tensor) -> Tensor:
    return x[torch.arange(len(end)), end]


@pytest.mark.parametrize("ablation", ["corrupted", "mean-positional"])
@pytest.mark.parametrize("family", FAMILIES)
def test_removing_further_edges_ends_where_a_whole_run_ends(family: str, ablation: AblationName) -> None:
    """Receiver by receiver as a search does, with tests on the way that must leave no trace."""
    begun = reduced(family, 6, (4, 7, 2), ablation, share=0.7)
    graph, rerun, left = begun.graph, Rerun(begun), begun.kept.clone()
    baseline, goes = prepare(begun.model, begun.batch, ablation), draw(begun.graph, 8, 0.3)
    for receiver in visiting_order(graph):
        row = graph.receiver_index[receiver]
        if not rerun.is_live(receiver.node) or not left[row].any():
            left[row] = False
            continue
        rerun.visit(receiver)
        trial, left[row] = left.clone(), left[row] & ~goes[row]
        removed = (trial[row] & goes[row]).nonzero().flatten().tolist()
        change = sum((rerun.removal(receiver, sender) for sender in removed), rerun.zero_change(receiver))
        before, after = rerun.what_if(receiver, torch.stack([rerun.zero_change(receiver), change]))
        assert torch.allclose(before, run_patched(baseline, trial), atol=1e-9)
        kept = [graph.senders[sender] for sender in left[row].nonzero().flatten().tolist()]
        final = rerun.commit(receiver, change, kept)
        assert torch.allclose(final, after, atol=1e-9)
        assert torch.allclose(final, run_patched(baseline, left), atol=1e-9)


@settings(max_examples=10)
@given(
    family=st.sampled_from(FAMILIES),
    seed=st.integers(1, 4),
    ablation=st.sampled_from(["corrupted", "zero"]),
)
def test_a_shortlist_of_all_edges_is_the_clean_run(
    family: str, seed: int, ablation: AblationName
) -> None:
    begun = reduced(family, seed, (5, 3), ablation, share=2.0)
    baseline = prepare(begun.model, begun.batch, ablation)
    assert torch.allclose(begun.change, baseline.change, atol=1e-9)
    for receiver in begun.graph.receivers:
        assert torch.allclose(begun.read(receiver), baseline.read(receiver), atol=1e-9), str(receiver)


def test_how_many_prompts_stand_together_changes_no_bit() -> None:
    model, batch = (
        random_transformer("llama", 7, dtype=torch.float32),
        random_batch(7, (5, 7, 4, 6, 7, 3, 5, 7)),
    )
    kept = draw(model.architecture.graph, 7)
    together = prepare_reduced(model, batch, "corrupted", kept)
    for first in (0, 4):
        rows = list(range(first, first + 4))
        part = prepare_reduced(model, batch.rows(rows), "corrupted", kept)
        assert torch.equal(part.change, together.change[:, rows])
        assert all(torch.equal(part.read(r), together.read(r)[rows]) for r in part.graph.receivers)
