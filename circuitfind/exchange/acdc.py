"""ACDC's edges (arXiv:2304.14997), by the names of its hooks: lists as text or JSON, and subgraphs as pth.

An edge is (receiver's hook, its index, sender's hook, its index). A hook of a whole layer's heads
has the index of a head, [:, :, head], any other [:], and None stands for the colon:
('blocks.9.hook_mlp_in', (None,), 'blocks.3.attn.hook_result', (None, None, 7)).

text, json: the kept edges, each with the metric's change when it was tested, as ACDC's save_edges
    has them in a pickle. The text is what printing such a list shows, or the same as Python would
    read it: TorchIndex([None, None, 7]).
pth: a dict of every edge to whether it is kept, as save_subgraph writes and load_subgraph reads
    it. It has no scores.

Beside the edges of the graph ACDC has those within a node: from a head's q input to its q, from
that to its result, and from an MLP's input to its output. They are no choices: they are left out
where a file is read, and written with what reads through them. Its two embeddings
(``use_pos_embed``) are one input here.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from circuitfind.circuits.graph import Graph, Receiver
from circuitfind.errors import CircuitError, shown
from circuitfind.exchange.acdc_names import EMBEDDINGS, Index, Key, all_keys, edge_of, key_of, within
from circuitfind.exchange.edges import ScoredEdges, check_scores, empty, kept_edges, make_graph, place_of
from circuitfind.exchange.reading import Read
from circuitfind.exchange.shape import settle_shape

_NAME = r"""['"]([\w.]+)['"]"""
_INDEX = r"(?:TorchIndex\()?[\[(]([\w:\s,]*)[\])]\)?"
_ENTRY = re.compile(
    rf"\(\s*{_NAME}\s*,\s*{_INDEX}\s*,\s*{_NAME}\s*,\s*{_INDEX}\s*(?:,\s*)?\)\s*[,:]\s*([\w.+-]+)",
    re.ASCII,
)
_BETWEEN = re.compile(r"(?:OrderedDict|[\s,()\[\]{}])*")


@dataclass(frozen=True)
class Entry:
    """One edge of a file: ACDC's names, and its score or whether it is kept."""

    key: Key
    value: object


def is_list(content: Any) -> bool:
    """Whether it is the JSON of a list of edges."""
    return isinstance(content, list) and bool(content) and _is_entry(content[0])


def is_text(content: Any) -> bool:
    """Whether it is a list of edges as text."""
    return isinstance(content, str) and _ENTRY.search(content) is not None


def is_subgraph(content: Any) -> bool:
    """Whether it is a subgraph's dict."""
    return isinstance(content, dict) and bool(content) and _is_key(next(iter(content)))


def read_list(content: Any, source: str, shape: Graph | None = None) -> Read:
    """The edges of a JSON list. Raises CircuitError naming the first entry that is none."""
    for number, entry in enumerate(content, start=1):
        if not _is_entry(entry):
            raise CircuitError(
                f"{source}: entry {number} is no edge of ACDC's with a score: {json.dumps(entry)[:80]}"
            )
    entries = [Entry(_as_key(names), value) for names, value in content]
    return _from_entries(entries, settle_shape(shape, None, source), source)


def read_text(content: str, source: str, shape: Graph | None = None) -> Read:
    """The edges of a text. Raises CircuitError showing the first piece that is no edge."""
    return _from_entries(list(_entries(content, source)), settle_shape(shape, None, source), source)


def read_subgraph(content: Mapping[Any, Any], source: str, shape: Graph | None = None) -> Read:
    """The kept edges of a subgraph, whose list of all edges tells the shape of its model. Raises
    CircuitError.
    """
    for key, kept in content.items():
        if not _is_key(key) or not isinstance(kept, bool):
            raise CircuitError(
                f"{source}: {shown(key)} is no edge of ACDC's that is said to be kept or not."
            )
    entries = [Entry(_as_key(key), kept) for key, kept in content.items()]
    told = None if shape is not None else _shape_of(entries, source)
    return _from_entries(entries, settle_shape(shape, told, source), source)


def write_list(edges: ScoredEdges) -> bytes:
    """The kept edges as a JSON list, one a line."""
    lines = (json.dumps([_spell_json(key), score]) for key, score in _written(edges))
    return ("[\n" + ",\n".join(lines) + "\n]\n").encode()


def write_text(edges: ScoredEdges) -> bytes:
    """The kept edges as Python reads them in ACDC's own code, one a line."""
    lines = (f"(({_spell_python(key)}), {score!r}),\n" for key, score in _written(edges))
    return ("[\n" + "".join(lines) + "]\n").encode()


def write_subgraph(edges: ScoredEdges) -> bytes:
    """Every edge and whether it is kept, as ACDC's load_subgraph takes it."""
    import torch

    kept = {key for key, _ in _written(edges)}
    content = OrderedDict((key, key in kept) for key in all_keys(edges.graph))
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def _from_entries(entries: Sequence[Entry], graph: Graph, source: str) -> Read:
    """The edges that are kept, with their scores: 1 where a file has none, 0 where an edge was not tested."""
    kept, scores = empty(graph)
    half: set[tuple[int, int]] = set()
    for entry in entries:
        edge = edge_of(entry.key)
        if edge is None:
            continue
        is_logits = edge.receiver.node.kind == "logits"
        if is_logits and entry.key[0] != f"blocks.{graph.n_layers - 1}.hook_resid_post":
            raise CircuitError(
                f"{source}: {entry.key[0]} is not the end of a model of {graph.n_layers} layers."
            )
        place = place_of(graph, edge, source)
        is_kept, score = _value(entry, source)
        if edge.sender.kind == "input" and entry.key[2] != EMBEDDINGS[0]:
            half ^= {place} if is_kept else set()
        elif not np.isnan(scores[place]):
            raise CircuitError(f"{source}: the edge '{edge}' stands in it twice.")
        kept[place], scores[place] = kept[place] or is_kept, score
    notes = (
        [f"{len(half):,} edges from one of its two embeddings alone are taken as from the whole input"]
        if half
        else []
    )
    scores = np.where(kept, scores, math.nan)
    return Read(check_scores(ScoredEdges(graph, kept, scores), source), tuple(notes))


def _value(entry: Entry, source: str) -> tuple[bool, float]:
    """Whether the entry's edge is kept, and its score."""
    if isinstance(entry.value, bool):
        return entry.value, 1.0
    if entry.value is None:
        return True, 0.0
    if isinstance(entry.value, int | float) and math.isfinite(entry.value):
        return True, float(entry.value)
    raise CircuitError(
        f"{source}: the edge {entry.key} has the score {entry.value!r}; it must be a finite number."
    )


def _written(edges: ScoredEdges) -> Iterator[tuple[Key, float | None]]:
    """The kept edges with their scores, then those within nodes that they are read through, which
    have none.
    """
    receivers: dict[Receiver, None] = {}
    for edge, score in kept_edges(edges):
        receivers[edge.receiver] = None
        yield key_of(edge, edges.graph), score
    for receiver in receivers:
        for key in within(receiver):
            yield key, None


def _shape_of(entries: Iterable[Entry], source: str) -> Graph:
    """The shape of a model of which every edge is listed."""
    edges = [(entry.key, edge) for entry in entries if (edge := edge_of(entry.key)) is not None]
    heads = [edge.receiver.node for _, edge in edges if edge.receiver.node.kind == "head"]
    layers = [int(key[0].split(".")[1]) for key, edge in edges if edge.receiver.node.kind == "logits"]
    if not heads or not layers:
        raise CircuitError(
            f"{source} has no edges into heads or into the logits: it is no whole subgraph of ACDC's."
        )
    return make_graph(max(layers) + 1, max(node.head for node in heads) + 1, False, source)


def _entries(text: str, source: str) -> Iterator[Entry]:
    """The edges in a text. Raises CircuitError showing what stands between them and is nothing but
    brackets.
    """
    end = 0
    for match in _ENTRY.finditer(text):
        _check_between(text[end : match.start()], source)
        receiver, receiver_index, sender, sender_index, value = match.groups()
        yield Entry(
            (receiver, _parse_index(receiver_index), sender, _parse_index(sender_index)),
            _parse_value(value),
        )
        end = match.end()
    _check_between(text[end:], source)


def _check_between(text: str, source: str) -> None:
    rest = text[(_BETWEEN.match(text) or re.match("", text)).end() :].strip()  # type: ignore[union-attr]
    if rest:
        raise CircuitError(f"{source}: '{rest.splitlines()[0][:60]}' is no edge of ACDC's.")


def _parse_index(text: str) -> Index:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return tuple(int(part) if part.isdigit() and len(part) < 10 else None for part in parts)


def _parse_value(text: str) -> object:
    words: dict[str, object] = {"True": True, "False": False, "None": None}
    try:
        return words[text] if text in words else float(text)
    except ValueError:
        return text


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, list | tuple) and len(entry) == 2 and _is_key(entry[0])


def _is_key(key: Any) -> bool:
    """Whether it is an edge's names and indices."""
    if not isinstance(key, list | tuple) or len(key) != 4:
        return False
    return all(isinstance(name, str) for name in key[::2]) and all(
        _is_index(index) for index in key[1::2]
    )


def _is_index(index: Any) -> bool:
    return isinstance(index, list | tuple) and all(i is None or type(i) is int for i in index)


def _as_key(names: Sequence[Any]) -> Key:
    return names[0], tuple(names[1]), names[2], tuple(names[3])


def _spell_json(key: Key) -> list[Any]:
    return [list(part) if isinstance(part, tuple) else part for part in key]


def _spell_python(key: Key) -> str:
    return ", ".join(
        f"TorchIndex({list(part)})" if isinstance(part, tuple) else repr(part) for part in key
    )
