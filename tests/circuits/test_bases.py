"""Neurons' names and places, and a circuit of them in its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from circuitfind.circuits.bases import Neuron, Neurons, count_neurons, edges_among
from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Graph, Node
from circuitfind.circuits.scores_file import neuron_prompt_scores_file, neuron_scores_file, rounded_each
from circuitfind.circuits.size import NeuronSelection
from circuitfind.errors import CircuitError, UsageError
from circuitfind.export import circuit_to_dot, render
from circuitfind.models.loading.catalogue import CATALOGUE, Bundled
from circuitfind.models.loading.folder import read_config
from tests.random_models import make_model

SHAPE = Neurons(Graph(2, 3), d_head=2, d_mlp=5)
MODEL = {
    "name": "tiny",
    "architecture": "GPT2LMHeadModel",
    "n_layers": 2,
    "n_heads": 3,
    "d_model": 16,
    "parallel_attn_mlp": False,
    "sha256": "0123abcd",
    "d_head": 2,
    "d_mlp": 5,
}
SCORES = {
    Neuron.parse(name): score for name, score in (("m1.n4", 0.5), ("a0.h2.d1", -0.25), ("a0.h2.d0", 1.0))
}
SMALL = Circuit(
    SHAPE.graph, edges_among(SHAPE.graph, SCORES), MODEL, metrics={"faithfulness": None}, neurons=SCORES
)


def test_neurons_stand_layer_by_layer_heads_before_the_mlp() -> None:
    names = [str(neuron) for neuron in SHAPE]
    assert names[:7] == ["a0.h0.d0", "a0.h0.d1", "a0.h1.d0", "a0.h1.d1", "a0.h2.d0", "a0.h2.d1", "m0.n0"]
    assert names[-1] == "m1.n4" and len(names) == len(SHAPE) == 2 * (3 * 2 + 5)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
def test_every_neuron_has_a_place_and_a_name_of_its_own(
    n_layers: int, n_heads: int, d_head: int, d_mlp: int
) -> None:
    shape = Neurons(Graph(n_layers, n_heads), d_head, d_mlp)
    for place, neuron in enumerate(shape):
        assert shape.place(neuron) == place and shape.at(place) == neuron and neuron in shape
        assert Neuron.parse(str(neuron)) == neuron
    stages = [range(len(shape))[shape.stage(stage)] for stage in range(2 * n_layers)]
    assert [place for stage in stages for place in stage] == list(range(len(shape)))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "m0",
        "a0.h1",
        "m0.d1",
        "a0.h1.n1",
        "a0.h1<q>.d1",
        "m0.n01",
        "m00.n1",
        "m0.n-1",
        "input.n0",
        "m0.n1 ",
    ],
)
def test_a_name_that_no_neuron_has_is_refused(name: str) -> None:
    with pytest.raises(CircuitError, match="is no n"):
        Neuron.parse(name)


def test_the_edges_are_those_among_nodes_that_keep_a_neuron_with_what_these_score_together() -> None:
    graph = SHAPE.graph
    assert {str(edge) for edge in SMALL.edges} == {
        "input->a0.h2<q>", "input->a0.h2<k>", "input->a0.h2<v>", "input->m1", "a0.h2->m1", "input->logits",
        "a0.h2->logits", "m1->logits",
    }  # fmt: skip
    assert SMALL.edges[Edge.parse("a0.h2->m1")] == 0.75 and SMALL.edges[Edge.parse("m1->logits")] == 0.5
    assert SMALL.edges[Edge.parse("input->m1")] == 0
    assert edges_among(graph, {}) == {}
    assert SMALL.nodes == (Node("input"), Node("head", 0, 2), Node("mlp", 1), Node("logits"))


# how many


def test_a_selection_that_means_nothing_is_refused() -> None:
    for options in (
        {},
        {"neurons": 0},
        {"fraction": 2.0},
        {"threshold": -1.0},
        {"neurons": 1, "select": "greedy"},
    ):
        with pytest.raises(UsageError):
            NeuronSelection(**options)  # type: ignore[arg-type]
    assert NeuronSelection(threshold=-1.0, select="top-signed").count(9) is None
    assert NeuronSelection(fraction=0.5).count(9) == 4


@pytest.mark.parametrize(
    ("family", "d_mlp"), [("gpt2", 64), ("llama", 32), ("qwen2", 32), ("pythia", 32)]
)
def test_a_config_says_how_many_neurons_a_model_has(family: str, d_mlp: int) -> None:
    assert count_neurons(make_model(family, 0, 2, 2).config.to_dict()) == 2 * (16 + d_mlp)


def test_a_config_with_a_width_of_heads_of_its_own_counts_by_that() -> None:
    assert count_neurons(make_model("llama", 0, 2, 2, head_dim=64).config.to_dict()) == 2 * (128 + 32)
    assert count_neurons({"hidden_size": 4}) is None
    source = CATALOGUE["tiny"].source
    assert isinstance(source, Bundled) and count_neurons(read_config(source.place)) == 576


# files


def test_a_circuit_of_neurons_survives_its_file_in_forward_order(tmp_path: Path) -> None:
    (tmp_path / "circuit.json").write_text(SMALL.to_json(), encoding="utf-8")
    again = Circuit.load(tmp_path)
    assert again == SMALL and again.to_json() == SMALL.to_json()
    data = json.loads(SMALL.to_json())
    assert list(data["neurons"].items()) == [("a0.h2.d0", 1.0), ("a0.h2.d1", -0.25), ("m1.n4", 0.5)]
    assert list(data)[-3:] == ["edges", "neurons", "metrics"]
    assert '\n    "a0.h2.d1": -0.25,\n' in SMALL.to_json()


def test_without_a_kept_neuron_the_block_is_there_and_at_edge_level_it_is_not() -> None:
    none = Circuit(SHAPE.graph, {}, MODEL, metrics={}, neurons={})
    assert json.loads(none.to_json())["neurons"] == {} and none.size == "0 neurons"
    assert Circuit.from_json(none.to_json()).neurons == {}
    edges = Circuit(SHAPE.graph, {}, MODEL, metrics={})
    assert (
        "neurons" not in json.loads(edges.to_json())
        and Circuit.from_json(edges.to_json()).neurons is None
    )


def changed(neurons: object, **model: Any) -> str:
    data = json.loads(SMALL.to_json())
    shape = {key: value for key, value in (data["model"] | model).items() if value is not None}
    return json.dumps(data | {"neurons": neurons, "model": shape})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (changed([]), 'its "neurons" is an empty list; it must be an object'),
        (changed({"m5": 1}), "'m5' is no neuron. Neurons are named a5.h2.d17 and m5.n1024"),
        (
            changed({"m1.n5": 1}),
            "'m1.n5' cannot exist in a model of 2 layers of 3 heads of 2 neurons, and MLPs of 5",
        ),
        (changed({"a0.h2.d2": 1}), "'a0.h2.d2' cannot exist"),
        (changed({"a0.h3.d0": 1}), "'a0.h3.d0' cannot exist"),
        (changed({"m2.n0": 1}), "'m2.n0' cannot exist"),
        (changed({"m1.n0": None}), '"neurons.m1.n0" is null; it must be a number'),
        (changed({"m1.n0": "1"}), "\"neurons.m1.n0\" is '1'; it must be a number"),
        (changed({"m1.n0": float("nan")}), "holds NaN, which is no number"),
        (changed({"m1.n0": 10**400}), "a number that is too long"),
        (changed({"m1.n0": 1}, d_mlp=None), 'its model lacks "d_mlp"'),
        (changed({"m1.n0": 1}, d_head=0), '"model.d_head" is 0'),
        (changed({"m1.n0": 1}, d_mlp=True), '"model.d_mlp" is true'),
        (changed({"m1.n0": 1}, d_mlp=10**30), "at most 10,000,000"),
    ],
)
def test_a_bad_file_is_refused_by_name(text: str, says: str) -> None:
    with pytest.raises(CircuitError) as error:
        Circuit.from_json(text, "bad.json")
    assert says in str(error.value) and str(error.value).startswith("bad.json: ")
    assert len(str(error.value).splitlines()) == 1


def test_scores_on_disk_name_the_nodes_and_how_many_neurons_each_has(tmp_path: Path) -> None:
    scores = torch.randn(3, len(SHAPE), generator=torch.Generator().manual_seed(1))
    (tmp_path / "a").write_bytes(neuron_scores_file(SHAPE, scores.mean(0).double(), torch.float32))
    (tmp_path / "b").write_bytes(neuron_prompt_scores_file(SHAPE, scores))
    with safe_open(tmp_path / "a", "pt") as file:
        assert torch.equal(file.get_tensor("scores"), scores.mean(0))
        nodes = json.loads(file.metadata()["nodes"])
    assert nodes == [[str(node), SHAPE.width(node)] for node in SHAPE.graph.senders[1:]]
    with safe_open(tmp_path / "b", "pt") as file:
        read = torch.ldexp(file.get_tensor("scores").float(), file.get_tensor("exponent"))
    assert torch.equal(read, rounded_each(scores)) and torch.allclose(read, scores, rtol=1e-3)


# the picture


def test_the_picture_has_the_nodes_with_their_numbers_of_neurons_and_no_edge() -> None:
    dot = circuit_to_dot(SMALL)
    assert 'a0.h2<font point-size="8.5"><br/>2 of 2<' in dot and "<br/>1 of 5<" in dot
    assert "->" not in dot.split("_background")[1]
    assert '"a0.h1"' not in dot and "3 of 22 neurons in 2 nodes, all edges" in dot
    svg = render(dot, "svg").decode()
    assert all(
        f">{text}</text>" in svg for text in ("input", "logits", "a0.h2", "2 of 2", "m1", "1 of 5")
    )


def test_the_darker_a_node_the_larger_its_scores() -> None:
    dot = circuit_to_dot(SMALL)
    shades = [
        line.split('fillcolor="#e69f00')[1][:2]
        for line in dot.splitlines()
        if 'fillcolor="#e69f00' in line
    ]
    assert [int(shade, 16) for shade in shades] == sorted(
        (int(shade, 16) for shade in shades), reverse=True
    )
    assert shades[0] != shades[1]


def test_a_circuit_without_neurons_is_drawn_too() -> None:
    svg = render(circuit_to_dot(Circuit(SHAPE.graph, {}, MODEL, neurons={})), "svg").decode()
    assert ">logits</text>" in svg
