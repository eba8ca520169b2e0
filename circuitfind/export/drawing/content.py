"""What a picture shows of a circuit: which edges and nodes, with which scores, marks and labels. No
places yet.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter

from circuitfind.circuits.bases import by_node
from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Graph, Node
from circuitfind.errors import UsageError
from circuitfind.export.drawing.collapse import Parts, at_layer, collapse_edges, combine
from circuitfind.export.drawing.labels import published_roles
from circuitfind.export.drawing.subject import MOST_EDGES, Look
from circuitfind.export.drawing.text import clean


@dataclass(frozen=True)
class Content:
    """``edges``: those drawn, in graph order; ``parts``: what each stands for. ``nodes``: heads and
    MLPs in forward order, in a circuit of positions at each role. ``marks``: names of
    ``style.MARKS``, of all edges or nodes compared, those left out for ``most_edges`` with them.
    ``labels``: of drawn nodes, whatever the role. ``strengths``: of a circuit of neurons, each
    node's sum of their |scores|. ``n_edges``: how many there were to draw.
    """

    edges: Mapping[Edge, float]
    parts: Parts
    nodes: tuple[Node, ...]
    marks: Mapping[Edge | Node, str] = field(default_factory=dict)
    labels: Mapping[Node, str] = field(default_factory=dict)
    strengths: Mapping[Node, float] = field(default_factory=dict)
    n_edges: int = 0


def choose(circuit: Circuit, look: Look) -> Content:
    """What the picture shows. Raises UsageError where the look does not go with a circuit of neurons."""
    if circuit.neurons is not None:
        return _choose_nodes(circuit, look)
    lacking = look.highlight.lacking(circuit) if look.highlight else {}
    every = {**circuit.edges, **lacking} if lacking else circuit.edges
    is_plain = look.collapse is None and look.highlight is None
    to_part = (
        strongest(every, look.most_edges) if is_plain else every
    )  # a whole graph's parts would fill the memory
    parts = collapse_edges(circuit.graph, to_part, look.collapse)
    scores = {edge: combine(_ours_or_all(of_edge, circuit)) for edge, of_edge in parts.items()}
    edges = strongest(scores, look.most_edges)
    touched = {node for edge in edges for node in ends(circuit.graph, edge)}
    marks = _marks(circuit, look, parts, circuit.nodes)
    nodes = _in_order(circuit.graph, look, touched | _lacking(look, marks))
    return Content(
        edges,
        parts,
        nodes,
        marks,
        _labels(circuit, look, nodes),
        n_edges=len(every if is_plain else parts),
    )


def _choose_nodes(circuit: Circuit, look: Look) -> Content:
    """Of a circuit of neurons, in which all edges are kept, the nodes that keep some."""
    for option, is_set in (("--collapse", look.collapse), ("--max-edges", look.most_edges != MOST_EDGES)):
        if is_set:
            raise UsageError(
                f"{option} is for edges; a circuit of neurons keeps them all and is drawn without them."
            )
    strengths = {
        node: math.fsum(map(abs, scores)) for node, scores in by_node(circuit.neurons or {}).items()
    }
    marks = _marks(circuit, look, {}, strengths)
    nodes = _in_order(circuit.graph, look, set(strengths) | _lacking(look, marks))
    return Content({}, {}, nodes, marks, _labels(circuit, look, nodes), strengths)


def ends(graph: Graph, edge: Edge) -> tuple[Node, Node]:
    """The two nodes that an edge is drawn between, in a circuit of positions at the receiver's
    role; the logits stand there once."""
    role, receiver = graph.role_of(edge.receiver), edge.receiver.node
    return edge.sender.at(role), receiver if receiver.kind == "logits" else receiver.at(role)


def strongest(edges: Mapping[Edge, float], most: int) -> dict[Edge, float]:
    """The ``most`` edges of largest |score| (of equals the first in graph order), in graph order."""
    if len(edges) <= most:
        return dict(edges)
    kept = heapq.nsmallest(most, enumerate(edges.items()), key=lambda item: (-abs(item[1][1]), item[0]))
    return dict(item for _, item in sorted(kept, key=itemgetter(0)))


def _ours_or_all(parts: Mapping[Edge, float], circuit: Circuit) -> list[float]:
    """The scores of the edges that are the circuit's own, and only where none is, of the others."""
    return [score for edge, score in parts.items() if edge in circuit.edges] or list(parts.values())


def _marks(circuit: Circuit, look: Look, parts: Parts, kept: Iterable[Node]) -> dict[Edge | Node, str]:
    """What the highlight says of each edge, or of each node of a kind that it speaks of."""
    other = look.highlight
    if other is None:
        return {}
    if other.edges is not None and other.compares_edges(circuit):
        sides = (
            (e, (any(part in side for part in parts[e]) for side in (circuit.edges, other.edges)))
            for e in parts
        )
        return {edge: other.mark(*of_edge) for edge, of_edge in sides}
    ours, theirs = (
        {_shown(look, node) for node in nodes if node.kind in other.kinds}
        for nodes in (kept, other.nodes)
    )
    return {
        n: other.mark(n in ours, n in theirs) for n in _in_order(circuit.graph.base, look, ours | theirs)
    }


def _lacking(look: Look, marks: Mapping[Edge | Node, str]) -> set[Node]:
    """The nodes that the highlight alone has."""
    lacks = look.highlight.words.lacks if look.highlight else None
    return {item for item, mark in marks.items() if isinstance(item, Node) and mark == lacks}


def _shown(look: Look, node: Node) -> Node:
    return at_layer(node) if look.collapse == "layers" else node


def _in_order(graph: Graph, look: Look, nodes: Iterable[Node]) -> tuple[Node, ...]:
    """Heads and MLPs of ``nodes`` in forward order, each at its roles in their order; the input with them."""
    places = dict.fromkeys(
        _shown(look, sender).at(role) for sender in graph.senders for role in graph.roles or (None,)
    )
    wanted = set(nodes)
    return tuple(node for node in places if node in wanted)


def _labels(circuit: Circuit, look: Look, nodes: tuple[Node, ...]) -> dict[Node, str]:
    """The labels of the drawn nodes, roles in their paper's order first; an empty label takes a role away."""
    roles = published_roles(circuit) if look.roles and look.collapse != "layers" else {}
    drawn = {node.at(None) for node in nodes if node.is_inner}
    labels = {node: clean(label) for node, label in {**roles, **look.labels}.items()}
    return {node: label for node, label in labels.items() if label and node in drawn}
