"""Patched runs: the laws that any ablation of edges obeys, and a literal version that agrees."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitfind.circuits.graph import Edge, Graph
from circuitfind.circuits.masks import readable
from circuitfind.errors import UsageError
from circuitfind.models.components import visible
from circuitfind.models.forward import at_end, trace
from circuitfind.models.transformer import unembed
from circuitfind.patching.ablation import ABLATIONS, AblationName, find_ablation
from circuitfind.patching.reference import Baseline, prepare, run_patched
from circuitfind.prompts.batch import Batch
from tests.oracles.literal import Literal, ablated_outputs, run
from tests.random_models import FAMILIES, random_batch, random_model, random_transformer, with_means

every_family = pytest.mark.parametrize("family", FAMILIES)
every_ablation = pytest.mark.parametrize("ablation", ABLATIONS)


def all_kept(graph: Graph) -> torch.Tensor:
    return readable(graph)


def none_kept(graph: Graph) -> torch.Tensor:
    return torch.zeros_like(readable(graph))


def random_kept(graph: Graph, seed: int, share: float) -> torch.Tensor:
    edges = readable(graph)
    return edges & (torch.rand(edges.shape, generator=torch.Generator().manual_seed(seed)) < share)


def prepared(family: str, ablation: AblationName, dtype: torch.dtype = torch.float64) -> Baseline:
    model = random_transformer(family, 1, dtype=dtype)
    return prepare(model, with_means(model, random_batch(1), ablation), ablation)


def literal_logits(family: str, batch: Batch, kept: torch.Tensor, ablation: str) -> torch.Tensor:
    """Each prompt by itself, unpadded, through the literal model."""
    literal = Literal(random_model(family, 1))
    edges = {edge for edge in literal.graph.edges() if kept[literal.graph.order(edge)]}
    rows = []
    for i, end in enumerate(batch.end.tolist()):
        clean, corrupted = batch.clean[i, : end + 1], batch.corrupted[i, : end + 1]
        rows.append(run(literal, clean, edges, ablated_outputs(literal, clean, corrupted, ablation))[0])
    return torch.stack(rows)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@every_ablation
@every_family
def test_with_every_edge_kept_the_run_is_the_clean_run_to_the_last_bit(
    family: str, ablation: AblationName, dtype: torch.dtype
) -> None:
    baseline = prepared(family, ablation, dtype)
    assert torch.equal(run_patched(baseline, all_kept(baseline.graph)), baseline.final)


@every_family
def test_with_no_edge_kept_the_run_is_the_corrupted_run(family: str) -> None:
    baseline = prepared(family, "corrupted")
    corrupted = at_end(trace(baseline.model, baseline.batch.corrupted).final, baseline.batch.end)
    assert not torch.allclose(corrupted, baseline.final, atol=1e-3)
    assert torch.allclose(run_patched(baseline, none_kept(baseline.graph)), corrupted, atol=1e-9)


@every_family
def test_with_no_edge_kept_under_zero_ablation_only_biases_and_positions_are_left(family: str) -> None:
    baseline = prepared(family, "zero")
    model, end = baseline.model, baseline.batch.end
    biases = sum(layer.b_O + layer.b_out for layer in model.layers)
    left = biases if model.W_pos is None else biases + model.W_pos[end]
    final = run_patched(baseline, none_kept(baseline.graph))
    assert torch.allclose(final, left.expand(final.shape), atol=1e-9)


@every_family
def test_the_model_never_ablated_has_the_streams_of_hugging_face(family: str) -> None:
    tokens = random_batch(1).clean
    with torch.no_grad():
        states = random_model(family, 1)(tokens, output_hidden_states=True).hidden_states
    ours = trace(random_transformer(family, 1), tokens)
    for layer, stream in enumerate(ours.attention_in):
        assert torch.allclose(stream, states[layer], atol=1e-5)


@every_ablation
@every_family
@settings(max_examples=5, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    share=st.sampled_from([0.2, 0.5, 0.9]),
    lengths=st.lists(st.integers(2, 7), min_size=1, max_size=3),
)
def test_any_edges_kept_give_the_logits_of_the_literal_run(
    family: str, ablation: AblationName, seed: int, share: float, lengths: list[int]
) -> None:
    model, batch = random_transformer(family, 1), random_batch(seed, tuple(lengths))
    kept = random_kept(model.architecture.graph, seed, share)
    baseline = prepare(model, with_means(model, batch, ablation), ablation)
    ours = unembed(model, run_patched(baseline, kept)).log_softmax(-1)
    literal = literal_logits(family, batch, kept, ablation).log_softmax(-1)
    # rotary tables are made once in float32 by both; what else rounds is float64
    assert torch.allclose(ours, literal, atol=1e-9)
    assert float((literal.exp() * (literal - ours)).sum(-1).abs().max()) < 1e-9


@every_family
def test_a_sender_that_writes_the_same_when_ablated_can_be_removed_anywhere(family: str) -> None:
    model, batch = random_transformer(family, 1), random_batch(2)
    same = Batch(batch.clean, batch.clean.clone(), batch.end, batch.answers, batch.wrong_answers)
    baseline = prepare(model, same, "corrupted")
    for share in (0.0, 0.5):
        kept = random_kept(baseline.graph, 3, share)
        assert torch.equal(run_patched(baseline, kept), baseline.final)


def test_senders_change_from_the_first_position_where_the_prompts_differ() -> None:
    model = random_transformer("llama", 1)
    batch = random_batch(4)
    batch.corrupted[:, 0] = batch.clean[:, 0]
    change = prepare(model, batch, "corrupted").change
    assert not change[:, :, 0].any()
    assert change[:, :, 1].abs().amax(-1).amin() > 0  # every sender differs where the tokens do


@every_ablation
@every_family
def test_one_removed_edge_into_the_logits_adds_the_senders_change(
    family: str, ablation: AblationName
) -> None:
    baseline = prepared(family, ablation)
    for name in ("input->logits", "a1.h1->logits", "m0->logits"):
        place = baseline.graph.order(Edge.parse(name))
        kept = all_kept(baseline.graph)
        kept[place] = False
        expected = baseline.final + at_end(baseline.change[place[1]], baseline.batch.end)
        assert torch.allclose(run_patched(baseline, kept), expected, atol=1e-12)


@every_family
def test_an_edge_into_a_node_that_no_kept_edge_leaves_changes_nothing(family: str) -> None:
    baseline = prepared(family, "corrupted")
    graph = baseline.graph
    kept = random_kept(graph, 5, 0.8)
    head = graph.senders[2]
    kept[:, graph.sender_index[head]] = False
    without = kept.clone()
    for receiver in graph.receivers_of(head):
        without[graph.receiver_index[receiver]] = False
    assert torch.allclose(run_patched(baseline, kept), run_patched(baseline, without), atol=1e-12)


@every_family
def test_a_prompt_is_computed_as_it_is_alone(family: str) -> None:
    """Neither the prompts beside it nor the padding behind it reach it."""
    model, batch = random_transformer(family, 1), random_batch(6, (4, 7, 2))
    kept = random_kept(model.architecture.graph, 7, 0.6)
    together = run_patched(prepare(model, batch, "corrupted"), kept)
    for i, end in enumerate(batch.end.tolist()):
        row = batch.rows([i])
        alone = Batch(
            row.clean[:, : end + 1], row.corrupted[:, : end + 1], row.end, row.answers, row.wrong_answers
        )
        assert torch.allclose(
            run_patched(prepare(model, alone, "corrupted"), kept)[0], together[i], atol=1e-9
        )


def test_a_run_leaves_its_baseline_as_it_was() -> None:
    baseline = prepared("gpt2", "corrupted")
    before = [
        tensor.clone() for tensor in (baseline.change, baseline.clean.final, *baseline.clean.mlp_out)
    ]
    run_patched(baseline, random_kept(baseline.graph, 1, 0.5))
    after = [baseline.change, baseline.clean.final, *baseline.clean.mlp_out]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize("graph", [Graph(3, 2), Graph(2, 3, parallel=True)])
def test_the_mask_is_where_the_graph_has_edges(graph: Graph) -> None:
    listed = torch.zeros(len(graph.receivers), len(graph.senders), dtype=torch.bool)
    for edge in graph.edges():
        listed[graph.order(edge)] = True
    assert torch.equal(readable(graph), listed)


def test_a_query_sees_itself_and_what_came_before() -> None:
    assert visible(3, torch.device("cpu")).tolist() == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


def test_at_end_takes_each_prompts_own_answer_position() -> None:
    x = torch.arange(24.0).reshape(2, 2, 3, 2)  # batch prompt pos d
    assert at_end(x, torch.tensor([0, 2])).tolist() == [
        [[0.0, 1.0], [10.0, 11.0]],
        [[12.0, 13.0], [22.0, 23.0]],
    ]


def test_an_ablation_is_found_by_name_and_an_unknown_one_is_told_the_nearest() -> None:
    assert [find_ablation(name) for name in ABLATIONS] == list(ABLATIONS)
    with pytest.raises(UsageError, match=r"No ablation named 'corupted'\. Did you mean 'corrupted'"):
        find_ablation("corupted")
