"""The names of ACDC's edges: hooks of TransformerLens and places in them, to and fro (acdc.py says
how they look).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from circuitfind.circuits.graph import Edge, Graph, Node, Receiver
from circuitfind.circuits.kinds import INNER, KINDS, NodeKind, Slot
from circuitfind.errors import CircuitError

Index = tuple[int | None, ...]
Key = tuple[str, Index, str, Index]
"""An edge as ACDC names it: the receiver's hook and index, then the sender's."""
WHOLE: Index = (None,)
EMBEDDINGS = ("blocks.0.hook_resid_pre", "hook_embed", "hook_pos_embed")
_HOOK = re.compile(r"blocks\.(?P<layer>0|[1-9]\d{0,8})\.(?P<name>.+)")
_LOGITS = "hook_resid_post"
"""Of the last block."""
_WRITES = {kind.writes: kind for kind in INNER}
_READS: dict[str, tuple[NodeKind, Slot | None]] = {
    **{kind.read_hook(slot): (kind, slot) for kind in INNER for slot in kind.slots},
    "hook_resid_mid": (KINDS["mlp"], None),
    _LOGITS: (KINDS["logits"], None),
}
_WITHIN = re.compile(r"blocks\.\d+\.(attn\.hook_(result|[qkv])|hook_mlp_out)")
"""Receivers of edges within a node."""


def all_keys(graph: Graph) -> Iterator[Key]:
    """Every edge of ACDC's own graph of such a model: those of the graph, then those within nodes."""
    for edge in graph.edges():
        yield key_of(edge, graph)
    for receiver in graph.receivers[:-1]:
        yield from within(receiver)


def key_of(edge: Edge, graph: Graph) -> Key:
    """ACDC's names for an edge."""
    return (*_receiver_hook(edge.receiver, graph), *_sender_hook(edge.sender))


def edge_of(key: Key) -> Edge | None:
    """The edge that ACDC names so; None for one within a node. Raises CircuitError for names that
    it hasn't got.
    """
    receiver_hook, receiver_index, sender_hook, sender_index = key
    if _WITHIN.fullmatch(receiver_hook):
        return None
    return Edge(_sender_of(sender_hook, sender_index), _receiver_of(receiver_hook, receiver_index))


def within(receiver: Receiver) -> Iterator[Key]:
    """The edges within a node that lead on from one of its inputs; within the logits there is none."""
    node, slot = receiver.node, receiver.slot
    if not node.is_inner:
        return
    block, index = f"blocks.{node.layer}", _index(node)
    read, written = (f"{block}.{hook}" for hook in (node.of_kind.read_hook(slot), node.of_kind.writes))
    if slot is None:
        yield written, index, read, index
    else:
        yield f"{block}.attn.hook_{slot}", index, read, index
        yield written, index, f"{block}.attn.hook_{slot}", index


def _index(node: Node) -> Index:
    return (None, None, node.head) if node.of_kind.is_several else WHOLE


def _receiver_hook(receiver: Receiver, graph: Graph) -> tuple[str, Index]:
    node = receiver.node
    if node.kind == "logits":
        return f"blocks.{graph.n_layers - 1}.{_LOGITS}", WHOLE
    return f"blocks.{node.layer}.{node.of_kind.read_hook(receiver.slot)}", _index(node)


def _sender_hook(node: Node) -> tuple[str, Index]:
    if node.kind == "input":
        return EMBEDDINGS[0], WHOLE
    return f"blocks.{node.layer}.{node.of_kind.writes}", _index(node)


def _receiver_of(hook: str, index: Index) -> Receiver:
    match = _HOOK.fullmatch(hook)
    kind, slot = _READS.get(match["name"], (None, None)) if match else (None, None)
    if match is None or kind is None or not _fits(index, kind):
        raise CircuitError(f"ACDC has no receiver {hook}{_spell_index(index)}.")
    return Receiver(_node(kind, int(match["layer"]), index), slot)


def _sender_of(hook: str, index: Index) -> Node:
    if hook in EMBEDDINGS and index == WHOLE:
        return Node("input")
    match = _HOOK.fullmatch(hook)
    kind = _WRITES.get(match["name"]) if match else None
    if match is None or kind is None or not _fits(index, kind):
        raise CircuitError(f"ACDC has no sender {hook}{_spell_index(index)}.")
    return _node(kind, int(match["layer"]), index)


def _node(kind: NodeKind, layer: int, index: Index) -> Node:
    """The node of that kind; the logits lie in no layer."""
    if not kind.is_inner:
        return Node(kind.name)
    return Node(kind.name, layer, -1 if index[-1] is None else index[-1])


def _fits(index: Index, kind: NodeKind) -> bool:
    """Whether the index is one of such nodes: a number in the layer where it has several, or the whole."""
    if not kind.is_several:
        return index == WHOLE
    return len(index) == 3 and index[:2] == (None, None) and index[2] is not None


def _spell_index(index: Index) -> str:
    return f"[{', '.join(':' if i is None else str(i) for i in index)}]"
