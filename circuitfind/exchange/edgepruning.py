"""Edge-Pruning's edges.json (arXiv:2406.16778): a JSON list of the kept edges, [writer, reader].

Writers are tok_embeds and pos_embeds (GPT-2) or embeds (Llama), a0.h1 and m0; readers a0.h1.q, m0
and resid_post. There are no scores. The two embeddings of GPT-2 are one input here. A file without
embeddings comes from a run in which every reader saw them: then each input of a node that keeps an
edge out of it reads the input, and so do the logits.

Of a model with grouped queries the readers of keys and values are key/value heads, which
circuitfind's graph has not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool

from circuitfind.circuits.graph import SLOTS, Edge, Graph, Node, Receiver
from circuitfind.errors import CircuitError
from circuitfind.exchange.edges import ScoredEdges, empty, kept_edges, place_of
from circuitfind.exchange.reading import Read
from circuitfind.exchange.shape import settle_shape

HALVES = ("tok_embeds", "pos_embeds")
EMBEDDINGS = (*HALVES, "embeds")
LOGITS = "resid_post"
_READER = re.compile(r"(?P<node>a\d+\.h\d+)\.(?P<slot>[qkv])|m\d+", re.ASCII)


def is_list(content: Any) -> bool:
    """Whether it is a list of pairs of names."""
    return isinstance(content, list) and bool(content) and _is_pair(content[0])


def read_list(content: Any, source: str, shape: Graph | None = None) -> Read:
    """The kept edges, each with the score 1. Raises CircuitError naming the first that is none."""
    graph = settle_shape(shape, None, source)
    kept, scores = empty(graph)
    seen: set[tuple[str, str]] = set()
    for number, pair in enumerate(content, start=1):
        if not _is_pair(pair):
            raise CircuitError(
                f"{source}: entry {number} is no edge [writer, reader]: {json.dumps(pair)[:80]}"
            )
        if tuple(pair) in seen:
            raise CircuitError(f"{source}: the edge {pair[0]} -> {pair[1]} stands in it twice.")
        seen.add((pair[0], pair[1]))
        kept[place_of(graph, edge_of(*pair), source)] = True
    writers = {writer for writer, _ in seen}
    notes = ["it has no scores: every kept edge has 1"]
    readers = [{reader for writer, reader in seen if writer == half} for half in HALVES]
    if half := len(readers[0] ^ readers[1]):
        notes.append(
            f"{half:,} edges from one of its two embeddings alone are taken as from the whole input"
        )
    if not writers & set(EMBEDDINGS):
        kept |= _reads_input(graph, kept)
        notes.append(
            "it leaves out the embeddings, which all read: their edges into what it keeps are added"
        )
    scores[kept] = 1.0
    return Read(ScoredEdges(graph, kept, scores), tuple(notes))


def write_list(edges: ScoredEdges) -> bytes:
    """The kept edges, the input by the names of GPT-2's two embeddings."""
    pairs = [pair for edge, _ in kept_edges(edges) for pair in _spell(edge)]
    return json.dumps(pairs, indent=4).encode()


def edge_of(writer: str, reader: str) -> Edge:
    """The edge of these names. Raises CircuitError for names that Edge-Pruning hasn't got."""
    sender = Node("input") if writer in EMBEDDINGS else Node.parse(writer)
    if reader == LOGITS:
        return Edge(sender, Receiver(Node("logits")))
    match = _READER.fullmatch(reader)
    if match is None or sender.kind == "logits":
        raise CircuitError(
            f"Edge-Pruning has no edge from '{writer}' to '{reader}'. Readers: a0.h1.q, m0, {LOGITS}."
        )
    slot = next((slot for slot in SLOTS if slot == match["slot"]), None)
    return Edge(sender, Receiver(Node.parse(match["node"] or reader), slot))


def _spell(edge: Edge) -> Iterator[tuple[str, str]]:
    receiver = edge.receiver
    if receiver.node.kind == "logits":
        reader = LOGITS
    else:
        reader = f"{receiver.node}.{receiver.slot}" if receiver.slot else str(receiver.node)
    for writer in HALVES if edge.sender.kind == "input" else (str(edge.sender),):
        yield writer, reader


def _reads_input(
    graph: Graph, kept: Bool[np.ndarray, "receiver sender"]
) -> Bool[np.ndarray, "receiver sender"]:
    """The edges from the input into the nodes that keep an edge out of them, and into the logits."""
    added = np.zeros_like(kept)
    live = {graph.senders[index] for index in np.flatnonzero(kept.any(0)).tolist()} | {Node("logits")}
    added[:, 0] = [receiver.node in live for receiver in graph.receivers]
    return added


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(name, str) for name in pair)
