"""From scores to a circuit, literally: lists and sets of Edge objects, everything looked for again at every step."""

from __future__ import annotations

import math
from collections.abc import Mapping

from circuitfind.circuits.graph import Edge, Graph, Node
from circuitfind.circuits.size import Selection

Scores = Mapping[Edge, float]


def choose(graph: Graph, scores: Scores, selection: Selection) -> set[Edge]:
    """The edges before pruning. ``scores`` stand in graph order, in which a stable sort leaves equal ones."""

    def size(edge: Edge) -> float:
        return scores[edge] if selection.select == "top-signed" else abs(scores[edge])

    if selection.fraction is not None:
        count: float = int(selection.fraction * len(scores))
    else:
        count = math.inf if selection.edges is None else selection.edges
    least = -math.inf if selection.threshold is None else selection.threshold
    nodes, taken = {Node("logits")}, set[Edge]()
    while len(taken) < count:
        left = [edge for edge in graph.edges() if edge not in taken and size(edge) >= least]
        if selection.select == "greedy":
            left = [edge for edge in left if edge.receiver.node in nodes]
        if not left:
            break
        best = sorted(left, key=size, reverse=True)[0]
        taken.add(best)
        nodes.add(best.sender)
    return taken


def prune(chosen: set[Edge]) -> set[Edge]:
    """Without the edges of heads and MLPs that lack an edge in or out, taken away one node at a time."""
    kept = set(chosen)
    while True:
        nodes = {edge.sender for edge in kept} | {edge.receiver.node for edge in kept}
        dangling = [
            node
            for node in sorted(nodes, key=str)
            if (node.kind != "input" and not any(edge.receiver.node == node for edge in kept))
            or (node.kind != "logits" and not any(edge.sender == node for edge in kept))
        ]
        if not dangling:
            return kept
        kept = {edge for edge in kept if dangling[0] not in (edge.sender, edge.receiver.node)}


def on_paths(chosen: set[Edge]) -> set[Edge]:
    """The edges on a path of chosen edges from the input to the logits, by walking from both ends."""
    fed, heard = {Node("input")}, {Node("logits")}
    for _ in range(len(chosen) + 1):
        fed |= {edge.receiver.node for edge in chosen if edge.sender in fed}
        heard |= {edge.sender for edge in chosen if edge.receiver.node in heard}
    return {edge for edge in chosen if edge.sender in fed and edge.receiver.node in heard}
