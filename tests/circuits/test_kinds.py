"""One registry of node kinds: names, inputs and other tools' names follow from each kind's entry."""

from __future__ import annotations

import pytest

from circuitfind.circuits.bases import Neuron
from circuitfind.circuits.graph import Graph, Node, Receiver
from circuitfind.circuits.kinds import INNER, KINDS, NodeKind, parse
from circuitfind.errors import CircuitError

each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))


@pytest.mark.parametrize(
    ("name", "kind", "layer", "number", "receivers"),
    [
        ("input", "input", -1, -1, ""),
        ("a7.h12", "head", 7, 12, "a7.h12<q> a7.h12<k> a7.h12<v>"),
        ("m7", "mlp", 7, -1, "m7"),
        ("logits", "logits", -1, -1, "logits"),
    ],
)
def test_a_name_says_the_kind_the_layer_and_the_number(
    name: str, kind: str, layer: int, number: int, receivers: str
) -> None:
    assert parse(name) == (KINDS[kind], layer, number)
    assert str(Node.parse(name)) == name == KINDS[kind].spell(layer, number)
    assert " ".join(map(str, Graph(8, 13).receivers_of(Node.parse(name)))) == receivers


@each_kind
def test_a_name_has_no_other_spelling(kind: NodeKind) -> None:
    name = kind.spell(7, 12)
    for wrong in (name + " ", name + "<q>", name.upper(), name.replace("7", "07"), name.replace("7", "")):
        assert wrong == name or parse(wrong) is None
    assert not kind.is_several or parse(kind.spell(7, -1)) is None


@each_kind
def test_a_receiver_is_named_by_an_input_that_its_kind_has(kind: NodeKind) -> None:
    node = kind.spell(7, 12)
    names = [f"{node}<{slot}>" if slot else node for slot in kind.slots]
    assert [str(Receiver.parse(name)) for name in names] == names
    for wrong in {node, f"{node}<q>", f"{node}<>", f"{node}<q>>"} - set(names):
        with pytest.raises(CircuitError, match="is no receiver"):
            Receiver.parse(wrong)


def test_no_two_kinds_share_a_name_a_hook_or_a_letter() -> None:
    hooks = [kind.read_hook(slot) for kind in INNER for slot in kind.slots]
    letters = [kind.unit for kind in INNER]
    for names in (
        hooks,
        letters,
        [kind.writes for kind in INNER],
        [kind.noun for kind in KINDS.values()],
    ):
        assert all(names)
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("kind", INNER, ids=[kind.name for kind in INNER])
def test_a_neuron_is_named_by_its_node_s_kind_alone(kind: NodeKind) -> None:
    name = f"{kind.spell(7, 12)}.{kind.unit}5"
    assert str(Neuron.parse(name)) == name
    for other in INNER:
        if other is not kind:
            with pytest.raises(CircuitError, match="is no neuron"):
                Neuron.parse(f"{kind.spell(7, 12)}.{other.unit}5")
