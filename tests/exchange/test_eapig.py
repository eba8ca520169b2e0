"""EAP-IG's and MIB's graph files: what their own code wrote is read, and what is written comes back."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
import torch
from exchange.made import FIXTURES, GRAPHS, draw_edges, same
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitfind.circuits.graph import Edge, Graph
from circuitfind.errors import CircuitError
from circuitfind.exchange import eapig
from circuitfind.exchange.readers import read_circuit

CONFIG = {"n_layers": 1, "n_heads": 1, "parallel_attn_mlp": False, "d_model": 8}


def load(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=True)


def content(**changes: Any) -> dict[str, Any]:
    """A small json file's content: one head, one MLP."""
    edges = {
        "input->m0": {"score": 0.5, "in_graph": True},
        "m0->logits": {"score": -2.0, "in_graph": True},
    }
    return {"cfg": CONFIG, "nodes": {"input": {"in_graph": True}}, "edges": edges} | changes


@pytest.mark.parametrize("shape", ["2x2", "2x2-parallel"])
def test_files_that_eap_ig_wrote_are_read_and_json_comes_out_to_the_byte(shape):
    format, from_json = read_circuit(FIXTURES / f"eap-ig-{shape}.json")
    assert format == "eap-ig-json" and from_json.notes == ()
    graph = from_json.edges.graph
    assert graph == Graph(2, 2, shape.endswith("parallel")) and from_json.edges.is_complete
    assert eapig.write_json(from_json.edges) == (FIXTURES / f"eap-ig-{shape}.json").read_bytes()
    format, from_pt = read_circuit(FIXTURES / f"eap-ig-{shape}.pt")
    assert format == "eap-ig-pt" and same(from_pt.edges, from_json.edges)
    theirs = torch.load(FIXTURES / f"eap-ig-{shape}.pt", weights_only=True)
    ours = load(eapig.write_pt(from_pt.edges))
    assert list(ours) == list(theirs)
    for key, value in theirs.items():
        assert torch.equal(ours[key], value) if isinstance(value, torch.Tensor) else ours[key] == value


def test_a_score_stands_at_its_sender_and_receiver():
    edges = draw_edges(Graph(2, 2))
    place = edges.graph.order(Edge.parse("a0.h1->a1.h0<k>"))
    stored = load(eapig.write_pt(edges))
    sender, receiver = stored["src_nodes"].index("a0.h1"), stored["dst_nodes"].index("a1.h0<k>")
    assert stored["edges_scores"][sender, receiver] == edges.scores[place]
    assert json.loads(eapig.write_json(edges))["edges"]["a0.h1->a1.h0<k>"]["score"] == edges.scores[place]


@given(GRAPHS, st.integers(0, 99), st.booleans())
@settings(max_examples=12)
def test_what_is_written_comes_back_to_the_bit(graph, seed, by_node):
    edges = draw_edges(graph, seed, by_node)
    assert same(eapig.read_json(json.loads(eapig.write_json(edges)), "json").edges, edges)
    assert same(eapig.read_pt(load(eapig.write_pt(edges)), "pt").edges, edges)
    assert eapig.write_pt(edges) == eapig.write_pt(edges)


def test_a_circuit_that_eap_ig_chose_by_nodes_has_their_scores_and_no_edge_that_there_is_not():
    stored = torch.load(FIXTURES / "eap-ig-nodes.pt", weights_only=True)
    read = read_circuit(FIXTURES / "eap-ig-nodes.pt")[1]
    edges = read.edges
    assert edges.by_node and eapig.LOST_NEURONS in read.notes
    assert int(stored["edges_in_graph"].sum()) > int(edges.kept.sum()) > 0
    np.testing.assert_array_equal(edges.scores[-1], stored["nodes_scores"].double().numpy())


