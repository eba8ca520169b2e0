"""What a method decides on: single edges, whole nodes, or edges into heads that share a key or
value, together.

A unit is a set of edges that are scored, tested, kept and removed together; each edge is in one
unit.

- ``level`` "edge": every edge is a unit of its own. With ``kv`` "grouped", in a model with grouped
  queries, the k inputs of the query heads that share a key/value head are one receiver, and so are
  their v inputs: the edges from a sender into all of them are one unit.
- ``level`` "node": all edges that leave a sender are one unit, since to ablate a node is to ablate
  what it writes, whoever reads it. A circuit of nodes has all edges among them and into the logits.
  The input is scored like any node but always kept: without it no path is left. So it is not among
  those that can be chosen.

Scores stay [receiver, sender] at every level: an edge has the score of its unit. A unit goes by the
place of its *leader*, one of its edges: the first in graph order, or, of the edges that leave a
node, that into the logits, which read every sender. So leaders stand in graph order, and nodes in
forward order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from circuitfind.circuits.graph import Graph, Node, Receiver
from circuitfind.circuits.masks import readable
from circuitfind.errors import UsageError, unknown

LevelName = Literal["edge", "node"]
LEVELS: tuple[LevelName, ...] = ("edge", "node")
KvName = Literal["per-head", "grouped"]
KVS: tuple[KvName, ...] = ("per-head", "grouped")
DEFAULTS: Mapping[str, str] = {"level": "edge", "kv": "per-head"}
"""What a record does not mention."""


def find_level(name: str) -> LevelName:
    """The level of that name. Raises UsageError with the nearest one."""
    for level in LEVELS:
        if level == name:
            return level
    raise UsageError(unknown("level", name, LEVELS))


def find_kv(name: str) -> KvName:
    """The way to take k and v inputs of that name. Raises UsageError with the nearest one."""
    for kv in KVS:
        if kv == name:
            return kv
    raise UsageError(unknown("way to take k and v inputs", name, KVS, "ways to take them"))


def without_defaults(record: Mapping[str, Any]) -> dict[str, Any]:
    """A method's record, in which level and kv stand only where they are not what they were before
    there was a choice.

    >>> without_defaults({"name": "eap", "level": "edge", "kv": "grouped"})
    {'name': 'eap', 'kv': 'grouped'}
    """
    return {key: value for key, value in record.items() if key not in DEFAULTS or DEFAULTS[key] != value}


def summed(level: LevelName, kv: KvName) -> str:
    """How a record says that a unit has the sum of its edges' scores; nothing where each edge has its own."""
    if level == "node":
        return ", summed over the edges that leave a node"
    return ", summed over edges that go together" if kv == "grouped" else ""


def owners(graph: Graph) -> Int[np.ndarray, " receiver"]:
    """Which sender each receiver belongs to; the logits, which send nothing, stand behind the last."""
    logits = len(graph.senders)
    return np.array([graph.sender_index.get(receiver.node, logits) for receiver in graph.receivers])


