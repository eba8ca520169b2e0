"""Two circuits side by side."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitfind.circuits.bases import Neuron
from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.compare import compare
from circuitfind.circuits.graph import Edge, Graph
from circuitfind.errors import CircuitError, UsageError

GRAPH = Graph(2, 2)
EDGES = [*GRAPH.edges()]
SCORES = st.dictionaries(st.sampled_from(EDGES), st.floats(-5, 5), max_size=20)


def circuit(**scores: float) -> Circuit:
    names = {
        "input_m0": "input->m0",
        "m0_logits": "m0->logits",
        "head": "input->a0.h1<q>",
        "late": "a0.h1->a1.h0<k>",
    }
    return Circuit(GRAPH, {Edge.parse(names[name]): score for name, score in scores.items()})


def test_neurons_are_compared_by_layer_and_by_what_they_are_of() -> None:
    model = {"n_layers": 2, "n_heads": 2, "parallel_attn_mlp": False, "d_head": 4, "d_mlp": 8}

    def of(**scores: float) -> Circuit:
        names = {"head": "a0.h1.d2", "mlp": "m1.n3", "late": "a1.h0.d0"}
        return Circuit(
            GRAPH, {}, model, neurons={Neuron.parse(names[name]): x for name, x in scores.items()}
        )

    found = compare(of(head=1.0, mlp=2.0), of(head=1.5, late=0.1))
    assert ({str(n): x for n, x in found.lost.items()}, found.noun) == ({"m1.n3": 2.0}, "neurons")
    assert {str(n): x for n, x in found.gained.items()} == {"a1.h0.d0": 0.1}
    assert {str(n): x for n, x in found.changed.items()} == {"a0.h1.d2": (1.0, 1.5)}
    assert {name: part.n_common for name, part in found.by_layer().items()} == {"0": 1, "1": 0}
    assert {name: (part.n_before, part.n_after) for name, part in found.by_role().items()} == {
        "head": (1, 2),
        "mlp": (1, 0),
    }
    assert found.to_dict()["neurons"]["jaccard"] == 1 / 3
    with pytest.raises(CircuitError, match="One circuit is of neurons, the other of edges"):
        compare(of(head=1.0), circuit(head=1.0))


def test_edges_and_nodes_are_gained_lost_and_changed() -> None:
    # before: input->m0->logits and a head's q; after: the head is gone, an edge to another is there
    before = circuit(input_m0=1.0, m0_logits=2.0, head=-3.0)
    after = circuit(input_m0=1.05, m0_logits=2.5, late=0.1)
    found = compare(before, after)
    assert {str(edge): score for edge, score in found.lost.items()} == {"input->a0.h1<q>": -3.0}
    assert {str(edge): score for edge, score in found.gained.items()} == {"a0.h1->a1.h0<k>": 0.1}
    assert {str(edge): scores for edge, scores in found.changed.items()} == {"m0->logits": (2.0, 2.5)}
    assert list(map(str, found.gained_nodes)) == ["a1.h0"]
    assert found.lost_nodes == ()
    assert (found.kept.n_common, found.kept.jaccard) == (2, 0.5)
    assert (found.kept.precision, found.kept.recall) == (2 / 3, 2 / 3)


def test_every_edge_stands_in_one_layer_and_in_one_role() -> None:
    found = compare(circuit(input_m0=1.0, head=1.0), circuit(late=1.0, m0_logits=1.0))
    assert {name: (part.n_before, part.n_after) for name, part in found.by_layer().items()} == {
        "0": (2, 0),
        "1": (0, 1),
        "logits": (0, 1),
    }
    assert {name: (part.n_before, part.n_after) for name, part in found.by_role().items()} == {
        "q": (1, 0),
        "k": (0, 1),
        "mlp": (1, 0),
        "logits": (0, 1),
    }


@given(SCORES, SCORES)
def test_what_is_lost_one_way_is_gained_the_other(
    one: dict[Edge, float], other: dict[Edge, float]
) -> None:
    there, back = (
        compare(Circuit(GRAPH, one), Circuit(GRAPH, other)),
        compare(Circuit(GRAPH, other), Circuit(GRAPH, one)),
    )
    assert there.lost == back.gained
    assert there.kept.jaccard == back.kept.jaccard
    assert {edge: scores[::-1] for edge, scores in there.changed.items()} == dict(back.changed)
    assert there.kept.n_common + len(there.lost) == len(one)
    assert sum(part.n_before for part in there.by_layer().values()) == len(one)
    assert sum(part.n_after for part in there.by_role().values()) == len(other)


@given(SCORES)
def test_a_circuit_is_the_same_as_itself(scores: dict[Edge, float]) -> None:
    found = compare(Circuit(GRAPH, scores), Circuit(GRAPH, scores), tolerance=0.0)
    assert found.is_same
    assert found.kept.jaccard == 1.0
    assert not found.changed


def test_of_an_empty_circuit_there_is_no_precision() -> None:
    found = compare(circuit(head=1.0), circuit())
    assert (found.kept.precision, found.kept.recall, found.kept.jaccard) == (None, 0.0, 0.0)


def test_circuits_of_other_shapes_and_tolerances_out_of_range_are_refused() -> None:
    with pytest.raises(
        CircuitError,
        match="2 layers of 2 heads in sequential blocks, the other circuit of 3 layers of 2 heads",
    ):
        compare(circuit(head=1.0), Circuit(Graph(3, 2), {}))
    with pytest.raises(UsageError, match=r"--tolerance is 1.0"):
        compare(circuit(head=1.0), circuit(head=1.0), tolerance=1.0)
