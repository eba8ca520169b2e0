"""A circuit as a networkx graph, and through networkx as GraphML and GEXF: for igraph, Gephi, Cytoscape, yEd.

Nodes are components, ``a9.h9``, and edges between two of them that enter at q, k or v, or at
several roles, stand side by side. Nothing is cut: these files are for programs, not for the eye.
"""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from circuitfind.circuits.bases import by_node
from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Node
from circuitfind.export.drawing.content import strongest
from circuitfind.export.drawing.layout import ROOMY, lay_out

if TYPE_CHECKING:
    from networkx import MultiDiGraph

_DATE = re.compile(rb' lastmodifieddate="[^"]*"')
_CREATOR = re.compile(rb"<creator>[^<]*</creator>")
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


MOST_IN_FILE = 50_000
"""Edges of a file: so many of more, the strongest; a program for networks does not show more, and
it takes seconds.
"""


def cut_for_file(circuit: Circuit) -> Circuit:
    """The circuit as a file holds it."""
    edges = strongest(circuit.edges, MOST_IN_FILE)
    return circuit if len(edges) == len(circuit.edges) else replace(circuit, edges=edges)


def what_is_cut(circuit: Circuit) -> tuple[str, ...]:
    """What a user should know of the file: that it has less than there is."""
    if len(circuit.edges) <= MOST_IN_FILE:
        return ()
    return (
        (
            f"the circuit has {len(circuit.edges):,} edges; the file has the {MOST_IN_FILE:,} strongest by"
            " |score|."
        ),
    )


def circuit_to_networkx(circuit: Circuit) -> MultiDiGraph[str]:
    """The graph: nodes by name in forward order, edges in graph order, each under the name of its receiver.

    >>> circuit.to_networkx()["a0.h1"]["a5.h2"]["a5.h2<k>"]["score"]
    0.25

    A node has ``kind`` (input, head, mlp, logits), ``layer`` and ``head`` where it has them, and in
    a circuit of neurons ``neurons``, how many it keeps, and ``score``, the sum of their |scores|.
    An edge has ``id``, its name, ``score``, ``weight`` (|score|), ``slot`` (q, k, v) where it
    enters a head, and ``role`` in a circuit of positions. The graph has ``name``, and the names of
    ``task``, ``model`` and ``method``.
    """
    import networkx

    blocks = {"task": circuit.task, "model": circuit.model, "method": circuit.method}
    names = {key: str(block["name"]) for key, block in blocks.items() if block.get("name")}
    found: MultiDiGraph[str] = networkx.MultiDiGraph()
    found.graph = {"name": ", ".join(names.values()), **names}
    for node in _nodes(circuit):
        found.add_node(str(node), **_of_node(circuit, node))
    for edge, score in circuit.edges.items():
        found.add_edge(
            str(edge.sender),
            str(edge.receiver.node),
            str(edge.receiver),
            **_of_edge(circuit, edge, score),
        )
    return found


def circuit_to_graphml(circuit: Circuit) -> bytes:
    """GraphML. Besides, nodes have ``name`` and ``label`` (igraph looks for the one, Gephi for the
    other) and a place, edges their ``name``, by which they are read back."""
    import networkx

    network, file = _placed(cut_for_file(circuit)), io.BytesIO()
    named: MultiDiGraph[str] = networkx.MultiDiGraph()  # edges under the names that are to be their ids
    named.graph = network.graph
    for node, data in network.nodes(data=True):
        x, y = data.pop("place")
        named.add_node(node, **data, name=node, label=node, x=x, y=y)
    for sender, receiver, data in network.edges(data=True):
        name = data.pop("id")
        named.add_edge(sender, receiver, name, **data, name=name)
    # by Python's own XML: with lxml, which networkx takes where it is, the bytes are others
    networkx.write_graphml_xml(named, file)
    return file.getvalue()


def circuit_to_gexf(circuit: Circuit) -> bytes:
    """GEXF 1.2, without the day that it was written on. Nodes have a place, in which Gephi shows them."""
    import networkx

    network, file = _placed(cut_for_file(circuit)), io.BytesIO()
    for _, data in network.nodes(data=True):
        x, y = data.pop("place")
        data["viz"] = {"position": {"x": x, "y": y, "z": 0.0}}
    networkx.write_gexf(network, file)
    return _CREATOR.sub(b"<creator>circuitfind</creator>", _DATE.sub(b"", file.getvalue()))


def _nodes(circuit: Circuit) -> list[Node]:
    """Those that edges touch or that keep neurons, in forward order."""
    shown = {*circuit.nodes, *by_node(circuit.neurons or {})}
    return [node for node in (*circuit.graph.senders, Node("logits")) if node in shown]


def _of_node(circuit: Circuit, node: Node) -> dict[str, Any]:
    said: dict[str, Any] = {"kind": node.kind}
    if node.layer >= 0:
        said["layer"] = node.layer
    if node.head >= 0:
        said["head"] = node.head
    if circuit.neurons is not None:
        kept = by_node(circuit.neurons).get(node, [])
        said |= {"neurons": len(kept), "score": float(sum(map(abs, kept)))}
    return said


def _of_edge(circuit: Circuit, edge: Edge, score: float) -> dict[str, Any]:
    role = circuit.graph.role_of(edge.receiver)
    said = {
        "id": str(edge),
        "slot": edge.receiver.slot,
        "role": role,
        "score": score,
        "weight": abs(score),
    }
    return {key: value for key, value in said.items() if value is not None}


def _placed(circuit: Circuit) -> MultiDiGraph[str]:
    """The graph as a file can hold it: only letters that XML has, and each node with its ``place``
    in a picture.
    """
    network = circuit_to_networkx(circuit)
    network.graph = {key: _NOT_XML.sub(" ", value) for key, value in network.graph.items()}
    nodes = _nodes(circuit)
    boxes = lay_out(circuit.graph.base, nodes, ROOMY, {}).boxes
    for node in nodes:
        network.nodes[str(node)]["place"] = (round(boxes[node].x, 1), round(boxes[node].y, 1))
    return network
