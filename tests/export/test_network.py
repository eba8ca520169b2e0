"""A circuit as a networkx graph, and what networkx reads back of its files."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from xml.etree import ElementTree

import networkx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitfind.circuits.bases import Neuron, edges_among
from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Graph
from circuitfind.export.formats import network
from circuitfind.export.formats.network import circuit_to_gexf, circuit_to_graphml

SCORES = {"input->a0.h0<v>": 0.5, "a0.h0->a1.h1<q>": 1.25, "a0.h0->a1.h1<k>": -0.3, "a1.h1->logits": 2.0}
SMALL = Circuit(
    Graph(2, 2),
    {Edge.parse(name): score for name, score in SCORES.items()},
    {"name": "tiny"},
    {"name": "ioi"},
    {"name": "acdc"},
)
NEURONS = {
    Neuron.parse(name): score for name, score in {"a0.h1.d2": 0.5, "a0.h1.d3": -1.0, "m1.n7": 0.1}.items()
}
CIRCUITS = {
    "edges": lambda grow: grow(Graph(12, 12), 300),
    "roles": lambda grow: grow(Graph(6, 4, roles=("S1", "a+b.c", "END")), 200),
    "neurons": lambda _: Circuit(
        Graph(2, 2), edges_among(Graph(2, 2), NEURONS), {"d_head": 4, "d_mlp": 8}, neurons=NEURONS
    ),
    "empty": lambda _: Circuit(Graph(2, 2), {}),
}


def from_graphml(circuit: Circuit) -> networkx.MultiDiGraph:
    read = networkx.read_graphml(io.BytesIO(circuit_to_graphml(circuit)), force_multigraph=True)
    for *_, key, data in read.edges(keys=True, data=True):
        data["id"] = data.pop("name")
        assert key == data["id"]
    return read


def from_gexf(circuit: Circuit) -> networkx.MultiDiGraph:
    return networkx.read_gexf(io.BytesIO(circuit_to_gexf(circuit)))


def test_a_small_circuit_is_the_graph_that_its_names_say():
    network = SMALL.to_networkx()
    assert network.graph == {"name": "ioi, tiny, acdc", "task": "ioi", "model": "tiny", "method": "acdc"}
    assert list(network.nodes(data=True)) == [
        ("input", {"kind": "input"}),
        ("a0.h0", {"kind": "head", "layer": 0, "head": 0}),
        ("a1.h1", {"kind": "head", "layer": 1, "head": 1}),
        ("logits", {"kind": "logits"}),
    ]
    between = network["a0.h0"]["a1.h1"]
    assert between == {
        "a1.h1<q>": {"id": "a0.h0->a1.h1<q>", "slot": "q", "score": 1.25, "weight": 1.25},
        "a1.h1<k>": {"id": "a0.h0->a1.h1<k>", "slot": "k", "score": -0.3, "weight": 0.3},
    }
    assert network["a1.h1"]["logits"]["logits"] == {"id": "a1.h1->logits", "score": 2.0, "weight": 2.0}


@pytest.mark.parametrize("read", [from_graphml, from_gexf])
@pytest.mark.parametrize("name", CIRCUITS)
def test_a_circuit_survives_its_file(name, read, grow):
    circuit = CIRCUITS[name](grow)
    network, again = circuit.to_networkx(), read(circuit)
    assert list(again.nodes) == list(network.nodes) and again.is_directed()
    for node, data in network.nodes(data=True):
        assert again.nodes[node].items() >= data.items()
    edges = {data["id"]: (u, v, data) for u, v, data in again.edges(data=True)}
    assert {Edge.parse(name): data["score"] for name, (_, _, data) in edges.items()} == circuit.edges
    for sender, receiver, data in network.edges(data=True):
        assert (
            edges[data["id"]][:2] == (sender, receiver) and edges[data["id"]][2].items() >= data.items()
        )


def test_an_edge_of_a_role_has_it_and_the_logits_have_the_last(grow):
    circuit = CIRCUITS["roles"](grow)
    for _, receiver, data in circuit.to_networkx().edges(data=True):
        assert data["role"] == ("END" if receiver == "logits" else Edge.parse(data["id"]).receiver.role)


def test_a_node_says_how_many_neurons_it_keeps(grow):
    nodes = CIRCUITS["neurons"](grow).to_networkx().nodes
    assert {name: (data["neurons"], data["score"]) for name, data in nodes.items()} == {
        "input": (0, 0.0), "a0.h1": (2, 1.5), "m1": (1, 0.1), "logits": (0, 0.0),
    }  # fmt: skip


@pytest.mark.parametrize("write", [circuit_to_graphml, circuit_to_gexf])
def test_ids_are_unique_and_no_date_or_version_is_in_the_file(write, grow):
    text = write(grow(Graph(12, 12), 300))
    for kind in ("key", "node", "edge"):
        ids = [
            element.get("id")
            for element in ElementTree.fromstring(text).iter()
            if element.tag.endswith(f"}}{kind}")
        ]
        assert len(ids) == len(set(ids))
    assert networkx.__version__.encode() not in text and b"lastmodifieddate" not in text


def letters(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable() and not letter.isspace())


@given(st.text(), st.text())
@settings(max_examples=40)
def test_any_names_are_kept_but_for_what_xml_has_not(task, model):
    circuit = Circuit(
        SMALL.graph, SMALL.edges, {"name": f"<{model}&\"'"}, {"name": f"{task}\x00\ud800\ufffe>"}
    )
    read = from_graphml(circuit)
    assert read.number_of_edges() == len(SMALL.edges)
    for name, kept in (
        (circuit.model["name"], read.graph["model"]),
        (circuit.task["name"], read.graph["task"]),
    ):
        assert letters(kept) == letters(name)
    assert from_gexf(circuit).number_of_edges() == len(SMALL.edges)


def test_the_same_circuit_gives_the_same_bytes_in_every_process(grow, tmp_path):
    circuit = grow(Graph(12, 12), 100)
    (tmp_path / "circuit.json").write_text(circuit.to_json(), encoding="utf-8")
    code = (
        "import sys, pathlib; from circuitfind.circuits.circuit import Circuit;"
        "from circuitfind.export.formats.network import *;"
        "c = Circuit.load(pathlib.Path(sys.argv[1]));"
        "sys.stdout.buffer.write(circuit_to_gexf(c) + circuit_to_graphml(c))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=environment, capture_output=True, check=True
    )
    assert done.stdout == circuit_to_gexf(circuit) + circuit_to_graphml(circuit)


def test_a_circuit_needs_no_networkx_and_no_export():
    code = "import sys, circuitfind.circuits.circuit;"
    code += "print({'networkx', 'torch', 'circuitfind.export'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_file_has_the_strongest_edges_of_a_circuit_that_has_too_many_and_says_so(monkeypatch):
    edges = list(Graph(2, 2).edges())
    circuit = Circuit(Graph(2, 2), {edge: float(number) for number, edge in enumerate(edges)})
    assert network.what_is_cut(circuit) == () and network.cut_for_file(circuit) is circuit
    monkeypatch.setattr(network, "MOST_IN_FILE", 5)
    said = "the circuit has 46 edges; the file has the 5 strongest by |score|."
    assert network.what_is_cut(circuit) == (said,)
    assert networkx.read_graphml(io.BytesIO(circuit_to_graphml(circuit))).number_of_edges() == 5
    assert networkx.read_gexf(io.BytesIO(circuit_to_gexf(circuit))).number_of_edges() == 5
