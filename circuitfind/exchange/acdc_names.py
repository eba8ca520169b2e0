"""The names of ACDC's edges: hooks of TransformerLens and places in them, to and fro (acdc.py says
how they look).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from circuitfind.circuits.graph import SLOTS, Edge, Graph, Node, Receiver
from circuitfind.errors import CircuitError

Index = tuple[int | None, ...]
Key = tuple[str, Index, str, Index]
"""An edge as ACDC names it: the receiver's hook and index, then the sender's."""
WHOLE: Index = (None,)
EMBEDDINGS = ("blocks.0.hook_resid_pre", "hook_embed", "hook_pos_embed")
_RECEIVER = re.compile(
    r"blocks\.(?P<layer>0|[1-9]\d{0,8})\.hook_((?P<slot>[qkv])_input|(?P<mlp>mlp_in|resid_mid)|(?P<logits>resid_post))"
)
_SENDER = re.compile(r"blocks\.(?P<layer>0|[1-9]\d{0,8})\.(attn\.(?P<head>hook_result)|hook_mlp_out)")
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
    """The edges within a node that lead on from one of its inputs."""
    block, index = f"blocks.{receiver.node.layer}", _index(receiver.node)
    if receiver.node.kind == "mlp":
        yield f"{block}.hook_mlp_out", index, f"{block}.hook_mlp_in", index
    elif receiver.node.kind == "head":
        yield f"{block}.attn.hook_{receiver.slot}", index, f"{block}.hook_{receiver.slot}_input", index
        yield f"{block}.attn.hook_result", index, f"{block}.attn.hook_{receiver.slot}", index


def _index(node: Node) -> Index:
    return (None, None, node.head) if node.kind == "head" else WHOLE


def _receiver_hook(receiver: Receiver, graph: Graph) -> tuple[str, Index]:
    node = receiver.node
    if node.kind == "logits":
        return f"blocks.{graph.n_layers - 1}.hook_resid_post", WHOLE
    hook = f"hook_{receiver.slot}_input" if node.kind == "head" else "hook_mlp_in"
    return f"blocks.{node.layer}.{hook}", _index(node)


def _sender_hook(node: Node) -> tuple[str, Index]:
    if node.kind == "input":
        return EMBEDDINGS[0], WHOLE
    return f"blocks.{node.layer}.{'attn.hook_result' if node.kind == 'head' else 'hook_mlp_out'}", _index(
        node
    )


def _receiver_of(hook: str, index: Index) -> Receiver:
    match = _RECEIVER.fullmatch(hook)
    slot = next((slot for slot in SLOTS if match and slot == match["slot"]), None)
    if match is None or not _fits(index, is_head=slot is not None):
        raise CircuitError(f"ACDC has no receiver {hook}{_spell_index(index)}.")
    if match["logits"]:
        return Receiver(Node("logits"))
    if slot is None:
        return Receiver(Node("mlp", int(match["layer"])))
    return Receiver(Node("head", int(match["layer"]), index[-1] or 0), slot)


def _sender_of(hook: str, index: Index) -> Node:
    if hook in EMBEDDINGS and index == WHOLE:
        return Node("input")
    match = _SENDER.fullmatch(hook)
    if match is None or not _fits(index, is_head=match["head"] is not None):
        raise CircuitError(f"ACDC has no sender {hook}{_spell_index(index)}.")
    return (
        Node("head", int(match["layer"]), index[-1] or 0)
        if match["head"]
        else Node("mlp", int(match["layer"]))
    )


def _fits(index: Index, is_head: bool) -> bool:
    """Whether the index is one of a head, or of a whole layer."""
    return (
        len(index) == 3 and index[:2] == (None, None) and index[2] is not None if is_head else index == WHOLE
    )


def _spell_index(index: Index) -> str:
    return f"[{', '.join(':' if i is None else str(i) for i in index)}]"
