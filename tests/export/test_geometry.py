"""Nothing covers anything else: measured on the drawing and on the SVG that Graphviz makes of it."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from svgareas import SVG, check_picture

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Graph
from circuitfind.export import circuit_to_dot, render
from circuitfind.export.drawing.drawing import draw
from circuitfind.export.drawing.layout import DENSE, MEDIUM, ROOMY

SIZES = (20, 200, 2000)
GRAPHS = (Graph(30, 9), Graph(12, 12), Graph(12, 12, parallel=True), Graph(20, 32))
WIDEST_LETTER = (
    0.6  # of a digit, in font sizes, in the widest font that takes the shipped one's place (DejaVu Sans)
)


@pytest.mark.parametrize("n_edges", SIZES)
def test_the_svg_has_every_node_and_edge_and_nothing_overlaps(n_edges, grow):
    circuit = grow(Graph(12, 12) if n_edges > 200 else Graph(30, 9), n_edges)
    svg = render(circuit_to_dot(circuit), "svg")
    check_picture(svg)
    root = ElementTree.fromstring(svg)
    groups = {
        kind: [g for g in root.iter(f"{SVG}g") if g.get("class") == kind] for kind in ("node", "edge")
    }
    assert {g.get("id") for g in groups["node"]} == {str(node) for node in circuit.nodes}
    assert sorted(g.get("id") for g in groups["edge"]) == sorted(str(edge) for edge in circuit.edges)
    assert {g.find(f".//{SVG}text").text for g in groups["node"]} == {str(node) for node in circuit.nodes}


@pytest.mark.parametrize(
    ("graph", "n_edges"), [*((graph, 200) for graph in GRAPHS), (GRAPHS[0], 20), (GRAPHS[1], 700)]
)
def test_no_edge_runs_through_a_node_that_is_not_its_own(graph, n_edges, grow):
    drawing = draw(grow(graph, n_edges))
    for edge in drawing.edges:
        curve, own = drawing.curve(edge, 0.0), {edge.sender, edge.receiver.node}
        start, end = curve.knots[0][0], curve.knots[-1][0]
        for node, box in drawing.layout.boxes.items():
            if node not in own and start < box.y < end:
                for y in (
                    box.bottom,
                    box.bottom + box.height / 4,
                    box.y,
                    box.top - box.height / 4,
                    box.top,
                ):
                    assert not (start < y < end and box.left < curve.x(y) < box.right), (
                        f"{edge} crosses {node}"
                    )


@pytest.mark.parametrize("n_edges", [20, 200, 700])
def test_every_curve_rises_from_its_sender_to_its_receiver(n_edges, grow):
    drawing = draw(grow(Graph(12, 12), n_edges))
    for edge in drawing.edges:
        points = drawing.curve(edge, 0.0).bezier()
        sender, receiver = drawing.layout.boxes[edge.sender], drawing.layout.boxes[edge.receiver.node]
        assert points[0][1] == sender.top and sender.left <= points[0][0] <= sender.right
        assert points[-1][1] == receiver.bottom and receiver.left <= points[-1][0] <= receiver.right
        assert [y for _, y in points] == sorted(y for _, y in points)


@pytest.mark.parametrize("sizes", [ROOMY, MEDIUM, DENSE])
def test_the_longest_label_fits_its_box(sizes):
    assert len("a31.h31") * WIDEST_LETTER * sizes.font <= sizes.node_width + 2


def test_an_mlp_stands_above_the_heads_it_reads_and_beside_those_it_does_not(grow):
    for parallel in (False, True):
        circuit = grow(Graph(6, 4, parallel=parallel), 200)
        boxes = draw(circuit).layout.boxes
        gaps = {
            boxes[mlp].y - boxes[h].y
            for mlp in boxes
            for h in boxes
            if (mlp.kind, h.kind) == ("mlp", "head") and mlp.layer == h.layer
        }
        assert gaps == {0} if parallel else all(gap > 0 for gap in gaps)


def test_a_circuit_without_edges_shows_input_and_logits():
    svg = render(circuit_to_dot(Circuit(Graph(12, 12), {})), "svg").decode()
    assert ">input</text>" in svg and ">logits</text>" in svg and "0 of 32,491 edges" in svg


@pytest.mark.parametrize(
    "name", ["C:\\new\\N", 'say "hi" \\', "<b>bold</b>", "R&D &amp; &lt;", "%s \\L\\G"]
)
def test_the_caption_shows_a_name_as_it_is(name):
    circuit = Circuit(Graph(2, 2), {}, model={"name": name})
    root = ElementTree.fromstring(render(circuit_to_dot(circuit), "svg"))
    assert f"{name}, 0 of {circuit.graph.n_edges} edges, 0 nodes" in [
        text.text for text in root.iter(f"{SVG}text")
    ]
