"""Single neurons: what a circuit at neuron level is made of. Names and places, no torch.

An MLP's neurons are its hidden layer, behind the activation (and the gate, where there is one) and
before W_out; a head's are the dimensions of its z, before W_O. Each writes its activation times its
own row of that matrix, and what a node writes is the sum over its neurons: output biases are no
neuron's. Neurons stand in forward order: layer by layer each head's from first to last, head after
head, then the MLP's. The input is no neuron and always kept.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

from circuitfind.circuits.graph import Edge, Graph, Node
from circuitfind.circuits.kinds import INNER
from circuitfind.errors import CircuitError

_NODE = "|".join(rf"{kind.likeness}(?=\.{kind.unit})" for kind in INNER)
_NEURON = re.compile(rf"(?P<node>{_NODE})\.[a-z](?P<index>0|[1-9]\d{{0,8}})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Neuron:
    """One dimension of a head's z, ``a5.h2.d17``, or one unit of an MLP's hidden layer, ``m5.n1024``."""

    node: Node
    index: int

    def __str__(self) -> str:
        return f"{self.node}.{self.node.of_kind.unit}{self.index}"

    @staticmethod
    def parse(name: str) -> Neuron:
        """The neuron of that name. Raises CircuitError for a name that none can have."""
        match = _NEURON.fullmatch(name)
        if match is None:
            raise CircuitError(f"'{name}' is no neuron. Neurons are named a5.h2.d17 and m5.n1024.")
        return Neuron(Node.parse(match["node"]), int(match["index"]))


@dataclass(frozen=True)
class Neurons:
    """All neurons of a model of this shape, and each one's place in forward order."""

    graph: Graph
    d_head: int
    d_mlp: int

    def __len__(self) -> int:
        return self._starts[-1]

    def __iter__(self) -> Iterator[Neuron]:
        return (Neuron(node, index) for node in self.nodes for index in range(self.width(node)))

    def __contains__(self, neuron: Neuron) -> bool:
        return neuron.node in self.graph.sender_index and 0 <= neuron.index < self.width(neuron.node)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes that have neurons: heads and MLPs, in forward order."""
        return self.graph.senders[1:]

    def width(self, node: Node) -> int:
        """How many neurons the node has."""
        return self._width(node.kind)

    def _width(self, kind: str) -> int:
        return {"head": self.d_head, "mlp": self.d_mlp}.get(kind, 0)

    def heads(self, layer: int) -> slice:
        """The places of a layer's heads' neurons."""
        return self.stage(2 * layer)

    def mlp(self, layer: int) -> slice:
        """The places of an MLP's neurons."""
        return self.stage(2 * layer + 1)

    def stage(self, stage: int) -> slice:
        """The places of a layer's heads' neurons (even stages) or its MLP's (odd ones)."""
        return slice(self._starts[stage], self._starts[stage + 1])

    def place(self, neuron: Neuron) -> int:
        """The neuron's place in forward order."""
        node = neuron.node
        first, width = self._spans[node.kind, node.layer]
        return first + max(node.head, 0) * width + neuron.index

    def at(self, place: int) -> Neuron:
        """The neuron at that place."""
        number = bisect_right(self._starts, place) - 1
        stage, within = self.graph.stages[number], place - self._starts[number]
        nth, index = divmod(within, self._width(stage.kind))
        node = self.graph.senders[stage.first_sender + nth]
        return Neuron(node, index)

    @cached_property
    def _spans(self) -> dict[tuple[str, int], tuple[int, int]]:
        """Where each stage's neurons begin, and how many each of its nodes has."""
        return {
            (stage.kind, stage.layer): (start, self._width(stage.kind))
            for stage, start in zip(self.graph.stages, self._starts, strict=True)
        }

    @cached_property
    def _starts(self) -> tuple[int, ...]:
        """The place of each stage's first neuron, and at last how many neurons there are."""
        stages = self.graph.stages[:-1]
        return tuple(accumulate((stage.n * self._width(stage.kind) for stage in stages), initial=0))


def by_node(scores: Mapping[Neuron, float]) -> dict[Node, list[float]]:
    """The scores of each node's kept neurons, nodes in the order of their first."""
    found: dict[Node, list[float]] = {}
    for neuron, score in scores.items():
        found.setdefault(neuron.node, []).append(score)
    return found


def edges_among(graph: Graph, scores: Mapping[Neuron, float]) -> dict[Edge, float]:
    """The edges among the input, the nodes with kept neurons and the logits, each with the sum of
    the scores of its sender's kept neurons: 0 for the input, which has none. Without a kept neuron
    there is no edge."""
    totals = {node: sum(of_node) for node, of_node in by_node(scores).items()}
    ends = {Node("logits"), *totals} if totals else set()
    written = {Node("input"): 0.0, **totals}
    return {
        e: written[e.sender] for e in graph.edges() if e.receiver.node in ends and e.sender in written
    }


def count_neurons(config: Mapping[str, Any]) -> int | None:
    """How many neurons a model has, from its config.json; None where that doesn't say."""

    def find(*names: str) -> int | None:
        return next((config[name] for name in names if isinstance(config.get(name), int)), None)

    d_model, d_mlp = find("hidden_size", "n_embd"), find("intermediate_size", "n_inner")
    n_layers, n_heads = find("num_hidden_layers", "n_layer"), find("num_attention_heads", "n_head")
    if not (d_model and n_layers and n_heads) or (d_mlp is None and "n_embd" not in config):
        return None
    d_head = find("head_dim") or d_model // n_heads
    return n_layers * (n_heads * d_head + (d_mlp or 4 * d_model))  # GPT-2 leaves d_mlp out


def in_order(layout: Neurons, scores: Iterable[tuple[Neuron, float]]) -> dict[Neuron, float]:
    """The neurons in forward order."""
    return dict(sorted(scores, key=lambda item: layout.place(item[0])))
