"""The DOT file. Regenerate the golden files with: REGENERATE=1 pytest tests/export/test_dot.py"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pygraphviz
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Graph, Node
from circuitfind.export import Look, circuit_to_dot
from circuitfind.export.drawing.highlight import Highlight
from circuitfind.export.drawing.style import reference

GOLDEN = Path(__file__).parents[1] / "golden"

SMALL = Circuit(
    Graph(2, 2),
    {
        Edge.parse("input->a0.h0<v>"): 0.5,
        Edge.parse("input->m0"): 0.02,
        Edge.parse("a0.h0->a1.h1<q>"): 1.25,
        Edge.parse("a0.h0->a1.h1<k>"): -0.3,
        Edge.parse("m0->a1.h1<v>"): 0.0,
        Edge.parse("a1.h1->logits"): 2.0,
    },
    model={"name": "tiny"},
    task={"name": "ioi"},
    method={"name": "acdc"},
)
CASES = {
    "small": SMALL,
    "dressed": SMALL,
    "empty": Circuit(Graph(2, 2), {}),
    "parallel": Circuit(Graph(2, 2, parallel=True), SMALL.edges),
    "positions": Circuit(
        Graph(2, 2, roles=("S1", "END")),
        {
            Edge.parse("input->a0.h0<v>@S1"): 0.5,
            Edge.parse("a0.h0->a1.h1<k>@S1"): 1.25,
            Edge.parse("m0->a1.h1<q>@END"): -0.3,
            Edge.parse("a1.h1->logits"): 2.0,
        },
    ),
}
LOOKS = {
    "dressed": Look(
        style="screen",
        collapse="heads",
        labels={Node("head", 0, 0): 'R&D "x" <b>', Node("head", 1, 1): "Name mover"},
        highlight=Highlight.of(Circuit(Graph(2, 2), {Edge.parse("a0.h1->a1.h1<v>"): 1.0}), "another"),
    )
}


def read(dot: str) -> dict[tuple[str, str, str], dict[str, str]]:
    """Each edge that Graphviz reads from the text, as (sender, receiver node, receiver), with its attributes."""
    graph = pygraphviz.AGraph(string=dot)
    return {edge: graph.get_edge(*edge).attr.to_dict() for edge in graph.edges(keys=True)}


def by_id(dot: str, attribute: str) -> dict[str, str]:
    """The attribute of each edge under the edge's name."""
    return {attributes["id"]: attributes[attribute] for attributes in read(dot).values()}


def edges_of(dot: str) -> list[tuple[str, str, str]]:
    return sorted((sender, node, attributes["id"]) for (sender, node, _), attributes in read(dot).items())


def edges_in(circuit: Circuit) -> list[tuple[str, str, str]]:
    return sorted((str(edge.sender), str(edge.receiver.node), str(edge)) for edge in circuit.edges)


def node_x(dot: str) -> dict[str, float]:
    graph = pygraphviz.AGraph(string=dot)
    return {str(node): float(node.attr["pos"].split(",")[0]) for node in graph.nodes()}


@pytest.mark.parametrize("name", CASES)
def test_the_file_is_the_golden_one(name):
    golden, dot = GOLDEN / f"{name}.dot", circuit_to_dot(CASES[name], LOOKS.get(name, Look()))
    if os.environ.get("REGENERATE"):
        golden.write_text(dot, encoding="utf-8")
    assert dot == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("seed", ["0", "1", "random"])
def test_the_same_circuit_gives_the_same_bytes_in_every_process(seed, grow, tmp_path):
    circuit = grow(Graph(12, 12), 300)
    (tmp_path / "circuit.json").write_text(circuit.to_json(), encoding="utf-8")
    code = (
        "import sys, pathlib; from circuitfind.circuits.circuit import Circuit;"
        "from circuitfind.export import circuit_to_dot;"
        "sys.stdout.write(circuit_to_dot(Circuit.load(pathlib.Path(sys.argv[1]))))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=environment, capture_output=True, check=True
    )
    assert done.stdout.decode() == circuit_to_dot(circuit)


@pytest.mark.parametrize(
    "graph", [Graph(30, 9), Graph(12, 12), Graph(12, 12, parallel=True), Graph(3, 4), Graph(24, 40)]
)
def test_graphviz_reads_the_circuits_edges_and_nodes_and_no_others(graph, grow):
    circuit = grow(graph, 100)
    dot = circuit_to_dot(circuit)
    assert edges_of(dot) == edges_in(circuit)
    assert {str(node) for node in pygraphviz.AGraph(string=dot).nodes()} == {
        str(node) for node in circuit.nodes
    }


