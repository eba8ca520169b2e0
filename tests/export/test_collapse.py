"""Edges drawn as one: which, with which score, and that nothing is lost."""

from __future__ import annotations

import math

import pygraphviz
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Graph, Node
from circuitfind.errors import UsageError
from circuitfind.export import Look, circuit_to_dot
from circuitfind.export.drawing.collapse import collapse_edges, combine
from circuitfind.export.drawing.drawing import draw
from circuitfind.export.drawing.legend import caption, entries
from circuitfind.export.drawing.subject import find_collapse

SCORES = {
    "input->a0.h0<v>": 0.5,
    "input->a0.h1<q>": 0.25,
    "a0.h0->a1.h1<q>": 1.0,
    "a0.h0->a1.h1<k>": -0.25,
    "a0.h1->a1.h0<v>": -2.0,
    "a0.h0->m1": 0.5,
    "a0.h1->m1": 0.25,
    "a1.h1->logits": 3.0,
}
SMALL = Circuit(Graph(2, 2), {Edge.parse(name): score for name, score in SCORES.items()})
ROLES = ("S1", "END")


def drawn(collapse: str | None, circuit: Circuit = SMALL, **look: int) -> dict[str, float]:
    return {
        str(edge): score for edge, score in draw(circuit, Look(collapse=collapse, **look)).edges.items()
    }


def test_heads_have_one_edge_for_those_into_q_k_and_v():
    assert drawn("heads") == {
        "input->a0.h0": 0.5,
        "input->a0.h1": 0.25,
        "a0.h1->a1.h0": -2.0,
        "a0.h0->a1.h1": 1.25,  # |1| + |-0.25|, and 1 - 0.25 is above 0
        "a0.h0->m1": 0.5,
        "a0.h1->m1": 0.25,
        "a1.h1->logits": 3.0,
    }


def test_layers_have_one_node_for_their_heads():
    assert drawn("layers") == {
        "input->a0": 0.75,
        "a0->a1": -3.25,  # 1 + 0.25 + 2, and 1 - 0.25 - 2 is below 0
        "a0->m1": 0.75,
        "a1->logits": 3.0,
    }
    drawing = draw(SMALL, Look(collapse="layers"))
    assert drawing.notes == {Node("head", 0): ("2 heads",), Node("head", 1): ("2 heads",)}
    graph = pygraphviz.AGraph(string=circuit_to_dot(SMALL, Look(collapse="layers")))
    assert sorted(graph.nodes()) == ["a0", "a1", "input", "logits", "m1"]
    assert "a1: a1.h0 a1.h1" in graph.get_node("a1").attr["tooltip"]


@pytest.mark.parametrize(("collapse", "count"), [("heads", 7), ("layers", 4)])
def test_the_caption_says_what_is_joined_and_how_many_are_left_out(collapse, count):
    what = {"heads": "q, k and v", "layers": "the heads of a layer"}[collapse]
    assert f"8 of 46 edges, 7 nodes; drawn as {count}: {what} as one" in caption(
        draw(SMALL, Look(collapse=collapse))
    )
    fewer = draw(SMALL, Look(most_edges=2, collapse=collapse))
    assert f"drawn: the 2 strongest of {count} with {what} as one" in caption(fewer)
    assert sorted(map(abs, fewer.edges.values())) == sorted(map(abs, drawn(collapse).values()))[-2:]


def test_edges_into_heads_and_others_are_told_apart_in_the_legend():
    assert [entry.text for entry in entries(draw(SMALL, Look(collapse="heads")))][:2] == [
        "into heads",
        "into MLP, logits",
    ]


edges = st.dictionaries(
    st.sampled_from(list(Graph(2, 2, roles=ROLES).edges())), st.floats(-1e6, 1e6), min_size=1
)


@given(edges, st.sampled_from([None, "heads", "layers"]))
@settings(max_examples=40, deadline=None)
def test_every_edge_has_a_part_in_exactly_one_and_their_sizes_add_up(scores, collapse):
    graph = Graph(2, 2, roles=ROLES)
    parts = collapse_edges(graph, scores, collapse)
    assert sorted(str(edge) for of_edge in parts.values() for edge in of_edge) == sorted(map(str, scores))
    total = math.fsum(abs(combine(of_edge.values())) for of_edge in parts.values())
    assert total == pytest.approx(math.fsum(map(abs, scores.values())))
    assert all(
        edge.receiver.role == part.receiver.role for edge, of_edge in parts.items() for part in of_edge
    )


@pytest.mark.parametrize("collapse", ["heads", "layers"])
def test_positions_collapse_at_each_role_and_heads_stay_joined(collapse):
    names = (
        "input->a0.h0<v>@S1",
        "a0.h0->a1.h1<k>@S1",
        "a0.h0->a1.h1<v>@S1",
        "input->a1.h1<q>@END",
        "a1.h1->logits",
    )
    circuit = Circuit(Graph(2, 2, roles=ROLES), {Edge.parse(name): 1.0 for name in names})
    sender, head = ("a0", "a1") if collapse == "layers" else ("a0.h0", "a1.h1")
    assert drawn(collapse, circuit)[f"{sender}->{head}@S1"] == 2
    crossing = draw(circuit, Look(collapse=collapse)).crossings
    assert [[str(node) for node in nodes] for nodes in crossing] == [[f"{head}@S1", f"{head}@END"]]
    assert f'"{head}@S1"' in circuit_to_dot(circuit, Look(collapse=collapse))


def test_a_circuit_of_neurons_is_refused_what_is_for_edges():
    model = {"d_head": 2, "d_mlp": 4}
    circuit = Circuit(Graph(2, 2), {}, model, neurons={})
    for look in (Look(collapse="heads"), Look(collapse="layers"), Look(most_edges=5)):
        with pytest.raises(UsageError, match=r"is for edges; a circuit of neurons keeps them all"):
            draw(circuit, look)


def test_an_unknown_way_to_collapse_suggests_the_nearest():
    with pytest.raises(UsageError, match=r"No way to collapse named 'head'\. Did you mean 'heads'\?"):
        find_collapse("head")
