"""EAP-IG's and MIB's graph files, json and pt (arXiv:2403.17806, arXiv:2504.13151): every edge with score and in_graph.

json: {"cfg": {"n_layers", "n_heads", "parallel_attn_mlp", "d_model"}, "nodes": {NAME: {"in_graph"}},
       "edges": {NAME: {"score", "in_graph"}}}; older files have a bool for each node, and a null for a missing score.
pt:   a dict of cfg, the names src_nodes (senders) and dst_nodes (receivers), and the tensors edges_scores and
      edges_in_graph [sender, receiver] and nodes_in_graph [sender]; older ones have edges for edges_scores.

At node level both have scores of nodes, too. Their neurons are the dimensions of what a node writes, d_model of them;
circuitfind's are a head's z and an MLP's hidden units. So theirs are left out where a file is read.

A pt whose circuit was chosen by nodes marks places that are no edges: they are not looked at, as EAP-IG does not.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from circuitfind.errors import CircuitError
from circuitfind.evaluation.reference import edges_of
from circuitfind.exchange.edges import ScoredEdges, check_scores, empty, make_graph, place_of
from circuitfind.exchange.reading import Read
from circuitfind.graph import SLOTS, Edge, Graph, Node, Receiver

if TYPE_CHECKING:
    from torch import Tensor

MOST = 1e300
"""No score is as large; NaN is not below it either."""
LOST_NEURONS = (
    "its neurons are left out: they are dimensions of what a node writes, circuitfind's are a head's z and an MLP's "
    "hidden units"
)


def is_json(content: Any) -> bool:
    """Whether it is what the json files hold."""
    return isinstance(content, dict) and "cfg" in content and isinstance(content.get("edges"), dict)


def is_pt(content: Any) -> bool:
    """Whether it is what the pt files hold."""
    return isinstance(content, dict) and "cfg" in content and "edges_in_graph" in content


def read_json(content: Mapping[str, Any], source: str) -> Read:
    """The graph in a json file. Raises CircuitError naming the edge or node that is wrong."""
    graph, width = _graph_of(content["cfg"], source)
    kept, scores = empty(graph)
    for name, said in content["edges"].items():
        place = place_of(graph, Edge.parse(name), source)
        kept[place], scores[place] = _edge(name, said, source)
    nodes = _nodes(content.get("nodes", {}), graph, source)
    notes = [LOST_NEURONS] if any(_has_neurons(said) for said in nodes.values()) else []
    of_nodes = {name: said["score"] for name, said in nodes.items() if isinstance(said, dict) and "score" in said}
    edges = ScoredEdges(graph, kept, scores, d_model=width)
    if of_nodes:
        values = [_number(name, of_nodes.get(name), "node", source) for name in map(str, graph.senders)]
        edges = _by_node(edges, np.array(values))
    n_missing = graph.n_edges - len(content["edges"])
    notes += [f"it leaves out {n_missing:,} of the {graph.n_edges:,} edges: their scores are not known"] * (
        n_missing > 0
    )
    return Read(check_scores(edges, source), tuple(notes))


def write_json(edges: ScoredEdges) -> bytes:
    """The json file of these edges, to the byte as EAP-IG writes it. Scores that are not known are 0."""
    graph, scores = edges.graph, edges.filled
    nodes: dict[str, dict[str, Any]] = {str(node): {"in_graph": kept} for node, kept in _nodes_in_graph(edges).items()}
    if edges.by_node:
        for name, score in zip(map(str, graph.senders), _sent(edges), strict=True):
            nodes[name]["score"] = float(score)
    places = [(str(edge), graph.order(edge)) for edge in their_order(graph)]
    said = {name: {"score": float(scores[place]), "in_graph": bool(edges.kept[place])} for name, place in places}
    return json.dumps({"cfg": _config(edges), "nodes": nodes, "edges": said}).encode()


def read_pt(content: Mapping[str, Any], source: str) -> Read:
    """The graph in a pt file. Raises CircuitError for tensors that are not of its shape."""
    graph, width = _graph_of(content["cfg"], source)
    for key, expected in (("src_nodes", graph.senders), ("dst_nodes", graph.receivers)):
        _check_names(key, content.get(key), list(map(str, expected)), source)
    shape = (len(graph.senders), len(graph.receivers))
    key = "edges_scores" if "edges_scores" in content else "edges"
    given = {name: matrix(content.get(name), shape, name, source).T for name in (key, "edges_in_graph")}
    real = edges_of(graph)
    kept = (given["edges_in_graph"] != 0) & real
    edges = ScoredEdges(graph, kept, np.where(real, given[key], math.nan), d_model=width)
    if "nodes_scores" in content:
        edges = _by_node(edges, matrix(content["nodes_scores"], shape[:1], "nodes_scores", source))
    neurons = content.get("neurons_in_graph", content.get("neurons"))
    return Read(check_scores(edges, source, of_all=True), () if neurons is None else (LOST_NEURONS,))


def write_pt(edges: ScoredEdges) -> bytes:
    """The pt file of these edges: float32, as EAP-IG's. Scores that are not known are 0."""
    import torch

    nodes_in_graph = list(_nodes_in_graph(edges).values())[:-1]  # of the logits there is none
    content = {
        "cfg": _config(edges),
        "src_nodes": list(map(str, edges.graph.senders)),
        "dst_nodes": list(map(str, edges.graph.receivers)),
        "edges_scores": torch.tensor(edges.filled.T, dtype=torch.float32),
        "edges_in_graph": torch.tensor(edges.kept.T),
        "nodes_in_graph": torch.tensor(nodes_in_graph),
    }
    if edges.by_node:
        content["nodes_scores"] = torch.tensor(_sent(edges), dtype=torch.float32)
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def their_order(graph: Graph) -> Iterator[Edge]:
    """Every edge in the order of EAP-IG's files: by layer, within it by sender."""
    for layer in range(graph.n_layers):
        heads = [Node("head", layer, head) for head in range(graph.n_heads)]
        mlp = Receiver(Node("mlp", layer))
        readable = graph.senders[: graph.n_readable(Receiver(heads[0], "q"))]
        for sender in readable:
            yield from (Edge(sender, Receiver(head, slot)) for head in heads for slot in SLOTS)
            if graph.parallel:
                yield Edge(sender, mlp)
        if not graph.parallel:
            yield from (Edge(sender, mlp) for sender in graph.senders[: graph.n_readable(mlp)])
    yield from (Edge(sender, Receiver(Node("logits"))) for sender in graph.senders)


