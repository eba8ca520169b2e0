"""AutoCircuit's prune scores: a dict of tensors, one for each module that reads, saved by torch.save.

A model's heads read at blocks.0.hook_q_input, ..._k_input, ..._v_input: tensors [head, sender]. Its
MLPs read at blocks.0.hook_mlp_in and its logits at the last block's hook_resid_post: [sender].
Senders stand in forward order, each tensor holds those that can be read there, as many as
circuitfind's graph has. So the file tells the shape of its model.

It has scores alone: which edges are kept is to be chosen from them, as AutoCircuit does, by their
size.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from circuitfind.circuits.graph import Graph, Node, Receiver
from circuitfind.circuits.kinds import KINDS
from circuitfind.errors import CircuitError
from circuitfind.exchange.eapig import matrix
from circuitfind.exchange.edges import ScoredEdges, check_scores, empty, make_graph
from circuitfind.exchange.reading import Read

NESTED = (
    "Save the scores of one task and algorithm by themselves: torch.save(scores[task][algorithm],"
    " 'scores.pt')."
)


def is_scores(content: Any) -> bool:
    """Whether it is a dict of prune scores, or of such dicts."""
    if not isinstance(content, dict) or not content:
        return False
    name, first = next(iter(content.items()))
    if isinstance(first, dict):
        return any(
            str(inner).startswith("blocks.") or isinstance(inner, dict)
            for inner in (*first, *first.values())
        )
    return isinstance(name, str) and name.startswith("blocks.")


def read_scores(content: Mapping[str, Any], source: str) -> Read:
    """All edges with their scores, none kept. Raises CircuitError for a module or tensor that is
    none of a model's.
    """
    if not all(isinstance(name, str) for name in content):
        raise CircuitError(
            f"{source}: its prune scores must go by the names of modules, blocks.0.hook_q_input."
        )
    if any(isinstance(value, dict) for value in content.values()):
        raise CircuitError(f"{source} holds prune scores of several runs.\n{NESTED}")
    if any(name.endswith("hook_attn_in") for name in content):
        raise CircuitError(
            f"{source}: its scores are of attention inputs that q, k and v share (hook_attn_in);"
            " circuitfind's are of each. Use separate_qkv=True in AutoCircuit."
        )
    graph = _graph_of(content, source)
    rows = dict(_rows(graph))
    other = next((name for name in content if name not in rows), None)
    if other is not None:
        raise CircuitError(f"{source}: no module '{other}' reads in a model of {graph.n_layers} layers.")
    _, scores = empty(graph)
    for name, receivers in rows.items():
        n_readable = graph.n_readable(receivers[0])
        shape = (len(receivers), n_readable) if receivers[0].slot else (n_readable,)
        given = matrix(content.get(name), shape, name, source)
        scores[[graph.receiver_index[receiver] for receiver in receivers], :n_readable] = given
    edges = ScoredEdges(graph, np.zeros(scores.shape, bool), scores)
    return Read(check_scores(edges, source, of_all=True))


def write_scores(edges: ScoredEdges) -> bytes:
    """The scores of all edges, float32. Scores that are not known are 0."""
    import torch

    graph, content = edges.graph, {}
    for name, receivers in _rows(graph):
        rows = [graph.receiver_index[receiver] for receiver in receivers]
        scores = torch.tensor(edges.filled[rows, : graph.n_readable(receivers[0])], dtype=torch.float32)
        content[name] = scores if receivers[0].slot else scores[0].clone()
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def _rows(graph: Graph) -> Iterator[tuple[str, list[Receiver]]]:
    """Each module that reads, with the receivers that its tensor is of."""
    for layer in range(graph.n_layers):
        for stage in graph.layer(layer):
            for slot in stage.slots:
                hook = KINDS[stage.kind].read_hook(slot)
                yield f"blocks.{layer}.{hook}", [Receiver(node, slot) for node in stage.nodes]
    yield f"blocks.{graph.n_layers - 1}.hook_resid_post", [Receiver(Node("logits"))]


def _graph_of(content: Mapping[str, Any], source: str) -> Graph:
    """The shape of the model: its layers by counting modules, its heads and its kind of blocks by
    their sizes.
    """
    n_layers = sum(name.endswith(".hook_q_input") for name in content)
    first, mlp = (content.get(f"blocks.0.{hook}") for hook in ("hook_q_input", "hook_mlp_in"))
    shape = tuple(getattr(first, "shape", ()))
    if len(shape) == 3:
        raise CircuitError(
            f"{source}: its scores tell edges apart by token position ({shape[0]} of them), without saying"
            " which; circuitfind's positions are roles. Use seq_len=None in AutoCircuit."
        )
    if len(shape) != 2 or not hasattr(mlp, "shape"):
        raise CircuitError(
            f"{source} lacks the scores of blocks.0.hook_q_input [head, sender] and of blocks.0.hook_mlp_in."
        )
    is_parallel = math.prod(getattr(mlp, "shape", ())) == 1
    return make_graph(n_layers, int(shape[0]), is_parallel, source)
