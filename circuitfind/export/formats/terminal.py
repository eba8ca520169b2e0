"""A circuit in a terminal: what it is, its layers, and its strongest edges with bars; or all about one node.

Colours only repeat what the letters say, so that plain text has it all.
"""

from __future__ import annotations

import heapq
import math
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from circuitfind.circuits.bases import Neuron
from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Node
from circuitfind.errors import UsageError
from circuitfind.export.drawing.facts import facts, number, strengths, title
from circuitfind.export.formats.textlayers import FAINT, UNICODE, Glyphs, colour, layer_lines

LONGEST_BAR = 30


@dataclass(frozen=True)
class View:
    """How wide the text may be, in letters, how many rows a table has, and of which letters
    pictures are made.
    """

    width: int = 80
    n_rows: int = 20
    glyphs: Glyphs = UNICODE


def show(circuit: Circuit, view: View) -> Iterator[Text]:
    """The whole circuit; of one of neurons, in which all edges are kept, the table is of nodes."""
    yield Text(title(circuit), "bold")
    said = facts(circuit)
    wide = max(map(len, said))
    for name, line in said.items():
        first, *more = textwrap.wrap(line, max(20, view.width - wide - 4))
        yield Text.assemble((f"  {name:<{wide}}  ", FAINT), first)
        yield from (Text(f"{'':{wide + 4}}{part}") for part in more)
    yield Text()
    yield from layer_lines(circuit, view.width, view.glyphs)
    if circuit.neurons is None:
        yield from _table("edge", circuit.edges, view)
    else:
        widths = {node: circuit.all_neurons.width(node) for node in strengths(circuit)}
        kept = {
            f"{n}  {len(s):,} of {widths[n]:,} neurons": sum(s) for n, s in strengths(circuit).items()
        }
        yield from _table("node", kept, view)


def show_node(circuit: Circuit, node: Node, view: View) -> Iterator[Text]:
    """The edges into and out of a node of the circuit, or the neurons that it keeps. Raises
    UsageError for others.
    """
    _scores_of(circuit, node)
    yield Text.assemble((str(node), "bold"), f" in {title(circuit)}")
    if circuit.neurons is not None:
        yield from _table("neuron", neurons_of(circuit, node), view)
        return
    yield from _table("edge", out_of(circuit, node), view, " out")
    yield from _table("edge", into(circuit, node), view, " in")


def out_of(circuit: Circuit, node: Node) -> dict[Edge, float]:
    """The edges that read what the node writes."""
    return {edge: score for edge, score in circuit.edges.items() if edge.sender == node}


def into(circuit: Circuit, node: Node) -> dict[Edge, float]:
    """The edges that the node reads by."""
    return {edge: score for edge, score in circuit.edges.items() if edge.receiver.node == node}


def neurons_of(circuit: Circuit, node: Node) -> dict[Neuron, float]:
    """The neurons that the node keeps."""
    return {neuron: score for neuron, score in (circuit.neurons or {}).items() if neuron.node == node}


def ranked(scores: Mapping[Any, float], most: int) -> dict[Any, float]:
    """The first so many by |score|, of equals the first as they stand."""
    return dict(heapq.nlargest(most, scores.items(), key=lambda item: abs(item[1])))


def to_dict(circuit: Circuit, n_edges: int) -> dict[str, Any]:
    """The same for programs: of each node what leaves it, and the strongest edges."""
    blocks = {"task": circuit.task, "model": circuit.model, "method": circuit.method}
    nodes = {str(node): _to_dict(node, scores) for node, scores in strengths(circuit).items()}
    return {
        **{key: block.get("name") for key, block in blocks.items()},
        "faithfulness": number(circuit.metrics.get("faithfulness")),
        "n_edges": len(circuit.edges),
        "n_edges_of_model": circuit.graph.n_edges,
        **({} if circuit.neurons is None else {"n_neurons": len(circuit.neurons)}),
        "nodes": nodes,
        "edges": _named(ranked(circuit.edges, n_edges)),
    }


def node_to_dict(circuit: Circuit, node: Node, n_rows: int) -> dict[str, Any]:
    """One node for programs. Raises UsageError where it is not in the circuit."""
    said = {"node": str(node), **_to_dict(node, _scores_of(circuit, node))}
    if circuit.neurons is not None:
        return {**said, "neurons": _named(ranked(neurons_of(circuit, node), n_rows))}
    tables = {"out": out_of(circuit, node), "in": into(circuit, node)}
    return {**said, **{key: _named(ranked(edges, n_rows)) for key, edges in tables.items()}}


def _to_dict(node: Node, scores: list[float]) -> dict[str, Any]:
    """``n``: how many edges leave it, or how many neurons it keeps; their scores summed, and their
    |scores|.
    """
    return {
        "kind": node.kind,
        "n": len(scores),
        "score": math.fsum(scores),
        "strength": math.fsum(map(abs, scores)),
    }


def _scores_of(circuit: Circuit, node: Node) -> list[float]:
    scores = strengths(circuit)
    if node not in scores:
        raise UsageError(
            f"Node '{node}' is not in the circuit: nothing of it is kept. Leave out --node to see what is."
        )
    return scores[node]


def _named(scores: Mapping[Any, float]) -> dict[str, float]:
    return {str(name): score for name, score in scores.items()}


def _table(noun: str, scores: Mapping[Any, float], view: View, where: str = "") -> Iterator[Text]:
    """Names with their scores, the largest |score| first, and a bar each."""
    rows = _named(ranked(scores, view.n_rows))
    if not view.n_rows:
        return
    yield Text()
    cut = f", the {len(rows):,} strongest" if len(rows) < len(scores) else ""
    yield Text(f"{len(scores):,} {noun}{'' if len(scores) == 1 else 's'}{where}{cut}", "bold")
    if not rows:
        return
    largest, numbers = (
        max(map(abs, rows.values())),
        {name: f"{score:+.4g}" for name, score in rows.items()},
    )
    wide, digits = max(map(len, rows)), max(map(len, numbers.values()))
    room = min(LONGEST_BAR, view.width - wide - digits - 5)
    for name, score in rows.items():
        bar = _bar(abs(score) / largest if largest else 0.0, room, view.glyphs.parts)
        line = Text(f" {name:<{wide}}  {numbers[name]:>{digits}}  ")
        line.append(bar, colour(score)).rstrip()
        yield line


def _bar(share: float, room: int, parts: str) -> str:
    """As long as its share of the room, to a part of a letter; of a share above 0 never empty."""
    full, rest = divmod(math.ceil(share * max(room, 0) * len(parts)), len(parts))
    return parts[-1] * full + (parts[rest - 1] if rest else "")
