"""The numbers of senders and receivers, in graphs whose layers are alike and in others."""

from __future__ import annotations

import pytest

from circuitfind.circuits.graph import Counts, Graph
from circuitfind.circuits.layout import Layout


class Uneven(Graph):
    """Layers that differ in shape: two heads and an MLP, an MLP alone, three heads alone."""

    layers = ((2, 1), (0, 1), (3, 0))


@pytest.mark.parametrize(
    "graph", [Graph(3, 2), Graph(2, 3, parallel=True), Uneven(3, 0), Uneven(3, 0, True)]
)
def test_the_layout_numbers_nodes_and_receivers_as_the_graph_does(graph: Graph) -> None:
    layout = Layout(graph)
    rows = [row for stage in range(layout.n_stages) for row in layout.rows(stage)]
    assert rows == list(range(len(graph.receivers)))
    for row, receiver in enumerate(graph.receivers):
        assert layout.n_readable(layout.stage(row)) == graph.n_readable(receiver)
        assert row in layout.rows(layout.stage(row))
        reader = layout.reader(row)
        assert receiver.node == (graph.senders[reader] if reader is not None else receiver.node)
        assert (reader is None) is (receiver.node.kind == "logits")


@pytest.mark.parametrize("graph", [Graph(3, 2), Graph(2, 3, parallel=True), Uneven(3, 0)])
def test_each_layer_s_senders_and_receivers_stand_where_the_layout_says(graph: Graph) -> None:
    layout = Layout(graph)
    for layer, (n_heads, n_mlps) in enumerate(graph.layers):
        heads = graph.senders[layout.heads(layer)]
        assert [str(node) for node in heads] == [f"a{layer}.h{head}" for head in range(n_heads)]
        assert all(graph.senders[layout.head(layer, node.head)] is node for node in heads)
        assert n_mlps == 0 or str(graph.senders[layout.mlp(layer)]) == f"m{layer}"
        slots = graph.receivers[layout.slots(layer)]
        assert [str(receiver) for receiver in slots] == [
            f"{head}<{slot}>" for slot in "qkv" for head in heads
        ]
        assert all(
            graph.receivers[layout.row(layer, "qkv".index(r.slot or ""), r.node.head)] is r for r in slots
        )
        assert all(layout.layer(graph.sender_index[node]) == layer for node in heads)


def test_layers_that_differ_in_shape_have_the_edges_on_paper() -> None:
    graph = Uneven(3, 0)
    assert [str(sender) for sender in graph.senders] == [
        "input",
        "a0.h0",
        "a0.h1",
        "m0",
        "m1",
        "a2.h0",
        "a2.h1",
        "a2.h2",
    ]
    assert graph.n_edges == 6 * 1 + 3 + 4 + 9 * 5 + 8 == sum(1 for _ in graph.edges())
    assert graph.n_nodes == 9
    assert (graph.count("head"), graph.count("mlp")) == (5, 2)


@pytest.mark.parametrize(("n_layers", "n_heads"), [(1, 1), (3, 2), (12, 12)])
def test_layers_that_are_alike_are_counted_without_a_graph(n_layers: int, n_heads: int) -> None:
    graph = Graph(n_layers, n_heads)
    counts = Counts(len(graph.senders), len(graph.receivers), graph.n_edges)
    assert Counts.of(n_layers, n_heads) == counts
