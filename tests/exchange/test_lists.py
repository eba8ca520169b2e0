"""Edges by name, ACDC's and Edge-Pruning's, and AutoCircuit's scores by module."""

from __future__ import annotations

import ast
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exchange.made import FIXTURES, GRAPHS, draw_edges, same_scores
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitfind.circuits.graph import Edge, Graph
from circuitfind.errors import CircuitError
from circuitfind.exchange import acdc, autocircuit, edgepruning
from circuitfind.exchange.acdc_names import all_keys, edge_of, key_of
from circuitfind.exchange.edges import ScoredEdges
from circuitfind.exchange.readers import read_circuit
from circuitfind.exchange.shape import parse_shape

SHAPE = Graph(2, 2)
HEAD = ("blocks.1.hook_k_input", (None, None, 0), "blocks.0.attn.hook_result", (None, None, 1))


def load(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=True)


def kept(edges: ScoredEdges) -> list[str]:
    names = [(e, edges.kept[edges.graph.order(e)]) for e in edges.graph.edges()]
    return [str(edge) for edge, is_kept in names if is_kept]


def test_an_edge_has_the_names_of_acdcs_hooks():
    assert key_of(Edge.parse("a0.h1->a1.h0<k>"), SHAPE) == HEAD
    assert key_of(Edge.parse("input->logits"), SHAPE) == (
        "blocks.1.hook_resid_post", (None,), "blocks.0.hook_resid_pre", (None,),
    )  # fmt: skip
    assert (
        edge_of(("blocks.0.attn.hook_q", (None, None, 0), "blocks.0.hook_q_input", (None, None, 0)))
        is None
    )


def test_the_edges_of_acdcs_own_graph_are_those_of_ours():
    theirs = {ast.literal_eval(line) for line in (FIXTURES / "acdc-2x2.txt").read_text().splitlines()}
    assert set(all_keys(SHAPE)) == theirs
    edges = [edge for key in theirs if (edge := edge_of(key)) is not None]
    assert len(edges) == SHAPE.n_edges == len(set(edges))


@given(GRAPHS, st.integers(0, 99))
@settings(max_examples=10)
def test_lists_come_back(graph, seed):
    edges = draw_edges(graph, seed)
    known = np.where(edges.kept, edges.scores, np.nan)
    for read, data in (
        (acdc.read_list, json.loads(acdc.write_list(edges))),
        (acdc.read_text, acdc.write_text(edges).decode()),
    ):
        back = read(data, "file", graph).edges
        assert (back.kept == edges.kept).all() and np.array_equal(back.scores, known, equal_nan=True)
    for back in (
        acdc.read_subgraph(load(acdc.write_subgraph(edges)), "file", graph).edges,
        edgepruning.read_list(json.loads(edgepruning.write_list(edges)), "file", graph).edges
        if edges.kept[:, 0].any()
        else edges,
        autocircuit.read_scores(load(autocircuit.write_scores(edges)), "file").edges,
    ):
        assert back.graph == graph
        assert (back.kept == edges.kept).all() or (same_scores(back, edges) and not back.kept.any())


def test_a_subgraph_tells_the_shape_of_its_model():
    edges = draw_edges(SHAPE)
    assert acdc.read_subgraph(load(acdc.write_subgraph(edges)), "file").edges.graph == SHAPE


@pytest.mark.parametrize(
    "text",
    [
        "[(('blocks.1.hook_k_input', [:, :, 0], 'blocks.0.attn.hook_result', [:, :, 1]), 0.25)]",  # printed
        "[(('blocks.1.hook_k_input', TorchIndex([None, None, 0]), 'blocks.0.attn.hook_result', "
        "TorchIndex([None, None, 1])) , 0.25 ),]",  # as in ACDC's tests
        "OrderedDict([((\"blocks.1.hook_k_input\", (None, None, 0), 'blocks.0.attn.hook_result', (None, None, 1)), "
        "0.25), (('blocks.1.attn.hook_k', (None, None, 0), 'blocks.1.hook_k_input', (None, None, 0)), True)])",
    ],
)
def test_every_way_that_acdcs_edges_are_spelled_is_read(text):
    read = acdc.read_text(text, "file", SHAPE).edges
    assert kept(read) == ["a0.h1->a1.h0<k>"] and read.scores[read.kept] == [0.25]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("blocks.1.hook_k_input", [None, None, 5], *HEAD[2:]), "'a0.h1->a1.h5<k>' cannot exist"),
        (("blocks.0.hook_k_input", [None, None, 0], *HEAD[2:]), "reads what comes later"),
        (("blocks.1.hook_k_input", [None], *HEAD[2:]), r"no receiver blocks.1.hook_k_input\[:\]"),
        ((*HEAD[:2], "blocks.0.hook_resid_post", [None]), "no sender blocks.0.hook_resid_post"),
        (("blocks.0.hook_resid_post", [None], *HEAD[2:]), "is not the end of a model of 2 layers"),
    ],
)
def test_an_edge_that_acdc_has_not_is_refused(names, says):
    with pytest.raises(CircuitError, match=says):
        acdc.read_list([[list(names), 1.0]], "file", SHAPE)


