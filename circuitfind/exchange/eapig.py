"""EAP-IG's and MIB's graph files, json and pt (arXiv:2403.17806, arXiv:2504.13151): every edge with
score and in_graph.

json: {"cfg": {"n_layers", "n_heads", "parallel_attn_mlp", "d_model"}, "nodes": {NAME: {"in_graph"}},
       "edges": {NAME: {"score", "in_graph"}}}; older files have a bool for each node,
       and a null for a missing score.
pt:   a dict of cfg, the names src_nodes (senders) and dst_nodes (receivers), and the tensors edges_scores and
      edges_in_graph [sender, receiver] and nodes_in_graph [sender]; older ones have edges for edges_scores.

At node level both have scores of nodes, too. Their neurons are the dimensions of what a node
writes, d_model of them; circuitfind's are a head's z and an MLP's hidden units. So theirs are left
out where a file is read.

A pt whose circuit was chosen by nodes marks places that are no edges: they are not looked at, as
EAP-IG does not.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from jaxtyping import Float
from msgspec import UNSET, Meta, UnsetType, field

from circuitfind.circuits.graph import SLOTS, Edge, Graph, Node, Receiver
from circuitfind.circuits.schema import MOST_IN_A_NODE, Layers, Number
from circuitfind.errors import CircuitError, shown
from circuitfind.evaluation.reference import edges_of
from circuitfind.exchange.edges import ScoredEdges, check_scores, empty, make_graph, places_of
from circuitfind.exchange.reading import Read
from circuitfind.files.json_file import Schema, fit

if TYPE_CHECKING:
    from torch import Tensor

LOST_NEURONS = (
    "its neurons are left out: they are dimensions of what a node writes, circuitfind's are a head's z "
    "and an MLP's hidden units"
)


def is_json(content: Any) -> bool:
    """Whether it is what the json files hold."""
    return isinstance(content, dict) and "cfg" in content and isinstance(content.get("edges"), dict)


def is_pt(content: Any) -> bool:
    """Whether it is what the pt files hold."""
    return isinstance(content, dict) and "cfg" in content and "edges_in_graph" in content


class Config(Schema, frozen=True):
    """What a file says of its model."""

    n_layers: Layers
    n_heads: Layers
    parallel_attn_mlp: bool
    d_model: Annotated[int, Meta(ge=0, le=MOST_IN_A_NODE)] | None = None


class Said(Schema, frozen=True):
    """What a json file says of an edge or a node. MIB's circuits of one size have no scores."""

    score: Number | UnsetType | None = UNSET
    in_graph: bool | int = False
    neurons: Any = None


class GraphFile(Schema, frozen=True):
    """A json file. Its nodes may be names alone: those in the graph."""

    cfg: Config
    edges: dict[str, Said]
    nodes: dict[str, Said | bool] | list[str] = field(default_factory=dict)


def read_json(content: Mapping[str, Any], source: str) -> Read:
    """The graph in a json file. Raises CircuitError naming the edge or node that is wrong."""
    file = fit(content, GraphFile, source)
    graph = _graph_of(file.cfg, source)
    kept, scores = empty(graph)
    for place, said in zip(places_of(graph, file.edges, source), file.edges.values(), strict=True):
        kept[place], scores[place] = _edge(said)
    nodes = _nodes(file.nodes, graph, source)
    notes = [LOST_NEURONS] if any(said.neurons is not None for said in nodes.values()) else []
    of_nodes = {name: said.score for name, said in nodes.items() if said.score is not UNSET}
    edges = ScoredEdges(graph, kept, scores, d_model=file.cfg.d_model or None)
    if of_nodes:
        values = [of_nodes.get(str(node)) for node in graph.senders]
        edges = _by_node(
            edges, np.array([math.nan if value is None else value for value in values], np.float64)
        )
    n_missing = graph.n_edges - len(file.edges)
    notes += [
        f"it leaves out {n_missing:,} of the {graph.n_edges:,} edges: their scores are not known"
    ] * (n_missing > 0)
    return Read(check_scores(edges, source), tuple(notes))


def write_json(edges: ScoredEdges) -> bytes:
    """The json file of these edges, to the byte as EAP-IG writes it. Scores that are not known are 0."""
    graph, scores = edges.graph, edges.filled
    nodes: dict[str, dict[str, Any]] = {
        str(node): {"in_graph": kept} for node, kept in _nodes_in_graph(edges).items()
    }
    if edges.by_node:
        for name, score in zip(map(str, graph.senders), _sent(edges), strict=True):
            nodes[name]["score"] = float(score)
    places = [(str(edge), graph.order(edge)) for edge in their_order(graph)]
    said = {
        name: {"score": float(scores[place]), "in_graph": bool(edges.kept[place])}
        for name, place in places
    }
    return json.dumps({"cfg": _config(edges), "nodes": nodes, "edges": said}).encode()


