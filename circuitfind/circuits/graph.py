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

All of it is derived from a graph's *stages*, which say what nodes there are, what they read and
where they stand in both lists. Everything that counts or numbers nodes, receivers and edges asks
them (``circuits/layout.py``); how many heads a layer has is said in ``Graph.layers`` alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from circuitfind.circuits import kinds
from circuitfind.circuits.kinds import INNER, KINDS, SLOTS, KindName, NodeKind, Slot
from circuitfind.errors import CircuitError

__all__ = [
    "END",
    "REST",
    "SLOTS",
    "Counts",
    "Edge",
    "Graph",
    "Node",
    "Receiver",
    "Slot",
    "Stage",
    "is_role",
]

END = "END"
"""The role of the answer position, the last token of each prompt."""
REST = "rest"
"""The role of positions that belong to no other."""
LONGEST_ROLE = 16

_SLOTS: dict[str, Slot | None] = {"": None} | {f"<{slot}>": slot for slot in SLOTS}
_ROLE = rf"[A-Za-z0-9_][A-Za-z0-9_.+-]{{0,{LONGEST_ROLE - 1}}}"


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

    kind: KindName
    layer: int = -1
    head: int = -1
    role: str | None = None

    def __str__(self) -> str:
        name = KINDS[self.kind].spell(self.layer, self.head)
        return name if self.role is None else f"{name}@{self.role}"

    @property
    def name(self) -> str:
        """The component's, whatever the role."""
        return KINDS[self.kind].spell(self.layer, self.head)

    @property
    def of_kind(self) -> NodeKind:
        """What is told of its kind."""
        return KINDS[self.kind]

    @property
    def is_inner(self) -> bool:
        """Whether it lies in a layer: it is neither the input nor the logits."""
        return KINDS[self.kind].is_inner

    def at(self, role: str | None) -> Node:
        """The node at the positions of a role."""
        return self if role == self.role else replace(self, role=role)

    @staticmethod
    def parse(name: str) -> Node:
        """The node of that name. Raises CircuitError for a name no graph can have."""
        found = kinds.parse(name)
        if found is None:
            raise CircuitError(f"'{name}' is no node. Nodes are named {kinds.node_examples()}.")
        kind, layer, number = found
        return Node(kind.name, layer, number)


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
        node, opened, rest = base.partition("<")
        found, spelled = kinds.parse(node), opened + rest
        if found is None or spelled not in _SLOTS or _SLOTS[spelled] not in found[0].slots:
            raise CircuitError(
                f"'{name}' is no receiver. Receivers are named {kinds.receiver_examples()}."
            )
        kind, layer, number = found
        if at and (not is_role(role) or not kind.is_inner):
            raise CircuitError(
                f"'{name}' is no receiver. At the positions of a role it is named like a0.h1<q>@S2."
            )
        return Receiver(Node(kind.name, layer, number), _SLOTS[spelled], role or None)


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