def test_a_removed_edge_is_a_removed_line(grow):
    circuit = grow(Graph(12, 12), 300)
    endings = [
        edge for edge in circuit.edges if edge.receiver.slot
    ]  # inside, so that no node goes with it
    busy = {
        e.receiver.node
        for e in circuit.edges
        if sum(o.receiver.node == e.receiver.node for o in circuit.edges) > 2
    }
    gone = next(
        e
        for e in endings
        if e.receiver.node in busy and sum(o.sender == e.sender for o in circuit.edges) > 2
    )
    fewer = Circuit(
        circuit.graph,
        {e: s for e, s in circuit.edges.items() if e != gone},
        circuit.model,
        circuit.task,
        circuit.method,
    )
    before, after = circuit_to_dot(circuit).splitlines(), circuit_to_dot(fewer).splitlines()
    lost = [line for line in before if line not in after]
    assert (
        len(lost) == 2
        and any(f'"{gone}"' in line for line in lost)
        and any("label=" in line for line in lost)
    )
    assert len(after) == len(before) - 1


def test_three_slots_between_two_nodes_are_three_edges_apart():
    edges = {Edge.parse(f"a0.h0->a1.h1<{slot}>"): 1.0 for slot in "qkv"}
    dot = circuit_to_dot(Circuit(Graph(2, 2), edges))
    tips = {edge[-2]: float(position.split(",")[1]) for edge, position in by_id(dot, "pos").items()}
    assert tips["q"] + 8 < tips["k"] < tips["v"] - 8
    assert len(set(by_id(dot, "color").values())) == len(set(by_id(dot, "style").values())) == 3


def test_a_negative_score_ends_in_a_bar_however_many_edges_there_are(grow):
    for n_edges in (20, 200, 700):
        circuit = grow(Graph(12, 12), n_edges)
        heads = by_id(circuit_to_dot(circuit), "arrowhead")
        assert {edge for edge, head in heads.items() if head == "tee"} == {
            str(e) for e, s in circuit.edges.items() if s < 0
        }


@given(st.dictionaries(st.sampled_from(list(Graph(2, 2).edges())), st.floats(-1e100, 1e100), max_size=30))
@settings(max_examples=30, deadline=None)
def test_a_larger_score_is_never_drawn_thinner(scores):
    circuit = Circuit(Graph(2, 2), scores)
    widths = {edge: float(width) for edge, width in by_id(circuit_to_dot(circuit), "penwidth").items()}
    ranked = [widths[str(edge)] for edge in sorted(scores, key=lambda edge: abs(circuit.edges[edge]))]
    assert ranked == sorted(ranked)


def test_one_huge_score_leaves_the_others_told_apart(grow):
    circuit = grow(Graph(12, 12), 200)
    huge = {**circuit.edges, next(iter(circuit.edges)): 1e9}
    assert reference(huge.values()) == reference(circuit.edges.values())


@pytest.mark.parametrize(
    ("scores", "expected"), [([], 0), ([0, 0], 0), ([0.3] * 5, 0.2), ([-0.04], 0.05), ([3e-310], 2e-310)]
)
def test_the_reference_score_is_a_round_number_near_the_largest(scores, expected):
    assert reference(scores) == expected


def test_of_too_many_edges_the_strongest_are_drawn_and_the_caption_says_so(grow):
    circuit = grow(Graph(12, 12), 300)
    dot = circuit_to_dot(circuit, Look(most_edges=50))
    drawn = {edge for _, _, edge in edges_of(dot)}
    weakest_drawn = min(abs(s) for e, s in circuit.edges.items() if str(e) in drawn)
    assert len(drawn) == 50
    assert all(abs(s) <= weakest_drawn for e, s in circuit.edges.items() if str(e) not in drawn)
    assert "300 of 32,491 edges" in dot and "the 50 strongest" in dot


def test_a_whole_model_is_cut_to_a_page():
    graph = Graph(4, 12)
    dot = circuit_to_dot(
        Circuit(graph, {edge: float(place % 977) for place, edge in enumerate(graph.edges())})
    )
    assert (
        dot.count(" -> ") == 2000
        and f"{graph.n_edges:,} of {graph.n_edges:,} edges" in dot
        and "the 2,000 strongest" in dot
    )


@given(st.text(max_size=60), st.text(max_size=60))
@settings(max_examples=50, deadline=None)
def test_no_name_of_a_task_or_model_breaks_the_file(task, model):
    circuit = Circuit(SMALL.graph, SMALL.edges, {"name": model}, {"name": task}, {"name": 'a"\\'})
    assert edges_of(circuit_to_dot(circuit)) == edges_in(SMALL)


def test_heads_stand_in_head_order_and_above_those_of_their_number(grow):
    xs = node_x(circuit_to_dot(grow(Graph(12, 12), 400)))
    heads = [(int(n[1:].split(".h")[0]), int(n.split(".h")[1]), x) for n, x in xs.items() if ".h" in n]
    assert all(
        x < other_x for layer, head, x in heads for l2, h2, other_x in heads if layer == l2 and head < h2
    )
    assert all(x == other_x for _, head, x in heads for _, h2, other_x in heads if head == h2)