def read_pt(content: Mapping[str, Any], source: str) -> Read:
    """The graph in a pt file. Raises CircuitError for tensors that are not of its shape."""
    config = fit(_plain(content["cfg"]), Config, source, where="cfg")
    graph = _graph_of(config, source)
    for key, expected in (("src_nodes", graph.senders), ("dst_nodes", graph.receivers)):
        _check_names(key, content.get(key), list(map(str, expected)), source)
    shape = (len(graph.senders), len(graph.receivers))
    key = "edges_scores" if "edges_scores" in content else "edges"
    given = {name: matrix(content.get(name), shape, name, source).T for name in (key, "edges_in_graph")}
    real = edges_of(graph)
    kept = (given["edges_in_graph"] != 0) & real
    edges = ScoredEdges(graph, kept, np.where(real, given[key], math.nan), d_model=config.d_model or None)
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
        of_heads, of_mlp = graph.layer(layer)
        heads, mlp = of_heads.nodes, Receiver(Node("mlp", layer))
        readable = graph.senders[: of_heads.n_readable]
        for sender in readable:
            yield from (Edge(sender, Receiver(head, slot)) for head in heads for slot in SLOTS)
            if graph.parallel:
                yield Edge(sender, mlp)
        if not graph.parallel:
            yield from (Edge(sender, mlp) for sender in graph.senders[: of_mlp.n_readable])
    yield from (Edge(sender, Receiver(Node("logits"))) for sender in graph.senders)


def _config(edges: ScoredEdges) -> dict[str, Any]:
    graph = edges.graph
    return {
        "n_layers": graph.n_layers,
        "n_heads": graph.n_heads,
        "parallel_attn_mlp": graph.parallel,
        "d_model": edges.d_model
        or 0,  # a number: EAP-IG makes room for so many neurons whether there are some or not
    }


def _nodes_in_graph(edges: ScoredEdges) -> dict[Node, bool]:
    """Which nodes a kept edge touches; the logits are always there."""
    graph = edges.graph
    touched = set(np.flatnonzero(edges.kept.any(0)).tolist())
    read = {graph.receivers[row].node for row in np.flatnonzero(edges.kept.any(1)).tolist()}
    return {node: index in touched or node in read for index, node in enumerate(graph.senders)} | {
        Node("logits"): True
    }


def _sent(edges: ScoredEdges) -> Float[np.ndarray, " sender"]:
    """Each node's score: what its edge into the logits has, which read every sender."""
    row: Float[np.ndarray, " sender"] = edges.filled[-1]
    return row


def _by_node(edges: ScoredEdges, scores: Float[np.ndarray, " sender"]) -> ScoredEdges:
    """The edges with the scores of the nodes that send them. A node without one is always kept: it has 0."""
    of_edges = np.where(
        edges_of(edges.graph), np.nan_to_num(scores, posinf=math.inf, neginf=-math.inf), math.nan
    )
    return replace(edges, scores=of_edges, by_node=True)


def _graph_of(config: Config, source: str) -> Graph:
    """The graph of the model that a file's cfg describes."""
    return make_graph(config.n_layers, config.n_heads, config.parallel_attn_mlp, source)


def _plain(config: Any) -> Any:
    """A cfg without what is no JSON value: a file of PyTorch's may hold tensors in their place."""
    if not isinstance(config, dict):
        return None
    return {
        key: value
        for key, value in config.items()
        if isinstance(key, str) and isinstance(value, bool | int | str)
    }


def _edge(said: Said) -> tuple[bool, float]:
    """Whether the edge is kept, and its score: NaN where the file has none. A kept edge without one has 1."""
    kept = bool(said.in_graph)
    if said.score is UNSET:
        return kept, 1.0 if kept else math.nan
    return kept, math.nan if said.score is None else said.score


def _nodes(
    nodes: Mapping[str, Said | bool] | Sequence[str], graph: Graph, source: str
) -> dict[str, Said]:
    """What the file says of its nodes, by name. Raises CircuitError for one that there is not."""
    said = nodes if isinstance(nodes, Mapping) else dict.fromkeys(nodes, True)
    known = {*map(str, graph.senders), "logits"}
    for name in said:
        if name not in known:
            shape = f"{graph.n_layers} layers of {graph.n_heads} heads"
            raise CircuitError(f"{source}: the node {shown(name)} cannot exist in a model of {shape}.")
    return {name: Said(in_graph=one) if isinstance(one, bool) else one for name, one in said.items()}


def _check_names(key: str, names: Any, expected: list[str], source: str) -> None:
    """Raises CircuitError where the file's names, a list or older ones' dict, are not those of its
    shape in order.
    """
    given = list(names) if isinstance(names, list | tuple | dict) else None
    if given is None:
        raise CircuitError(f"{source} lacks {key}, the names that its tensors are in the order of.")
    if given != expected:
        where = next(
            (i for i, (one, other) in enumerate(zip(given, expected, strict=False)) if one != other), None
        )
        what = (
            f"{len(given):,} names"
            if where is None
            else f"{shown(given[where])} where '{expected[where]}' belongs"
        )
        raise CircuitError(
            f"{source}: its {key} have {what}; a model of its cfg has {len(expected):,}, in forward order."
        )


def matrix(tensor: Any, shape: tuple[int, ...], name: str, source: str) -> Float[np.ndarray, "*shape"]:
    """A tensor of that shape as float64."""
    import torch

    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.is_complex():
        raise CircuitError(f"{source}: its {name} is no tensor of numbers.")
    if tuple(tensor.shape) != shape:
        raise CircuitError(
            f"{source}: its {name} has the shape {list(tensor.shape)}; its cfg asks for {list(shape)}."
        )
    try:
        found: Float[np.ndarray, "*shape"] = as_numbers(tensor)
    except (RuntimeError, TypeError, NotImplementedError):  # quantised, or without data
        raise CircuitError(f"{source}: its {name} is no tensor of numbers.") from None
    return found


def as_numbers(tensor: Tensor) -> Float[np.ndarray, "*shape"]:
    """A tensor's numbers as float64, whatever its dtype."""
    return tensor.detach().double().numpy()
