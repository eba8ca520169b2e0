"""Two circuits of models of one shape side by side: what was gained, what was lost, and what has
another score.

Edges are compared by name, so that models may differ in their weights (a fine-tuned checkpoint,
another revision) but not in their layers, heads and blocks. Scores are comparable where the same
method gave both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from circuitfind.circuits.bases import Neuron
from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Graph, Node
from circuitfind.circuits.kinds import KINDS, SLOTS
from circuitfind.errors import CircuitError, UsageError

CHANGED = 0.1
"""By which share of the larger of two scores they must differ to count as changed."""
ROLES = (*SLOTS, *(kind.name for kind in KINDS.values() if kind.slots))
"""What an edge leads into, and what a neuron is of."""

Part = Edge | Neuron
"""What a circuit keeps: edges, or at neuron level neurons."""
Placed = Mapping[int, tuple[Part, float]]


@dataclass(frozen=True)
class Overlap:
    """How much two sets have in common. Of two empty ones everything: they are the same."""

    n_before: int
    n_after: int
    n_common: int

    @property
    def jaccard(self) -> float:
        """What both have, of what either has."""
        n_either = self.n_before + self.n_after - self.n_common
        return self.n_common / n_either if n_either else 1.0

    @property
    def precision(self) -> float | None:
        """What of the second is in the first; None if the second is empty."""
        return self.n_common / self.n_after if self.n_after else None

    @property
    def recall(self) -> float | None:
        """What of the first is in the second; None if the first is empty."""
        return self.n_common / self.n_before if self.n_before else None

    def to_dict(self) -> dict[str, Any]:
        return {
            "before": self.n_before,
            "after": self.n_after,
            "common": self.n_common,
            "jaccard": self.jaccard,
            "precision": self.precision,
            "recall": self.recall,
        }


def overlap(before: Collection[Any], after: Collection[Any]) -> Overlap:
    """Of two sets of anything."""
    return Overlap(len(before), len(after), len(set(before).intersection(after)))


@dataclass(frozen=True)
class Comparison:
    """What has become of the circuit ``before``. ``tolerance``: which relative change of a score
    does not count.
    """

    before: Circuit
    after: Circuit
    tolerance: float = CHANGED

    @property
    def noun(self) -> str:
        """What is compared."""
        return "edges" if self.before.neurons is None else "neurons"

    @cached_property
    def _sides(self) -> tuple[Placed, Placed]:
        """Both circuits by the places of what they keep: numbers, of which a million are compared at once."""
        return place(self.before), place(self.after)

    @cached_property
    def kept(self) -> Overlap:
        """Of the edges, or at neuron level of the neurons."""
        before, after = self._sides
        return Overlap(len(before), len(after), len(before.keys() & after.keys()))

    @cached_property
    def nodes(self) -> Overlap:
        return overlap(self.before.nodes, self.after.nodes)

    @cached_property
    def lost(self) -> Mapping[Part, float]:
        """Edges that are no longer there with the score that they had, the largest first."""
        before, after = self._sides
        return _largest_first(dict(part for at, part in before.items() if at not in after))

    @cached_property
    def gained(self) -> Mapping[Part, float]:
        """New edges with their score, the largest first."""
        before, after = self._sides
        return _largest_first(dict(part for at, part in after.items() if at not in before))

    @cached_property
    def changed(self) -> Mapping[Part, tuple[float, float]]:
        """Edges of both whose score has changed, before and after; the largest change first."""
        before, after = self._sides
        pairs = ((part, score, after[at][1]) for at, (part, score) in before.items() if at in after)
        changed = [
            (part, (x, y)) for part, x, y in pairs if abs(x - y) > self.tolerance * max(abs(x), abs(y))
        ]
        return dict(sorted(changed, key=lambda item: -abs(item[1][0] - item[1][1])))

    @property
    def lost_nodes(self) -> tuple[Node, ...]:
        return tuple(_without(self.before.nodes, self.after.nodes))

    @property
    def gained_nodes(self) -> tuple[Node, ...]:
        return tuple(_without(self.after.nodes, self.before.nodes))

    @property
    def is_same(self) -> bool:
        """Whether both have the same edges, whatever their scores."""
        return not self.lost and not self.gained

    def by_layer(self) -> dict[str, Overlap]:
        """The edges into each layer and into the logits, or each layer's neurons: where either
        circuit has some.
        """
        names = [*map(str, range(self.before.graph.n_layers)), "logits"]
        return self._by(names, lambda part: "logits" if _node(part).layer < 0 else str(_node(part).layer))

    def by_role(self) -> dict[str, Overlap]:
        """The edges by what they lead into: q, k, v inputs of heads, MLPs, the logits. Neurons by
        what they are of.
        """
        return self._by(
            ROLES, lambda part: (part.receiver.slot if isinstance(part, Edge) else "") or _node(part).kind
        )

    def _by(self, names: Collection[str], name: Callable[[Part], str]) -> dict[str, Overlap]:
        before, after = self._sides
        sides = (before.values(), after.values(), (part for at, part in before.items() if at in after))
        counts = [Counter(name(part) for part, _ in side) for side in sides]
        parts = {wanted: Overlap(*(count[wanted] for count in counts)) for wanted in names}
        return {wanted: part for wanted, part in parts.items() if part.n_before or part.n_after}

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, edges and nodes by their names."""
        return {
            "before": _identity(self.before),
            "after": _identity(self.after),
            "tolerance": self.tolerance,
            self.noun: self.kept.to_dict(),
            "nodes": self.nodes.to_dict(),
            "lost": {str(edge): score for edge, score in self.lost.items()},
            "gained": {str(edge): score for edge, score in self.gained.items()},
            "changed": {str(edge): list(scores) for edge, scores in self.changed.items()},
            "lost_nodes": list(map(str, self.lost_nodes)),
            "gained_nodes": list(map(str, self.gained_nodes)),
            "by_layer": {name: part.to_dict() for name, part in self.by_layer().items()},
            "by_role": {name: part.to_dict() for name, part in self.by_role().items()},
        }