@dataclass(frozen=True)
class Units:
    """A partition of a graph's edges. ``group``: of how many neighbouring query heads the k inputs,
    and the v inputs, are one receiver; 1 where every head's is its own."""

    graph: Graph
    level: LevelName = "edge"
    group: int = 1

    @staticmethod
    def of(graph: Graph, n_kv_heads: int, level: LevelName, kv: KvName) -> Units:
        """The units of a model's graph. Without grouped queries ``kv`` makes no difference."""
        group = graph.n_heads // n_kv_heads if kv == "grouped" else 1
        return Units(graph, level, group)

    @staticmethod
    def of_record(graph: Graph, n_kv_heads: int, method: Mapping[str, Any]) -> Units:
        """The units that the block ``method`` of a circuit file names, in the model's graph (with roles)."""
        level, kv = (method.get(name) or default for name, default in DEFAULTS.items())
        return Units.of(graph.base, n_kv_heads, find_level(level), find_kv(kv)).at_roles(graph)

    def at_roles(self, graph: Graph) -> Units:
        """The units of the same graph with roles, where single edges are units."""
        return replace(self, graph=graph)

    @property
    def are_edges(self) -> bool:
        """Whether every edge is a unit of its own."""
        return self.level == "edge" and self.group == 1

    @property
    def noun(self) -> str:
        """What they are called where they are counted."""
        return "nodes" if self.level == "node" else "edges" if self.are_edges else "units"

    @cached_property
    def edges(self) -> Bool[Tensor, "receiver sender"]:
        """Where the graph has an edge."""
        return readable(self.graph)

    @cached_property
    def leader(self) -> Int[Tensor, "receiver sender"]:
        """The place of each edge's leader in a flattened [receiver, sender] matrix."""
        index, last = self.graph.receiver_index, len(self.graph.receivers) - 1
        rows = [
            last if self.level == "node" else index[self.together(r)[0]] for r in self.graph.receivers
        ]
        n_senders = len(self.graph.senders)
        return torch.tensor(rows).unsqueeze(1) * n_senders + torch.arange(n_senders)

    @cached_property
    def leaders(self) -> Bool[Tensor, "receiver sender"]:
        """Which edges are leaders: one of each unit."""
        return self.edges & (self.leader == torch.arange(self.edges.numel()).view(self.edges.shape))

    @cached_property
    def choosable(self) -> Bool[Tensor, "receiver sender"]:
        """The leaders of the units that a circuit may have or lack."""
        if self.level == "edge":
            return self.leaders
        choosable = self.leaders.clone()
        choosable[:, 0] = False
        return choosable

    @property
    def n(self) -> int:
        """How many units a circuit may have or lack."""
        return int(self.choosable.sum())

    def together(self, receiver: Receiver) -> tuple[Receiver, ...]:
        """The receivers that are one with this one, from the first head to the last."""
        node = receiver.node
        if receiver.slot not in ("k", "v"):
            return (receiver,)
        if self.group == 1:
            return (receiver,)
        first = node.head - node.head % self.group
        heads = range(first, first + self.group)
        return tuple(Receiver(Node("head", node.layer, head), receiver.slot) for head in heads)

    def receivers(self) -> Iterator[tuple[Receiver, ...]]:
        """All receivers in graph order, those that are one together where the first of them stands."""
        for receiver in self.graph.receivers:
            together = self.together(receiver)
            if together[0] == receiver:
                yield together

    def spread(
        self, values: Shaped[Tensor, "*batch receiver sender"]
    ) -> Shaped[Tensor, "*batch receiver sender"]:
        """What stands at each leader at all edges of its unit; elsewhere what stood there."""
        if self.are_edges:
            return values
        taken = values.flatten(-2)[..., self.leader.flatten()].view(values.shape)
        return torch.where(self.edges, taken, values)

    def sum(
        self, scores: Float[Tensor, "prompt receiver sender"]
    ) -> Float[Tensor, "prompt receiver sender"]:
        """Every edge with the sum over its unit, NaN where the graph has no edge.

        In float64 and in graph order, so that the sum does not depend on how many prompts there
        are.
        """
        if self.are_edges:
            return scores.masked_fill(~self.edges, math.nan)
        places = self.edges.flatten().nonzero().flatten()
        leaders, flat = (
            self.leader.flatten()[places].numpy(),
            scores.double().flatten(1)[:, places].numpy(),
        )
        sums = [torch.from_numpy(np.bincount(leaders, row, minlength=self.edges.numel())) for row in flat]
        return (
            self.spread(torch.stack(sums).view(scores.shape))
            .masked_fill(~self.edges, math.nan)
            .to(scores.dtype)
        )

    def circuit(self, chosen: Bool[Tensor, "receiver sender"]) -> Bool[Tensor, "receiver sender"]:
        """The edges of a circuit of units, given by their leaders. Not pruned."""
        if self.level == "edge":
            return self.spread(chosen) & self.edges
        nodes = chosen[-1].clone()
        nodes[0] = True
        reads = torch.cat((nodes, nodes.new_ones(1)))[torch.from_numpy(owners(self.graph))]
        return self.edges & nodes & reads.unsqueeze(1)
