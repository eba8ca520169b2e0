"""What a node is called in a picture, and in the source of one, where names of nodes may have no dots."""

from __future__ import annotations

from circuitfind.circuits.graph import Graph, Node
from circuitfind.export.drawing.drawing import Drawing


def identifier(graph: Graph, node: Node) -> str:
    """A name of letters and digits, another for each node; a role is given by its number.

    >>> identifier(Graph(12, 12, roles=("S2", "END")), Node("head", 9, 6, "END"))
    'a9h6r1'
    """
    name = node.name.replace(".", "")
    return name if node.role is None else f"{name}r{graph.roles.index(node.role)}"


def label_lines(drawing: Drawing) -> dict[Node, list[str]]:
    """What stands in each node, line by line: where columns tell the roles, only the inputs name theirs."""
    return {
        node: [str(node) if node.kind == "input" else node.name, *drawing.notes.get(node.at(None), ())]
        for node in drawing.layout.boxes
    }