def compare(before: Circuit, after: Circuit, tolerance: float = CHANGED) -> Comparison:
    """The comparison. Raises CircuitError for models of different shapes and for one of neurons
    beside one of edges, UsageError for a tolerance below 0 or not below 1."""
    if not 0 <= tolerance < 1:
        raise UsageError(
            f"--tolerance is {tolerance}; give it a share, 0 or more and below 1, such as {CHANGED}."
        )
    if (before.neurons is None) != (after.neurons is None):
        raise CircuitError("One circuit is of neurons, the other of edges. Compare circuits of one kind.")
    check_same_graph(before.graph, "the other circuit", after.graph)
    return Comparison(before, after, tolerance)


def place(circuit: Circuit) -> Placed:
    """What the circuit keeps, with scores, by its place in graph or forward order."""
    if circuit.neurons is not None:
        return {
            circuit.all_neurons.place(neuron): (neuron, score)
            for neuron, score in circuit.neurons.items()
        }
    n_senders = len(circuit.graph.senders)
    places = (row * n_senders + sender for (row, sender), _ in circuit.places())
    return dict(zip(places, circuit.edges.items(), strict=True))


def _node(part: Part) -> Node:
    """The node that an edge leads into, or that a neuron is of."""
    return part.receiver.node if isinstance(part, Edge) else part.node


def check_same_graph(graph: Graph, what: str, other: Graph) -> None:
    """Raises CircuitError where a circuit's graph is not that of ``what`` it is to be compared with
    or run in.
    """
    if graph != other:
        raise CircuitError(
            f"The circuit is of {describe_shape(graph)}, {what} of {describe_shape(other)}.\n"
            "Both must have one shape, and tell the same positions apart."
        )


def describe_shape(graph: Graph) -> str:
    """A graph's shape in a few words."""
    blocks = "parallel" if graph.parallel else "sequential"
    places = f" at {', '.join(graph.roles)}" if graph.roles else ""
    return f"{graph.n_layers} layers of {graph.n_heads} heads in {blocks} blocks{places}"


def _without(nodes: Collection[Node], others: Collection[Node]) -> Iterator[Node]:
    """Those that are not among the others, as they stand."""
    known = set(others)
    return (node for node in nodes if node not in known)


def _identity(circuit: Circuit) -> dict[str, Any]:
    """What tells a circuit from others: of which model and task, found how."""
    return {
        "model": circuit.model.get("name"),
        "sha256": circuit.model.get("sha256"),
        "task": circuit.task.get("name"),
        "method": circuit.method.get("name"),
        "n_edges": len(circuit.edges),
        **({} if circuit.neurons is None else {"n_neurons": len(circuit.neurons)}),
    }


def _largest_first(parts: Mapping[Part, float]) -> dict[Part, float]:
    """By |score|; of equal ones the first in graph order first."""
    return dict(sorted(parts.items(), key=lambda item: -abs(item[1])))
