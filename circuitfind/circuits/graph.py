"""The computational graph of a decoder-only transformer at edge level: pure data, no model, no torch.

Senders write to the residual stream: the input (token embedding), every attention head's output,
every MLP's output. Receivers read from it: the q, k and v input of every head, every MLP's input,
and the logits. An edge says that a receiver reads what a sender wrote. The names are those of
EAP-IG and MIB: ``a0.h1->a5.h2<k>``, ``input->m0``, ``a9.h9->logits``. Under grouped-query attention
every query head has its own k and v receiver, as the field has it.

Both lists stand in forward order, and what a receiver can read is always a prefix of the senders:
so an edge is a pair of indices, and a set of edges is a [receiver, sender] mask.

With *roles*, the names of groups of token positions, every receiver but the logits is there once
for each role: ``a0.h1->a5.h2<k>@S2`` says that what a0.h1 wrote is read by a5.h2's keys at the
positions of S2. The logits read at the answer position alone, which is the last role, ``END``. A
set of edges is still a [receiver, sender] mask, of more rows.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from circuitfind.errors import CircuitError

Slot = Literal["q", "k", "v"]
SLOTS: tuple[Slot, ...] = ("q", "k", "v")

END = "END"
"""The role of the answer position, the last token of each prompt."""
REST = "rest"
"""The role of positions that belong to no other."""
LONGEST_ROLE = 16

_ROLE = rf"[A-Za-z0-9_][A-Za-z0-9_.+-]{{0,{LONGEST_ROLE - 1}}}"
_NUMBER = r"0|[1-9]\d{0,8}"  # one spelling for each number: m01 would be a second name of m1
_NODE = re.compile(
    rf"input|logits|m(?P<mlp>{_NUMBER})|a(?P<layer>{_NUMBER})\.h(?P<head>{_NUMBER})(<(?P<slot>[qkv])>)?",
    re.ASCII,
)


def is_role(name: str) -> bool:
    """Whether a role can be called so.

    >>> is_role("S1"), is_role("S 1"), is_role("a->b")
    (True, False, False)
    """
    return re.fullmatch(_ROLE, name, re.ASCII) is not None


@dataclass(frozen=True, slots=True)
class Node:
    """A component of the model: ``input``, ``a5.h2``, ``m5`` or ``logits``.

    ``role``: as it is at these positions alone, as a picture of positions shows it; a graph's
    senders have none. A head without a number, ``a5``, is all heads of its layer, as a picture may
    show them; a graph has none.
    """

    kind: Literal["input", "head", "mlp", "logits"]
    layer: int = -1
    head: int = -1
    role: str | None = None

    def __str__(self) -> str:
        return self.name if self.role is None else f"{self.name}@{self.role}"

    @property
    def name(self) -> str:
        """The component's, whatever the role."""
        if self.kind == "head":
            return f"a{self.layer}" if self.head < 0 else f"a{self.layer}.h{self.head}"
        return f"m{self.layer}" if self.kind == "mlp" else self.kind

    def at(self, role: str | None) -> Node:
        """The node at the positions of a role."""
        return self if role == self.role else replace(self, role=role)

    @staticmethod
    def parse(name: str) -> Node:
        """The node of that name. Raises CircuitError for a name no graph can have."""
        match = _NODE.fullmatch(name)
        if match is None or match["slot"]:
            raise CircuitError(f"'{name}' is no node. Nodes are named input, a0.h1, m0 and logits.")
        if match["layer"]:
            return Node("head", int(match["layer"]), int(match["head"]))
        if match["mlp"]:
            return Node("mlp", int(match["mlp"]))
        return Node("input" if name == "input" else "logits")


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where a node reads the residual stream: a head at its q, k or v input, an MLP and the logits
    at their one.

    ``role``: it reads at these positions alone.
    """

    node: Node
    slot: Slot | None = None
    role: str | None = None

    def __str__(self) -> str:
        name = f"{self.node}<{self.slot}>" if self.slot else str(self.node)
        return name if self.role is None else f"{name}@{self.role}"

    @property
    def base(self) -> Receiver:
        """The same at all positions."""
        return Receiver(self.node, self.slot)

    @property
    def serves(self) -> str | None:
        """At which role the node writes what it makes of this input: at the same, or (None) at any,
        since keys and values are seen from other positions."""
        return None if self.slot in ("k", "v") else self.role

    @staticmethod
    def parse(name: str) -> Receiver:
        """The receiver of that name. Raises CircuitError for a name no graph can have."""
        base, at, role = name.partition("@")
        match = _NODE.fullmatch(base)
        if match is None or base == "input" or (match["layer"] and not match["slot"]):
            raise CircuitError(
                f"'{name}' is no receiver. Receivers are named a0.h1<q>, a0.h1<k>, a0.h1<v>, m0 and logits."
            )
        if at and (not is_role(role) or base == "logits"):
            raise CircuitError(
                f"'{name}' is no receiver. At the positions of a role it is named like a0.h1<q>@S2."
            )
        slot = next((s for s in SLOTS if s == match["slot"]), None)
        return Receiver(Node.parse(base.partition("<")[0]), slot, role or None)


@dataclass(frozen=True, slots=True)
class Edge:
    """A receiver reads what a sender wrote."""

    sender: Node
    receiver: Receiver

    def __hash__(self) -> int:
        """Of what tells edges apart, in one call: circuits of a million edges are compared."""
        sender, receiver = self.sender, self.receiver
        node = receiver.node
        return hash((sender.layer, sender.head, node.layer, node.head, receiver.slot, receiver.role))

    def __str__(self) -> str:
        return f"{self.sender}->{self.receiver}"

    @staticmethod
    def parse(name: str) -> Edge:
        """The edge of that name. Raises CircuitError for a name no graph can have."""
        sender, arrow, receiver = name.partition("->")
        if not arrow:
            raise CircuitError(
                f"'{name}' is no edge. Edges are named like a0.h1->a5.h2<k>, input->m0 or a9.h9->logits."
            )
        return Edge(Node.parse(sender), Receiver.parse(receiver))


@dataclass(frozen=True)
class Graph:
    """All nodes and edges of a model of this shape.

    ``parallel``: attention and MLP of a layer read the same stream (Pythia, GPT-J), so that an MLP
    does not read the heads of its own layer. ``roles``: names of groups of positions, the last of
    them ``END``, the answer position; none where an edge stands for all positions.
    """

    n_layers: int
    n_heads: int
    parallel: bool = False
    roles: tuple[str, ...] = ()

    @property
    def base(self) -> Graph:
        """The same without roles."""
        return replace(self, roles=())

    @property
    def n_roles(self) -> int:
        """How often each receiver but the logits is there."""
        return max(1, len(self.roles))

    @cached_property
    def senders(self) -> tuple[Node, ...]:
        """Input, then for each layer its heads and its MLP."""
        layers = (
            (*(Node("head", layer, head) for head in range(self.n_heads)), Node("mlp", layer))
            for layer in range(self.n_layers)
        )
        return (Node("input"), *(node for layer in layers for node in layer))

    @cached_property
    def receivers(self) -> tuple[Receiver, ...]:
        """For each layer the q, k and v inputs of its heads and its MLP's input, each at its roles;
        then the logits.
        """
        layers = (
            (
                *((Node("head", layer, head), slot) for slot in SLOTS for head in range(self.n_heads)),
                (Node("mlp", layer), None),
            )
            for layer in range(self.n_layers)
        )
        inner = (
            Receiver(*reads, role) for layer in layers for reads in layer for role in self.roles or (None,)
        )
        return (*inner, Receiver(Node("logits")))

    @cached_property
    def sender_index(self) -> dict[Node, int]:
        return {sender: index for index, sender in enumerate(self.senders)}

    @cached_property
    def receiver_index(self) -> dict[Receiver, int]:
        return {receiver: index for index, receiver in enumerate(self.receivers)}

    def n_readable(self, receiver: Receiver) -> int:
        """How many senders the receiver reads: the first so many of ``senders``."""
        if receiver.node.kind == "logits":
            return len(self.senders)
        before = 1 + receiver.node.layer * (self.n_heads + 1)
        own_heads = self.n_heads if receiver.node.kind == "mlp" and not self.parallel else 0
        return before + own_heads

    @cached_property
    def n_edges(self) -> int:
        """How many edges there are, counted without a list of them."""
        of_layer = [1 + layer * (self.n_heads + 1) for layer in range(self.n_layers + 1)]
        own_heads = 0 if self.parallel else self.n_heads
        inner = sum(3 * self.n_heads * before + before + own_heads for before in of_layer[:-1])
        return self.n_roles * inner + of_layer[-1]

    @property
    def n_nodes(self) -> int:
        """Input, heads, MLPs and logits."""
        return len(self.senders) + 1

    def edges(self) -> Iterator[Edge]:
        """Every edge in graph order: receivers in forward order, for each its senders in forward order."""
        for receiver in self.receivers:
            for sender in self.senders[: self.n_readable(receiver)]:
                yield Edge(sender, receiver)

    def __contains__(self, edge: Edge) -> bool:
        sender = self.sender_index.get(edge.sender)
        return (
            sender is not None
            and edge.receiver in self.receiver_index
            and sender < self.n_readable(edge.receiver)
        )

    def places(self, edges: Collection[Edge]) -> Iterator[tuple[int, int] | None]:
        """Each edge's place in graph order, as ``order`` has it; None of an edge that the graph hasn't got.

        Nodes and receivers that are one object are looked up once: of a million edges there are
        some thousand.
        """
        rows: dict[int, tuple[int, int]] = {}
        columns: dict[int, int] = {}
        for edge in edges:  # a collection, so that no object goes and leaves its id to another
            row = rows.get(id(edge.receiver))
            if row is None:
                place = self.receiver_index.get(edge.receiver)
                row = (0, 0) if place is None else (place, self.n_readable(edge.receiver))
                rows[id(edge.receiver)] = row
            column = columns.get(id(edge.sender))
            if column is None:
                column = columns[id(edge.sender)] = self.sender_index.get(edge.sender, len(self.senders))
            yield (row[0], column) if column < row[1] else None

    def receivers_of(self, node: Node) -> tuple[Receiver, ...]:
        """Where the node reads: three receivers of a head, one of an MLP or the logits, none of the
        input; with roles each at every one."""
        if node.kind == "input":
            return ()
        if node.kind == "logits":
            return (Receiver(node),)
        slots = SLOTS if node.kind == "head" else (None,)
        return tuple(Receiver(node, slot, role) for slot in slots for role in self.roles or (None,))

    def role_of(self, receiver: Receiver) -> str | None:
        """At which role the receiver reads: the logits at the last."""
        return self.roles[-1] if self.roles and receiver.node.kind == "logits" else receiver.role

    def to_dict(self) -> dict[str, Any]:
        """The block ``graph`` of a circuit file."""
        block: dict[str, Any] = {"n_edges": self.n_edges, "n_nodes": self.n_nodes}
        return block | {"positions": list(self.roles)} if self.roles else block

    def order(self, edge: Edge) -> tuple[int, int]:
        """The edge's place in graph order, as a sort key."""
        return self.receiver_index[edge.receiver], self.sender_index[edge.sender]
