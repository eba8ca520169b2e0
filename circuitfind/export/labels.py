"""What a node is called in a picture, and in the source of one, where names of nodes may have no dots."""

from __future__ import annotations

from circuitfind.export.drawing import Drawing
from circuitfind.graph import Graph, Node
from circuitfind.neurons import by_node


def identifier(graph: Graph, node: Node) -> str:
    """A name of letters and digits, another for each node; a role is given by its number.

    >>> identifier(Graph(12, 12, roles=("S2", "END")), Node("head", 9, 6, "END"))
    'a9h6r1'
    """
    name = node.name.replace(".", "")
    return name if node.role is None else f"{name}r{graph.roles.index(node.role)}"


def label_lines(drawing: Drawing) -> dict[Node, list[str]]:
    """What stands in each node, line by line: where columns tell the roles, only the inputs name theirs."""
    lines = {node: [str(node) if node.kind == "input" else node.name] for node in drawing.layout.boxes}
    circuit = drawing.circuit
    for node, kept in by_node(circuit.neurons or {}).items():
        lines[node].append(f"{len(kept):,} of {circuit.all_neurons.width(node):,}")
    return lines
