"""The graph's size, its names, and who reads whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitfind.circuits.graph import SLOTS, Edge, Graph, Node, Receiver
from circuitfind.errors import CircuitError

numbers = st.integers(0, 999_999_999)
graphs = st.builds(Graph, st.integers(1, 5), st.integers(1, 5), st.booleans())
nodes = st.one_of(
    st.sampled_from([Node("input"), Node("logits")]),
    st.builds(lambda layer: Node("mlp", layer), numbers),
    st.builds(lambda layer, head: Node("head", layer, head), numbers, numbers),
)
receivers = st.one_of(
    st.just(Receiver(Node("logits"))),
    st.builds(lambda layer: Receiver(Node("mlp", layer)), numbers),
    st.builds(
        lambda layer, head, slot: Receiver(Node("head", layer, head), slot),
        numbers,
        numbers,
        st.sampled_from(SLOTS),
    ),
)
edges = st.builds(Edge, nodes, receivers)


@pytest.mark.parametrize(
    ("graph", "n_edges", "n_nodes"),
    [
        (Graph(12, 12), 32_491, 158),  # GPT-2 small
        (Graph(30, 9), 123_211, 302),  # SmolLM2-135M: each of the 9 query heads has its own k and v
        (
            Graph(12, 12, parallel=True),
            32_347,
            158,
        ),  # as Pythia: 12 x 12 edges from a head to its own layer's MLP less
    ],
)
def test_known_models_have_the_published_number_of_edges_and_nodes(
    graph: Graph, n_edges: int, n_nodes: int
) -> None:
    assert (graph.n_edges, graph.n_nodes) == (n_edges, n_nodes)


def test_the_edges_of_a_one_head_model_are_those_on_paper() -> None:
    assert [str(edge) for edge in Graph(1, 1).edges()] == [
        "input->a0.h0<q>",
        "input->a0.h0<k>",
        "input->a0.h0<v>",
        "input->m0",
        "a0.h0->m0",
        "input->logits",
        "a0.h0->logits",
        "m0->logits",
    ]


@given(graphs)
def test_the_number_of_edges_follows_the_formula(graph: Graph) -> None:
    heads = graph.n_heads
    before = [1 + layer * (heads + 1) for layer in range(graph.n_layers)]
    own = 0 if graph.parallel else heads
    formula = sum(3 * heads * n + n + own for n in before) + 1 + graph.n_layers * (heads + 1)
    assert graph.n_edges == formula == len(list(graph.edges())) == len(set(graph.edges()))


@given(graphs)
def test_edges_stand_in_graph_order_and_are_the_only_ones_in_the_graph(graph: Graph) -> None:
    listed = list(graph.edges())
    assert [graph.order(edge) for edge in listed] == sorted(graph.order(edge) for edge in listed)
    possible = {Edge(sender, receiver) for sender in graph.senders for receiver in graph.receivers}
    assert {edge for edge in possible if edge in graph} == set(listed)


@given(graphs)
def test_nothing_reads_what_comes_later_or_beside_it(graph: Graph) -> None:
    for edge in graph.edges():
        sender, reader = edge.sender, edge.receiver.node
        if reader.kind == "logits" or sender.kind == "input":
            continue
        own_head = sender.kind == "head" and reader.kind == "mlp" and not graph.parallel
        assert sender.layer < reader.layer or (own_head and sender.layer == reader.layer)


def test_an_mlp_reads_the_heads_of_its_own_layer_in_sequential_blocks_only() -> None:
    edge = Edge.parse("a1.h0->m1")
    assert edge in Graph(2, 2)
    assert edge not in Graph(2, 2, parallel=True)
    assert Edge.parse("a0.h0->m1") in Graph(2, 2, parallel=True)


@pytest.mark.parametrize(
    "name",
    [
        "m0->m0",
        "a0.h0->a0.h1<q>",
        "m1->a1.h0<v>",
        "a2.h0->logits",
        "a0.h2->logits",
        "input->m2",
        "logits->logits",
    ],
)
def test_a_well_named_edge_that_a_model_lacks_is_not_in_its_graph(name: str) -> None:
    sender, receiver = name.split("->")
    assert Edge(Node.parse(sender), Receiver.parse(receiver)) not in Graph(2, 2)


@given(nodes)
def test_a_node_is_read_as_it_is_written(node: Node) -> None:
    assert Node.parse(str(node)) == node


@given(receivers)
def test_a_receiver_is_read_as_it_is_written(receiver: Receiver) -> None:
    assert Receiver.parse(str(receiver)) == receiver


@given(edges)
def test_an_edge_is_read_as_it_is_written(edge: Edge) -> None:
    assert Edge.parse(str(edge)) == edge


@given(st.text(alphabet="amh.<>qkv-0123456789inputlogs", max_size=18))
def test_a_name_that_can_be_read_has_one_spelling(name: str) -> None:
    for kind in (Node, Receiver, Edge):
        try:
            assert str(kind.parse(name)) == name
        except CircuitError as error:
            part = (
                str(error).split("' is no ")[0].removeprefix("'")
            )  # of an edge's name, the part that is wrong
            assert part in name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "m",
        "a0",
        "a0.h",
        "h1",
        "a0.h1<q>",
        "M0",
        "m0 ",
        "m-1",
        "m٣",
        "m1٣",
        "m０",
        "a0.h1\n",
        "m01",
        "a00.h1",
        "m" + "9" * 5000,
    ],
)
def test_a_bad_name_of_a_node_is_refused(name: str) -> None:
    with pytest.raises(CircuitError, match="is no node"):
        Node.parse(name)


@pytest.mark.parametrize(
    "name",
    ["", "input", "a0.h1", "a0.h1<z>", "a0.h1<q", "a0.h1<Q>", "m0<q>", "logits<q>", "m", "a0.h1٣<q>"],
)
def test_a_bad_name_of_a_receiver_is_refused(name: str) -> None:
    with pytest.raises(CircuitError, match="is no receiver"):
        Receiver.parse(name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("m0", "is no edge"),
        ("a0.h1>m1", "is no edge"),
        ("a0.h1->", "'' is no receiver"),
        ("->m0", "'' is no node"),
        ("input->a0.h1<z>", "'a0.h1<z>' is no receiver"),
        ("input->m0->m1", "'m0->m1' is no receiver"),
        ("a0.h1<q>->m1", "'a0.h1<q>' is no node"),
    ],
)
def test_a_bad_name_of_an_edge_is_refused(name: str, reason: str) -> None:
    with pytest.raises(CircuitError, match=reason):
        Edge.parse(name)


def test_logits_send_nothing_so_that_no_graph_has_an_edge_from_them() -> None:
    assert Edge.parse("logits->m0") not in Graph(1, 1)


def test_a_head_reads_at_three_places_an_mlp_at_one_the_input_at_none() -> None:
    graph = Graph(2, 2)
    assert [str(r) for r in graph.receivers_of(Node("head", 1, 0))] == [
        "a1.h0<q>",
        "a1.h0<k>",
        "a1.h0<v>",
    ]
    assert [str(r) for r in graph.receivers_of(Node("mlp", 1))] == ["m1"]
    assert [str(r) for r in graph.receivers_of(Node("logits"))] == ["logits"]
    assert graph.receivers_of(Node("input")) == ()


def test_receivers_stand_in_forward_order_with_slots_outside_heads() -> None:
    assert [str(receiver) for receiver in Graph(1, 2).receivers] == [
        *("a0.h0<q>", "a0.h1<q>", "a0.h0<k>", "a0.h1<k>", "a0.h0<v>", "a0.h1<v>"),
        "m0",
        "logits",
    ]


@pytest.mark.parametrize(
    "graph", [Graph(2, 3), Graph(2, 2, parallel=True), Graph(1, 2, roles=("S", "END"))]
)
def test_places_are_those_of_graph_order_and_none_where_there_is_no_edge(graph: Graph) -> None:
    edges = list(graph.edges())
    again = [Edge.parse(str(edge)) for edge in edges]  # none shares its nodes with another
    for same in (edges, again):
        assert list(graph.places(same)) == list(map(graph.order, edges))
    wrong = ["m9->logits", "a0.h0->m9", "logits->m0", "m1->m0", "input->m0@OTHER"]
    assert list(graph.places([Edge.parse(name) for name in wrong])) == [None] * len(wrong)
    assert len(set(edges) | set(again)) == graph.n_edges == len(edges)
