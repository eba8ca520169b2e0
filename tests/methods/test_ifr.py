"""Information flow routes against a literal oracle, and what flows in and out."""

from __future__ import annotations

import pytest
import torch

from circuitfind.circuits.graph import Graph, Node, Receiver
from circuitfind.circuits.masks import readable
from circuitfind.errors import UsageError
from circuitfind.methods.ifr import IFR, divide
from circuitfind.methods.settings import INPUTS
from tests.attributions import agrees, literal, same_bits, score
from tests.oracles.ifr import ifr
from tests.oracles.literal import Literal
from tests.random_models import FAMILIES, random_batch, random_model, random_transformer


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_score_is_the_literal_one(family: str, inputs: str) -> None:
    model, batch = random_transformer(family, 3), random_batch(3, (5, 7, 4))
    expected = ifr(literal(family, 3), batch, inputs)
    for batch_size in (8, 2):
        agrees(score(IFR(inputs), model, batch, batch_size), expected)


def test_heads_that_share_keys_and_values_are_the_literal_ones() -> None:
    model, batch = random_transformer("llama", 4, 2, 4), random_batch(4, (6, 3))
    agrees(score(IFR(), model, batch), ifr(Literal(random_model("llama", 4, 2, 4)), batch, "qkv"))


@pytest.mark.parametrize(
    ("family", "dtype"), [("gpt2", torch.float32), ("llama", torch.float32), ("pythia", torch.float64)]
)
def test_batch_size_and_threads_change_no_bit(family: str, dtype: torch.dtype) -> None:
    same_bits(IFR(), family, dtype)


def importances(graph: Graph, scores: torch.Tensor) -> dict[Node, torch.Tensor]:
    """What flows out of each sender, on each prompt."""
    return {sender: scores[:, :, i].nansum(-1) for i, sender in enumerate(graph.senders)}


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_flows_into_a_node_is_what_flows_out_of_it_and_all_ends_in_the_input(
    family: str, inputs: str
) -> None:
    model, batch = random_transformer(family, 5, 3, 2), random_batch(5)
    graph, scores = model.architecture.graph, score(IFR(inputs), model, batch)
    out = importances(graph, scores)
    assert torch.allclose(scores[:, -1].sum(-1), torch.ones(3).double())
    assert torch.allclose(out[Node("input")], torch.ones(3).double())
    for node in graph.senders[1:]:
        rows = [graph.receiver_index[receiver] for receiver in graph.receivers_of(node)]
        assert torch.allclose(scores[:, rows].nansum((1, 2)), out[node])
    assert scores.nan_to_num(0).min() >= 0


def test_the_three_inputs_of_a_head_have_a_third_each_or_v_has_all() -> None:
    model, batch = random_transformer("gpt2", 6), random_batch(6)
    graph = model.architecture.graph
    for node in (Node("head", 1, 0), Node("head", 0, 1)):
        q, k, v = (graph.receiver_index[receiver] for receiver in graph.receivers_of(node))
        thirds = score(IFR(), model, batch)[:, [q, k, v]].nansum(-1)
        assert torch.allclose(thirds, thirds[:, :1].expand(-1, 3))
        alone = score(IFR("v"), model, batch)[:, [q, k, v]].nansum(-1)
        assert alone[:, :2].eq(0).all() and alone[:, 2].gt(0).any()


def test_what_stands_behind_the_answer_changes_nothing() -> None:
    model, batch = random_transformer("llama", 7), random_batch(7, (5, 7))
    batch.clean[0, 5:] = 3
    changed = score(IFR(), model, batch)
    batch.clean[0, 5:] = 8
    assert torch.equal(changed.nan_to_num(9), score(IFR(), model, batch).nan_to_num(9))


def test_a_part_counts_by_how_near_it_is_to_the_sum() -> None:
    # |whole| = 7; the distances are |(-1, -1, 0)| = 2, |(-1, -3, -2)| = 6 and |(-2, -1, 0)| = 3.
    parts = torch.tensor([[1.0, 2, 2], [1, 0, 0], [0, 2, 2]]).double().unsqueeze(1)
    whole = torch.tensor([[2.0, 3, 2]]).double()
    near = [7 - 2, 7 - 6, 7 - 3]
    assert torch.allclose(divide(parts, whole).squeeze(1), torch.tensor(near).double() / 10)


def test_where_no_part_is_near_all_share_alike() -> None:
    parts = torch.tensor([[100.0, 0.5], [-99.0, 0.5]]).double().unsqueeze(1)
    assert divide(parts, parts.sum(0)).flatten().tolist() == [0.5, 0.5]


def test_there_is_a_score_for_every_edge_and_nothing_else() -> None:
    model = random_transformer("pythia", 1)
    scores = score(IFR(), model, random_batch(1))
    assert torch.equal(~scores.isnan(), readable(model.architecture.graph).expand(3, -1, -1))
    assert scores[:, model.architecture.graph.receiver_index[Receiver(Node("logits"))]].gt(0).any()


def test_other_inputs_are_refused() -> None:
    with pytest.raises(UsageError, match="inputs=kv: it must be qkv or v"):
        IFR("kv")


def test_the_record_says_that_there_is_no_metric_and_no_ablation() -> None:
    record = IFR("v").to_dict()
    assert "no metric, no ablation" in record.pop("score")
    assert record == {"name": "ifr", "inputs": "v", "metric": None, "ablation": None}
