"""A picture held against another circuit: what is common, missing and extra."""

from __future__ import annotations

from dataclasses import replace

import pytest

from circuitfind.circuits.bases import Neuron
from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Graph, Node
from circuitfind.errors import CircuitError
from circuitfind.export import Look, circuit_to_dot
from circuitfind.export.drawing.drawing import draw
from circuitfind.export.drawing.highlight import Highlight, read_highlight
from circuitfind.export.drawing.legend import caption, entries


def circuit_of(*names: str, graph: Graph = Graph(2, 2)) -> Circuit:  # noqa: B008 - frozen
    model = {
        "name": "small",
        "n_layers": graph.n_layers,
        "n_heads": graph.n_heads,
        "parallel_attn_mlp": graph.parallel,
    }
    return Circuit(graph, {Edge.parse(name): 1.0 for name in names}, model)


OURS = circuit_of("input->a0.h0<v>", "a0.h0->a1.h1<q>", "a1.h1->logits")
OTHER = circuit_of(
    "input->a0.h0<v>", "a0.h0->a1.h1<k>", "a0.h1->logits", "input->a0.h1<v>", "a1.h1->logits"
)
GPT2 = circuit_of(
    "input->a9.h9<q>", "a9.h9->a11.h0<q>", "a11.h0->m11", "m11->logits", graph=Graph(12, 12)
)


def legend(circuit: Circuit, look: Look) -> list[str]:
    return [entry.text for entry in entries(draw(circuit, look))]


def test_edges_are_common_missing_or_extra_and_the_missing_ones_are_drawn():
    look = Look(highlight=Highlight.of(OTHER, "the other"))
    drawing = draw(OURS, look)
    assert {str(edge): mark for edge, mark in drawing.marks.items()} == {
        "input->a0.h0<v>": "common",
        "input->a0.h1<v>": "missing",
        "a0.h0->a1.h1<q>": "extra",
        "a0.h0->a1.h1<k>": "missing",
        "a0.h1->logits": "missing",
        "a1.h1->logits": "common",
    }
    assert Node("head", 0, 1) in drawing.layout.boxes
    assert legend(OURS, look)[:3] == ["common: 2", "missing: 3", "extra: 1"]
    assert caption(drawing).endswith("3 of 46 edges, 4 nodes; against the other")
    assert drawing.stroke(Edge.parse("a0.h1->logits")).style == "dashed"


def test_a_circuit_against_itself_has_all_in_common():
    assert legend(OURS, Look(highlight=Highlight.of(OURS)))[0] == "common: 3"
    assert not {"missing", "extra"} & set(draw(OURS, Look(highlight=Highlight.of(OURS))).marks.values())


def test_what_is_joined_is_common_where_both_have_a_part_of_it():
    marks = draw(OURS, Look(highlight=Highlight.of(OTHER), collapse="heads")).marks
    assert {str(edge): mark for edge, mark in marks.items()} == {
        "input->a0.h0": "common",
        "input->a0.h1": "missing",
        "a0.h0->a1.h1": "common",  # as q here, as k there
        "a0.h1->logits": "missing",
        "a1.h1->logits": "common",
    }


def test_a_joined_edge_has_the_score_of_its_own_parts_alone():
    stronger = replace(OTHER, edges=dict.fromkeys(OTHER.edges, 9.0))
    edges = draw(OURS, Look(highlight=Highlight.of(stronger), collapse="heads")).edges
    assert {str(edge): score for edge, score in edges.items()}["a0.h0->a1.h1"] == 1.0


def test_of_a_published_circuit_the_heads_are_marked_and_those_missing_are_drawn():
    look = Look(highlight=read_highlight(GPT2, "ioi"))
    drawing = draw(GPT2, look)
    assert drawing.marks[Node("head", 9, 9)] == "common" and drawing.marks[Node("head", 11, 0)] == "extra"
    assert drawing.marks[Node("head", 9, 6)] == "missing" and Node("head", 9, 6) in drawing.layout.boxes
    assert not {Node("mlp", 11), Node("input"), Node("logits")} & set(
        drawing.marks
    )  # the paper says nothing of MLPs
    assert drawing.paint(Node("head", 9, 6)).border == "dashed"
    assert drawing.paint(Node("head", 9, 9)).width > drawing.paint(Node("head", 11, 0)).width
    texts = legend(GPT2, look)
    assert texts[-3:] == ["common: 1 head", "missing: 25 heads", "extra: 1 head"]
    assert [t for t in texts if t in ("q", "into MLP, logits")] == ["q", "into MLP, logits"]
    assert '"a9.h6" [' in circuit_to_dot(GPT2, look) and caption(drawing).endswith("against ioi")


def test_where_layers_are_joined_so_are_the_heads_of_the_published_circuit():
    look = Look(highlight=read_highlight(GPT2, "ioi"), collapse="layers")
    marks = {str(node): mark for node, mark in draw(GPT2, look).marks.items()}
    assert marks["a9"] == marks["a11"] == "common" and marks["a10"] == "missing" and "m11" not in marks


def test_circuits_of_neurons_are_compared_node_by_node():
    model = {"d_head": 2, "d_mlp": 4, **OURS.model}
    ours = replace(
        OURS, model=model, neurons={Neuron(Node("head", 0, 0), 1): 1.0, Neuron(Node("mlp", 1), 3): 0.5}
    )
    other = replace(
        OTHER,
        model=model,
        neurons={Neuron(Node("head", 0, 0), 0): 1.0, Neuron(Node("head", 1, 0), 0): 0.5},
    )
    for known in (other, circuit_of("a0.h0->a1.h0<q>", "a1.h0->logits")):
        drawing = draw(ours, Look(highlight=Highlight.of(known)))
        marks = {str(node): mark for node, mark in drawing.marks.items()}
        assert marks == {"a0.h0": "common", "a1.h0": "missing", "m1": "extra"}
        assert "a1.h0" in circuit_to_dot(ours, Look(highlight=Highlight.of(known)))


def test_a_file_a_run_folder_and_a_published_name_are_known(tmp_path):
    (tmp_path / "run").mkdir()
    for file in (tmp_path / "other.json", tmp_path / "run" / "circuit.json"):
        file.write_text(OTHER.to_json(), encoding="utf-8")
    for name in ("other.json", "run"):
        known = read_highlight(OURS, str(tmp_path / name))
        assert known.edges == OTHER.edges and known.name == name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not whole JSON"),
        ("[]", "is no known circuit"),
        (
            circuit_of("input->m0", graph=Graph(3, 2)).to_json(),
            r"3 layers .* the circuit of 2 layers .*\nHighlight a",
        ),
        (
            circuit_of("input->m0@END", graph=Graph(2, 2, roles=("END",))).to_json(),
            r"other positions \(END\) than the circuit \(none\)",
        ),
    ],
)
def test_a_damaged_file_and_one_of_another_shape_are_errors(text, says, tmp_path):
    (tmp_path / "other.json").write_text(text, encoding="utf-8")
    with pytest.raises(CircuitError, match=says):
        read_highlight(OURS, str(tmp_path / "other.json"))


def test_a_name_that_is_not_known_suggests_the_nearest_and_a_published_one_must_fit():
    with pytest.raises(CircuitError, match=r"No known circuit named 'iou'\. Did you mean 'ioi'\?"):
        read_highlight(OURS, "iou")
    with pytest.raises(CircuitError, match=r"--highlight ioi is of 12 layers of 12 heads"):
        read_highlight(OURS, "ioi")
