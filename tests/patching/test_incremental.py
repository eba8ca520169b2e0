"""Running again only what a change reaches gives what a whole patched run gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitfind.circuits.graph import Graph, Node, Receiver
from circuitfind.circuits.masks import readable
from circuitfind.methods.search.acdc import visiting_order
from circuitfind.patching.ablation import AblationName
from circuitfind.patching.blocks import Rows
from circuitfind.patching.incremental import Rerun
from circuitfind.patching.reference import Baseline, prepare, run_patched
from circuitfind.prompts.batch import Batch
from tests.random_models import FAMILIES, random_batch, random_transformer

LOGITS = Receiver(Node("logits"))


def baseline_of(
    family: str, seed: int, shape: tuple[int, int], lengths: tuple[int, ...], ablation: AblationName
) -> Baseline:
    return prepare(random_transformer(family, seed, *shape), random_batch(seed, lengths), ablation)


def total(rerun: Rerun, receiver: Receiver, removed: list[int]) -> torch.Tensor:
    """The change of the receiver's input when these edges are removed."""
    return sum((rerun.removal(receiver, sender) for sender in removed), rerun.zero_change(receiver))


def draw(
    graph: Graph, receiver: Receiver, share: float, generator: torch.Generator
) -> tuple[list[int], list[Node]]:
    """Which senders' edges go, and which senders' stay."""
    goes = (torch.rand(graph.n_readable(receiver), generator=generator) < share).tolist()
    removed = [sender for sender, gone in enumerate(goes) if gone]
    return removed, [graph.senders[sender] for sender, gone in enumerate(goes) if not gone]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    family=st.sampled_from(FAMILIES),
    shape=st.sampled_from([(1, 1), (2, 2), (3, 2)]),
    choice=st.integers(0, 10**6),
    share=st.sampled_from([0.0, 0.3, 0.7, 0.95]),
    lengths=st.sampled_from([(5,), (4, 7, 2), (3, 3, 6, 5)]),
    ablation=st.sampled_from(["corrupted", "zero"]),
)
def test_removing_edges_receiver_by_receiver_ends_where_a_whole_run_ends(
    family: str,
    shape: tuple[int, int],
    choice: int,
    share: float,
    lengths: tuple[int, ...],
    ablation: AblationName,
) -> None:
    baseline = baseline_of(family, 1, shape, lengths, ablation)
    graph, rerun = baseline.graph, Rerun(baseline)
    generator = torch.Generator().manual_seed(choice)
    kept = readable(graph)
    for receiver in visiting_order(graph):
        row = graph.receiver_index[receiver]
        if not rerun.is_live(receiver.node):
            assert receiver.node.kind == "logits" or not kept[:, graph.sender_index[receiver.node]].any()
            kept[row] = False
            continue
        removed, stay = draw(graph, receiver, share, generator)
        kept[row, removed] = False
        rerun.visit(receiver)
        final = rerun.commit(receiver, total(rerun, receiver, removed), stay)
        assert torch.allclose(final, run_patched(baseline, kept), atol=1e-9)