def _config(edges: ScoredEdges) -> dict[str, Any]:
    graph = edges.graph
    return {
        "n_layers": graph.n_layers,
        "n_heads": graph.n_heads,
        "parallel_attn_mlp": graph.parallel,
        "d_model": edges.d_model or 0,  # a number: EAP-IG makes room for so many neurons whether there are some or not
    }


def _nodes_in_graph(edges: ScoredEdges) -> dict[Node, bool]:
    """Which nodes a kept edge touches; the logits are always there."""
    graph = edges.graph
    touched = set(np.flatnonzero(edges.kept.any(0)).tolist())
    read = {graph.receivers[row].node for row in np.flatnonzero(edges.kept.any(1)).tolist()}
    return {node: index in touched or node in read for index, node in enumerate(graph.senders)} | {Node("logits"): True}


def _sent(edges: ScoredEdges) -> Float[np.ndarray, " sender"]:
    """Each node's score: what its edge into the logits has, which read every sender."""
    row: Float[np.ndarray, " sender"] = edges.filled[-1]
    return row


def _by_node(edges: ScoredEdges, scores: Float[np.ndarray, " sender"]) -> ScoredEdges:
    """The edges with the scores of the nodes that send them. A node without one is always kept: it has 0."""
    of_edges = np.where(edges_of(edges.graph), np.nan_to_num(scores, posinf=math.inf, neginf=-math.inf), math.nan)
    return replace(edges, scores=of_edges, by_node=True)


