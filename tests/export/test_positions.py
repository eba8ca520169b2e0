"""Pictures of circuits of positions: columns for each role, every node where it reads or writes."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from itertools import combinations

import pytest

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Graph, Node
from circuitfind.export import circuit_to_dot, render
from circuitfind.export.drawing.background import background
from circuitfind.export.drawing.drawing import draw, ends
from circuitfind.export.drawing.legend import entries

ROLES = ("IO", "S1", "a-long-role-name", "END")
GRAPHS = (Graph(12, 12, False, ROLES), Graph(6, 4, True, ROLES))
SVG = "{http://www.w3.org/2000/svg}"
SMALL = Circuit(
    Graph(2, 2, False, ROLES),
    {
        Edge.parse("input->a0.h0<v>@S1"): 0.5,
        Edge.parse("a0.h0->a1.h1<k>@S1"): 1.25,
        Edge.parse("input->a1.h1<q>@END"): -0.3,
        Edge.parse("a1.h1->logits"): 2.0,
    },
)


@pytest.mark.parametrize(("graph", "n_edges"), [*((graph, 150) for graph in GRAPHS), (GRAPHS[0], 700)])
def test_every_node_at_a_role_and_every_edge_is_there_and_no_two_nodes_overlap(graph, n_edges, grow):
    circuit = grow(graph, n_edges)
    root = ElementTree.fromstring(render(circuit_to_dot(circuit), "svg"))
    nodes = {g.get("id"): g for g in root.iter(f"{SVG}g") if g.get("class") == "node"}
    drawn = {str(node) for edge in circuit.edges for node in ends(graph, edge)}
    assert drawn <= set(nodes) <= drawn | {f"input@{role}" for role in ROLES}
    texts = {name: group.find(f".//{SVG}text").text for name, group in nodes.items()}
    assert all(
        text == (name if name.startswith("input") else name.partition("@")[0])
        for name, text in texts.items()
    )
    ids = sorted(g.get("id") for g in root.iter(f"{SVG}g") if g.get("class") == "edge")
    assert ids == sorted(map(str, circuit.edges))
    boxes = draw(circuit).layout.boxes
    for one, other in combinations(boxes.values(), 2):
        assert (
            one.right < other.left
            or other.right < one.left
            or one.top < other.bottom
            or other.top < one.bottom
        )


@pytest.mark.parametrize("graph", GRAPHS)
def test_each_role_has_columns_of_its_own_in_the_roles_order(graph, grow):
    layout = draw(grow(graph, 200)).layout
    spans = []
    for role in ROLES:
        here = [box for node, box in layout.boxes.items() if node.role == role]
        spans.append((min(box.left for box in here), max(box.right for box in here)))
    for (_, right), border, (left, _) in zip(spans[:-1], layout.borders, spans[1:], strict=True):
        assert right < border < left
    assert layout.boxes[Node("logits")].x == layout.boxes[Node("input").at("END")].x
    assert all(box.left >= 0 and box.right <= layout.width for box in layout.boxes.values())


@pytest.mark.parametrize("graph", GRAPHS)
def test_no_edge_runs_through_a_node_that_is_not_its_own(graph, grow):
    drawing = draw(grow(graph, 150))
    for edge in drawing.edges:
        curve, own = drawing.curve(edge, 0.0), ends(graph, edge)
        start, end = curve.knots[0][0], curve.knots[-1][0]
        for node, box in drawing.layout.boxes.items():
            if node not in own and start < box.y < end:
                for y in (box.bottom, box.y, box.top):
                    assert not (start < y < end and box.left < curve.x(y) < box.right), (
                        f"{edge} crosses {node}"
                    )


def test_a_head_that_reads_at_one_role_and_writes_at_another_is_joined():
    drawing = draw(SMALL)
    head = Node("head", 1, 1)
    assert drawing.crossings == ((head.at("S1"), head.at("END")),)  # a0.h0 reads and writes at S1 alone
    boxes, lines = drawing.layout.boxes, "\n".join(background(drawing))
    left, right = boxes[head.at("S1")], boxes[head.at("END")]
    assert re.search(rf"L 2 {left.x:.1f} {left.y:.1f} {right.x:.1f} {left.y:.1f}", lines)
    assert "one head, read at other positions" in [entry.text for entry in entries(drawing)]


def test_roles_at_which_nothing_is_drawn_take_no_room_but_the_last():
    layout = draw(SMALL).layout
    assert [str(node) for node in layout.rows[0]] == ["input@S1", "input@END"]
    assert [str(node) for node in draw(Circuit(SMALL.graph, {})).layout.rows[0]] == ["input@END"]