@pytest.mark.parametrize("ablation", ["corrupted", "zero"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_chain_of_tests_gives_what_each_whole_run_gives_and_changes_nothing(
    family: str, ablation: AblationName
) -> None:
    baseline = baseline_of(family, 2, (2, 2), (4, 7, 2), ablation)
    graph, rerun = baseline.graph, Rerun(baseline)
    generator = torch.Generator().manual_seed(0)
    kept = readable(graph)
    for receiver in visiting_order(graph):
        row = graph.receiver_index[receiver]
        if not rerun.is_live(receiver.node):
            kept[row] = False
            continue
        rerun.visit(receiver)
        chain = list(reversed(range(graph.n_readable(receiver))))
        changes = [total(rerun, receiver, chain[:n]) for n in range(len(chain) + 1)]
        finals = rerun.what_if(receiver, torch.stack(changes))
        for n, final in enumerate(finals):
            trial = kept.clone()
            trial[row, chain[:n]] = False
            assert torch.allclose(final, run_patched(baseline, trial), atol=1e-9), (str(receiver), n)
        assert torch.allclose(
            finals[0], run_patched(baseline, kept), atol=1e-9
        )  # the tests left the run as it was
        removed, stay = draw(graph, receiver, 0.4, generator)
        kept[row, removed] = False
        rerun.commit(receiver, total(rerun, receiver, removed), stay)


def test_before_anything_is_removed_the_run_is_the_clean_one() -> None:
    baseline = baseline_of("gpt2", 1, (2, 2), (4, 7, 2), "corrupted")
    rerun = Rerun(baseline)
    rerun.visit(LOGITS)
    nothing = rerun.zero_change(LOGITS)
    assert torch.equal(rerun.what_if(LOGITS, nothing.unsqueeze(0))[0], baseline.final)
    assert torch.equal(rerun.commit(LOGITS, nothing, baseline.graph.senders), baseline.final)


def test_a_node_lives_once_a_kept_edge_leaves_it_towards_a_visited_receiver() -> None:
    rerun = Rerun(baseline_of("gpt2", 1, (2, 2), (4, 7), "corrupted"))
    head, other = Node("head", 1, 0), Node("head", 1, 1)
    assert rerun.is_live(LOGITS.node) and not rerun.is_live(head)
    rerun.visit(LOGITS)
    rerun.commit(LOGITS, rerun.zero_change(LOGITS), [head])
    assert rerun.is_live(head) and not rerun.is_live(other)


def test_what_reaches_only_the_answer_position_is_computed_there_alone() -> None:
    """With nothing kept but edges into q and the logits, no input holds more than a row a prompt."""
    baseline = baseline_of("llama", 1, (2, 2), (4, 7), "corrupted")
    rerun = Rerun(baseline)
    last, q = Node("head", 1, 0), Receiver(Node("head", 1, 0), "q")
    rerun.visit(LOGITS)
    rerun.commit(LOGITS, rerun.zero_change(LOGITS), [last])
    assert len(rerun.zero_change(LOGITS)) == baseline.batch.n_prompts
    rerun.visit(q)
    assert len(rerun.zero_change(q)) == baseline.batch.n_prompts
    k = Receiver(last, "k")
    rerun.visit(k)
    assert len(rerun.zero_change(k)) > baseline.batch.n_prompts


def test_no_row_lies_before_the_first_change_or_behind_the_answer() -> None:
    """Tokens 1 and 3 of the first prompt change, token 0 of the second; the third has nothing to change."""
    clean = torch.tensor([[5, 1, 5, 2, 5, 5], [1, 5, 5, 5, 5, 5], [5, 5, 5, 5, 5, 5]])
    corrupted = torch.tensor([[5, 3, 5, 4, 5, 5], [2, 5, 5, 5, 5, 5], [5, 5, 5, 5, 5, 5]])
    batch = Batch(clean, corrupted, torch.tensor([4, 2, 3]), ((1,),) * 3, ((2,),) * 3)
    rows = Rows(batch, "corrupted")
    assert rows.places.tolist() == [1, 2, 3, 4, 6, 7, 8, 15]
    assert rows.ends.tolist() == [3, 6, 7]
    assert rows.positions.tolist() == [1, 2, 3, 4, 0, 1, 2, 3]
    assert Rows(batch, "zero").places.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 12, 13, 14, 15]


def test_rows_are_made_up_to_whole_groups_by_repeating_the_last() -> None:
    batch = Batch(
        torch.tensor([[1, 2, 3]]), torch.tensor([[1, 4, 3]]), torch.tensor([2]), ((1,),), ((2,),)
    )
    rows = Rows(batch, "corrupted")
    assert rows.places.tolist() == [1, 2, 2, 2] and rows.ends.tolist() == [1]
    x = torch.arange(6.0).reshape(1, 3, 2)
    assert torch.equal(
        rows.put(rows.take(x) + 10, x), torch.tensor([[[0.0, 1.0], [12.0, 13.0], [14.0, 15.0]]])
    )


def test_a_test_comes_out_the_same_to_the_last_bit_whatever_stands_beside_it() -> None:
    model = random_transformer("llama", 3, dtype=torch.float32)
    rerun = Rerun(prepare(model, random_batch(3, (4, 7, 5, 6)), "corrupted"))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for receiver in visiting_order(model.architecture.graph):
            rerun.visit(receiver)
            n = model.architecture.graph.n_readable(receiver)
            changes = torch.stack([rerun.removal(receiver, sender) for sender in range(n)])
            together = rerun.what_if(receiver, changes)
            for place in range(n):
                alone = rerun.what_if(receiver, changes[[place]])
                assert torch.equal(alone[0], together[place]), (str(receiver), place)
            rerun.commit(receiver, rerun.zero_change(receiver), model.architecture.graph.senders[:n])
    finally:
        torch.set_num_threads(before)