def _graph_of(config: Any, source: str) -> tuple[Graph, int | None]:
    """The graph and the width of the model that a file's cfg describes."""
    if not isinstance(config, dict):
        raise CircuitError(f"{source}: its cfg must hold n_layers, n_heads, parallel_attn_mlp and d_model.")
    graph = make_graph(config.get("n_layers"), config.get("n_heads"), config.get("parallel_attn_mlp"), source)
    width = config.get("d_model")
    return graph, width if isinstance(width, int) and not isinstance(width, bool) and width > 0 else None


def _edge(name: str, said: Any, source: str) -> tuple[bool, float]:
    """Whether the edge is kept, and its score: NaN where the file has none. A kept edge without one has 1."""
    if not isinstance(said, dict) or not isinstance(said.get("in_graph", False), bool | int):
        raise CircuitError(f"{source}: the edge '{name}' must have a score and say whether it is in_graph.")
    kept = bool(said.get("in_graph", False))
    if "score" not in said:  # MIB's circuits of one size have none
        return kept, 1.0 if kept else math.nan
    return kept, _number(name, said["score"], "edge", source)


def _number(name: str, score: object, kind: str, source: str) -> float:
    if score is None:
        return math.nan
    if isinstance(score, bool) or not isinstance(score, int | float) or not abs(score) < MOST:
        raise CircuitError(
            f"{source}: the {kind} '{name}' has the score {str(score)[:30]!r}; it must be a finite number."
        )
    return float(score)


def _nodes(nodes: Any, graph: Graph, source: str) -> dict[str, Any]:
    """What the file says of its nodes, by name: a list of names says that they are in the graph."""
    by_name = dict.fromkeys(nodes, True) if isinstance(nodes, list) else nodes
    if not isinstance(by_name, dict):
        raise CircuitError(f"{source}: its nodes must say for each name whether it is in_graph.")
    known = {*map(str, graph.senders), "logits"}
    for name in by_name:
        if name not in known:
            shape = f"{graph.n_layers} layers of {graph.n_heads} heads"
            raise CircuitError(f"{source}: the node '{name}' cannot exist in a model of {shape}.")
    return by_name


def _has_neurons(said: Any) -> bool:
    return isinstance(said, dict) and "neurons" in said


def _check_names(key: str, names: Any, expected: list[str], source: str) -> None:
    """Raises CircuitError where the file's names, a list or older ones' dict, are not those of its shape in order."""
    given = list(names) if isinstance(names, list | tuple | dict) else None
    if given is None:
        raise CircuitError(f"{source} lacks {key}, the names that its tensors are in the order of.")
    if given != expected:
        where = next((i for i, (one, other) in enumerate(zip(given, expected, strict=False)) if one != other), None)
        what = f"{len(given):,} names" if where is None else f"'{given[where]}' where '{expected[where]}' belongs"
        raise CircuitError(
            f"{source}: its {key} have {what}; a model of its cfg has {len(expected):,}, in forward order."
        )


def matrix(tensor: Any, shape: tuple[int, ...], name: str, source: str) -> Float[np.ndarray, "*shape"]:
    """A tensor of that shape as float64."""
    import torch

    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.is_complex():
        raise CircuitError(f"{source}: its {name} is no tensor of numbers.")
    if tuple(tensor.shape) != shape:
        raise CircuitError(f"{source}: its {name} has the shape {list(tensor.shape)}; its cfg asks for {list(shape)}.")
    found: Float[np.ndarray, "*shape"] = as_numbers(tensor)
    return found


def as_numbers(tensor: Tensor) -> Float[np.ndarray, "*shape"]:
    """A tensor's numbers as float64, whatever its dtype."""
    return tensor.detach().double().numpy()