def test_older_files_and_circuits_without_scores_are_read():
    older = content(nodes={"input": True, "m0": True})
    older["edges"]["input->logits"] = {"score": None, "in_graph": False}
    read = eapig.read_json(older, "older")
    assert int(read.edges.kept.sum()) == 2 and np.isnan(read.edges.scores[-1, 0])
    of_names = content(nodes=["input", "m0"], edges={"input->m0": {"in_graph": True}})
    assert eapig.read_json(of_names, "mib").edges.scores[3, 0] == 1.0
    pt = load(eapig.write_pt(draw_edges(Graph(1, 1))))
    pt["edges"], pt["src_nodes"] = pt.pop("edges_scores"), dict.fromkeys(pt["src_nodes"], True)
    assert same(eapig.read_pt(pt, "older").edges, draw_edges(Graph(1, 1)))


def edge(name: str, said: Any) -> dict[str, Any]:
    return content(edges={name: said})


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (
            edge("a5.h0->logits", {"score": 1, "in_graph": True}),
            "'a5.h0->logits' cannot exist in 1 layers of 1 heads",
        ),
        (edge("m0->a0.h0<q>", {"score": 1, "in_graph": True}), "reads what comes later"),
        (edge("a0.h0", {"score": 1, "in_graph": True}), "'a0.h0' is no edge"),
        (edge("input->m0@END", {"score": 1, "in_graph": True}), "cannot exist"),
        (
            edge("input->m0", {"score": float("nan"), "in_graph": False}),
            'edges.input->m0.score" is nan; it must be a number',
        ),
        (edge("input->m0", {"score": 10**400, "in_graph": False}), "it must be smaller"),
        (edge("input->m0", {"score": None, "in_graph": True}), "has the score nan"),
        (edge("input->m0", 0.5), '"edges.input->m0" is 0.5; it must be an object'),
        (
            content(nodes={"a0.h7": {"in_graph": True}}),
            "the node 'a0.h7' cannot exist in a model of 1 layers",
        ),
        (content(nodes=[["input"]]), r'"nodes.0" is \[.input.\]; it must be a text'),
        (content(nodes={"input": {"score": "x"}}), "\"nodes.input.score\" is 'x'; it must be a number"),
        (content(nodes=3), '"nodes" is 3; it must be'),
        (
            content(cfg=CONFIG | {"n_layers": 10**6}),
            '"cfg.n_layers" is 1000000; .* of at most 200,000',
        ),
        (content(cfg=CONFIG | {"n_layers": 9000, "n_heads": 9}), "no model has so many"),
        (content(cfg=CONFIG | {"n_heads": "1"}), "\"cfg.n_heads\" is '1'; it must be a whole number"),
        (content(cfg=[]), '"cfg" is an empty list; it must be an object'),
    ],
)
def test_a_json_that_is_wrong_is_refused_with_what_is_wrong(wrong, says):
    with pytest.raises(CircuitError, match=says):
        eapig.read_json(wrong, "file")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cfg": CONFIG | {"n_layers": 2}}, r"its src_nodes have 3 names; a model of its cfg has 5"),
        ({"src_nodes": ["input", "m0", "a0.h0"]}, "'m0' where 'a0.h0' belongs"),
        ({"dst_nodes": None}, "lacks dst_nodes"),
        ({"edges_scores": torch.zeros(5, 3)}, r"has the shape \[5, 3\]; its cfg asks for \[3, 5\]"),
        ({"edges_scores": torch.zeros(1, 1).expand(10**6, 10**6)}, "has the shape"),
        ({"edges_scores": torch.full((3, 5), torch.nan)}, "'input->a0.h0<q>' has the score nan"),
        ({"edges_scores": "many"}, "is no tensor"),
        ({"edges_in_graph": torch.zeros(3, 5).to_sparse()}, "is no tensor"),
    ],
)
def test_a_pt_that_is_wrong_is_refused_with_what_is_wrong(changes, says):
    with pytest.raises(CircuitError, match=says):
        eapig.read_pt(load(eapig.write_pt(draw_edges(Graph(1, 1)))) | changes, "file")