@dataclass(frozen=True, slots=True)
class Stage:
    """Nodes of one kind that read the same stream and write side by side: a layer's heads, its MLP,
    or the logits, which write nothing that is read.

    ``number``: its place among the stages; ``n``: its nodes, none in a layer that has none of this
    kind. Its nodes are the senders from ``first_sender`` on, its receivers, slot by slot, those from
    ``first_receiver`` on in a graph without roles; each reads the first ``n_readable`` senders.
    """

    number: int
    kind: KindName
    layer: int
    n: int
    first_sender: int
    first_receiver: int
    n_readable: int

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Its nodes in forward order."""
        if KINDS[self.kind].is_several:
            return tuple(Node(self.kind, self.layer, number) for number in range(self.n))
        return (Node(self.kind, self.layer),) * self.n

    @property
    def slots(self) -> tuple[Slot | None, ...]:
        """Where each node reads."""
        return KINDS[self.kind].slots

    @property
    def n_receivers(self) -> int:
        """How many receivers it has, at one role."""
        return self.n * len(self.slots)

    @property
    def senders(self) -> slice:
        """Its nodes among the senders."""
        return slice(self.first_sender, self.first_sender + self.n)

    @property
    def receivers(self) -> range:
        """Its receivers among those of a graph without roles."""
        return range(self.first_receiver, self.first_receiver + self.n_receivers)


@dataclass(frozen=True)
class Counts:
    """How many senders, receivers and edges a graph without roles has."""

    senders: int
    receivers: int
    edges: int

    @staticmethod
    def of(n_layers: int, n_heads: int) -> Counts:
        """Those of sequential blocks that are all alike, counted without a graph: a file may claim
        any number of layers.

        >>> Counts.of(12, 12)
        Counts(senders=157, receivers=445, edges=32491)
        """
        writes, reads = n_heads + 1, len(SLOTS) * n_heads + 1  # of each layer
        before = n_layers + writes * n_layers * (n_layers - 1) // 2  # senders before each layer, summed
        senders = 1 + n_layers * writes
        return Counts(senders, 1 + n_layers * reads, reads * before + n_layers * n_heads + senders)


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

    @property
    def layers(self) -> tuple[tuple[int, int], ...]:
        """How many heads and how many MLPs each layer has: nothing else says it."""
        return ((self.n_heads, 1),) * self.n_layers

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """In forward order: each layer's heads, then its MLP; the logits last."""
        stages: list[Stage] = []
        sender, receiver = 1, 0
        for layer, (n_heads, n_mlps) in enumerate(self.layers):
            heads = Stage(len(stages), "head", layer, n_heads, sender, receiver, sender)
            behind, row = heads.senders.stop, heads.receivers.stop
            reads = sender if self.parallel else behind
            mlp = Stage(len(stages) + 1, "mlp", layer, n_mlps, behind, row, reads)
            stages += [heads, mlp]
            sender, receiver = mlp.senders.stop, mlp.receivers.stop
        return (*stages, Stage(len(stages), "logits", -1, 1, sender, receiver, sender))

    @cached_property
    def _stage_of(self) -> dict[tuple[str, int], Stage]:
        return {(stage.kind, stage.layer): stage for stage in self.stages}

    def stage_of(self, node: Node) -> Stage:
        """The stage of a node that reads: any but the input."""
        return self._stage_of[node.kind, node.layer]

    def layer(self, number: int) -> tuple[Stage, Stage]:
        """A layer's heads and its MLP."""
        heads, mlp = self.stages[2 * number : 2 * number + 2]
        return heads, mlp

    def count(self, kind: str) -> int:
        """How many nodes of a kind there are."""
        return sum(stage.n for stage in self.stages if stage.kind == kind)

    def extent(self, nodes: Iterable[Node], spec: str = "") -> str:
        """How many of the layers' nodes these are, for people; ``spec``: how a number is spelled.

        >>> Graph(2, 4).extent([Node("head", 0, 1), Node("mlp", 1)])
        '1 of 8 heads, 1 of 2 MLPs'
        """
        found = Counter(node.kind for node in nodes)
        each = ((found[kind.name], self.count(kind.name), kind.noun) for kind in INNER)
        return ", ".join(f"{n:{spec}} of {n_all:{spec}} {noun}s" for n, n_all, noun in each)

    def depth(self, node: Node) -> int:
        """A reading node's layer; the logits come behind all of them."""
        return self.stage_of(node).number // 2

    @cached_property
    def senders(self) -> tuple[Node, ...]:
        """Input, then for each layer its heads and its MLP."""
        return (Node("input"), *(node for stage in self.stages[:-1] for node in stage.nodes))

    @cached_property
    def receivers(self) -> tuple[Receiver, ...]:
        """For each layer the q, k and v inputs of its heads and its MLP's input, each at its roles;
        then the logits.
        """
        inner = (
            Receiver(node, slot, role)
            for stage, nodes in ((stage, stage.nodes) for stage in self.stages[:-1])
            for slot in stage.slots
            for node in nodes
            for role in self.roles or (None,)
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
        return self._stage_of[receiver.node.kind, receiver.node.layer].n_readable

    @cached_property
    def n_readable_each(self) -> tuple[int, ...]:
        """How many senders each receiver reads."""
        inner = (
            count for s in self.stages[:-1] for count in (s.n_readable,) * (s.n_receivers * self.n_roles)
        )
        return (*inner, self.stages[-1].n_readable)

    @cached_property
    def n_edges(self) -> int:
        """How many edges there are, counted without a list of them."""
        inner = sum(stage.n_receivers * stage.n_readable for stage in self.stages[:-1])
        return self.n_roles * inner + self.stages[-1].n_readable

    @property
    def n_nodes(self) -> int:
        """Input, heads, MLPs and logits."""
        return self.stages[-1].first_sender + 1

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
        roles = self.roles or (None,) if node.is_inner else (None,)
        return tuple(Receiver(node, slot, role) for slot in node.of_kind.slots for role in roles)

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