@pytest.mark.parametrize("key", [None, 5, ("x",), (*HEAD[:3], 0)])
def test_a_subgraph_whose_keys_are_no_edges_is_refused(key):
    with pytest.raises(CircuitError, match="is no edge of ACDC's"):
        acdc.read_subgraph({HEAD: True, key: True}, "file")


def test_acdc_lists_that_are_wrong_are_refused():
    entry = [list(HEAD), 0.5]
    with pytest.raises(CircuitError, match=r"'a0\.h1->a1\.h0<k>' stands in it twice"):
        acdc.read_list([entry, entry], "file", SHAPE)
    with pytest.raises(CircuitError, match="entry 2 is no edge"):
        acdc.read_list([entry, ["x"]], "file", SHAPE)
    with pytest.raises(CircuitError, match="has the score nan"):
        acdc.read_list([[list(HEAD), float("nan")]], "file", SHAPE)
    with pytest.raises(CircuitError, match="'import os' is no edge"):
        acdc.read_text(f"import os\n({HEAD}, 1.0)", "file", SHAPE)
    with pytest.raises(CircuitError, match="--shape 12x12"):
        acdc.read_list([entry], "file")


def test_edge_pruning_names_are_read_and_its_two_embeddings_are_one_input():
    pairs = [
        ["tok_embeds", "a0.h1.q"],
        ["pos_embeds", "a0.h1.q"],
        ["pos_embeds", "m0"],
        ["a0.h1", "resid_post"],
    ]
    read = edgepruning.read_list(pairs, "file", SHAPE)
    assert kept(read.edges) == ["input->a0.h1<q>", "input->m0", "a0.h1->logits"]
    assert any(note.startswith("1 edges from one of its two embeddings") for note in read.notes)


def test_embeddings_that_all_read_are_added_where_the_file_leaves_them_out():
    read = edgepruning.read_list([["a0.h1", "m0"], ["m0", "resid_post"]], "file", SHAPE)
    into_head = [f"input->a0.h1<{slot}>" for slot in "qkv"]
    assert kept(read.edges) == [*into_head, "input->m0", "a0.h1->m0", "input->logits", "m0->logits"]


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        (["a0.h9", "resid_post"], "'a0.h9->logits' cannot exist"),
        (["m1", "a0.h0.q"], "reads what comes later"),
        (["a0.h0", "a1.h0"], "no edge from 'a0.h0' to 'a1.h0'"),
        (["m9x", "m1"], "'m9x' is no node"),
        (["m0"], "entry 2 is no edge"),
        (["tok_embeds", "m0"], "stands in it twice"),
    ],
)
def test_edge_pruning_lists_that_are_wrong_are_refused(pair, says):
    with pytest.raises(CircuitError, match=says):
        edgepruning.read_list([["tok_embeds", "m0"], pair], "file", SHAPE)


def test_prune_scores_stand_by_module_head_and_sender():
    edges = draw_edges(SHAPE)
    stored = load(autocircuit.write_scores(edges))
    place = edges.graph.order(Edge.parse("a0.h1->a1.h0<k>"))
    assert stored["blocks.1.hook_k_input"].shape == (2, 4)
    assert stored["blocks.1.hook_k_input"][0, 2] == edges.scores[place]
    assert stored["blocks.1.hook_resid_post"].shape == (7,)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"blocks.0.hook_q_input": torch.zeros(9, 2, 1)}, "by token position"),
        ({"blocks.0.hook_attn_in": torch.zeros(2, 1)}, "q, k and v share"),
        ({"blocks.7.hook_mlp_in": torch.zeros(1)}, "no module 'blocks.7.hook_mlp_in' reads"),
        ({"blocks.1.hook_k_input": torch.zeros(2, 5)}, r"has the shape \[2, 5\]"),
        ({"blocks.1.hook_k_input": torch.full((2, 4), torch.inf)}, "has the score inf"),
        ({"ioi": {"eap": {}}}, "of several runs"),
    ],
)
def test_prune_scores_that_are_wrong_are_refused(change, says):
    with pytest.raises(CircuitError, match=says):
        autocircuit.read_scores(load(autocircuit.write_scores(draw_edges(SHAPE))) | change, "file")


def test_each_file_is_recognised(tmp_path: Path):
    edges = draw_edges(SHAPE)
    files = {
        "acdc-json": ("x.json", acdc.write_list(edges)),
        "acdc-text": ("x.txt", acdc.write_text(edges)),
        "acdc-pth": ("x.pth", acdc.write_subgraph(edges)),
        "autocircuit": ("x.pt", autocircuit.write_scores(edges)),
        "edge-pruning": ("edges.json", edgepruning.write_list(edges)),
    }
    for format, (name, data) in files.items():
        (tmp_path / name).write_bytes(data)
        told = format in ("acdc-pth", "autocircuit")
        assert read_circuit(tmp_path / name, None, None if told else parse_shape("2x2"))[0] == format
