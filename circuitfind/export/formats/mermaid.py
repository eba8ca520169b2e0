"""A circuit as a Mermaid flowchart, which web pages, notebooks and Markdown on many sites draw.

Mermaid lays it out itself: layers are boxes, from the input below to the logits above. It refuses
what has more than 500 edges or 50,000 characters (its ``maxEdges`` and ``maxTextSize``), so that of
larger circuits the strongest edges are there. Every character of a name that could mean something
to it stands as its number.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Node
from circuitfind.errors import OutputError
from circuitfind.export.drawing.content import ends
from circuitfind.export.drawing.drawing import Drawing, draw
from circuitfind.export.drawing.legend import caption, entries
from circuitfind.export.drawing.naming import identifier, label_lines
from circuitfind.export.drawing.style import Paint
from circuitfind.export.drawing.subject import Look

MOST_EDGES = 500
LONGEST = 50_000
MOST_LABELLED = 60  # of more edges the labels would hide the lines
LIKE = {"&": "+", "<": "\u2039", ">": "\u203a"}
PLAIN = " .,_@+-"
CLASSES = {"bar": "ends", "head": "head", "mlp": "mlp"}
"""By the paint of a kind of node."""
DASHES = {"solid": "", "dashed": ",stroke-dasharray:5 2", "dotted": ",stroke-dasharray:1 3"}


def circuit_to_mermaid(circuit: Circuit, look: Look = Look()) -> str:  # noqa: B008 - frozen
    """The circuit as Mermaid text. Raises OutputError for one whose nodes alone are more than
    Mermaid reads.
    """
    most = max(1, min(look.most_edges, MOST_EDGES, len(circuit.edges)))
    while len(text := _write(draw(circuit, _with_most(look, most, circuit)))) > LONGEST:
        if circuit.neurons is not None or most == 1:
            raise OutputError(
                f"Mermaid reads at most {LONGEST:,} characters; the {len(circuit.nodes):,} nodes of this"
                " circuit take more.\nExport svg or pdf instead."
            )
        most = max(1, int(0.95 * most * LONGEST / len(text)))
    return text


def _with_most(look: Look, most: int, circuit: Circuit) -> Look:
    """So many edges at most; of a circuit of neurons none are drawn."""
    return look if circuit.neurons is not None else replace(look, most_edges=most)


def escape(text: str) -> str:
    """``text`` as a label that shows it as it is, on one line.

    >>> escape('a "b" #1')
    'a #34;b#34; #35;1'
    """
    letters = (
        letter if letter.isprintable() else " " for letter in text or " "
    )  # Mermaid takes no empty label
    return "".join(c if c.isascii() and (c.isalnum() or c in PLAIN) else f"#{ord(c)};" for c in letters)


def _write(drawing: Drawing) -> str:
    parts = (_nodes, _edges, _legend, _styles)
    body = "".join(f"  {line}\n" for part in parts for line in part(drawing))
    return f"---\ntitle: {_quote(caption(drawing))}\n---\n{_comments(drawing)}flowchart BT\n{body}"


def _quote(text: str) -> str:
    """A title, as a string in YAML. Mermaid shows no &, < and > in titles, so that others stand for them."""
    shown = "".join(LIKE.get(letter, letter if letter.isprintable() else " ") for letter in text)
    return json.dumps(shown, ensure_ascii=False)


def _comments(drawing: Drawing) -> str:
    n_drawn, n_kept = len(drawing.edges), len(drawing.circuit.edges)
    said = (
        "%% A circuit, written by circuitfind. The thicker an edge the larger its |score|; x ends a"
        " negative one.\n"
    )
    if n_drawn < n_kept and drawing.circuit.neurons is None:
        limits = f"{MOST_EDGES} edges and {LONGEST:,} characters"
        said += (
            f"%% The {n_drawn:,} strongest of {n_kept:,} edges: Mermaid by itself draws at most"
            f" {limits}.\n"
        )
    return said


def _nodes(drawing: Drawing) -> Iterator[str]:
    """Each layer a box; input and logits outside."""
    labels = {node: "<br/>".join(map(escape, lines)) for node, lines in label_lines(drawing).items()}
    nodes = [node for row in drawing.layout.rows for node in row]
    for layer, members in groupby(nodes, key=lambda node: node.layer):
        lines = [_node(drawing, node, labels[node]) for node in members]
        if layer < 0:
            yield from lines
        else:
            yield f'subgraph layer{layer}["layer {layer}"]'
            yield from (f"  {line}" for line in lines)
            yield "end"


def _node(drawing: Drawing, node: Node, label: str) -> str:
    box = f'("{label}")' if drawing.palette.paint(node.kind).rounded else f'["{label}"]'
    return f"{identifier(drawing.circuit.graph, node)}{box}:::{CLASSES[node.of_kind.paint]}"


def _edges(drawing: Drawing) -> Iterator[str]:
    """The edges in graph order; where there are none to draw, links that nobody sees keep the
    layers in order.
    """
    graph = drawing.circuit.graph
    for edge, score in drawing.edges.items():
        sender, receiver = (identifier(graph, node) for node in ends(graph, edge))
        slot = edge.receiver.slot if len(drawing.edges) <= MOST_LABELLED else None
        label = f"|{slot}|" if slot else ""
        yield f"{sender} {'--x' if score < 0 else '-->'}{label} {receiver}"
    if not drawing.edges:
        yield " ~~~ ".join(identifier(graph, row[0]) for row in drawing.layout.rows)


def _styles(drawing: Drawing) -> Iterator[str]:
    """Looks of the nodes, then of the edges, those that look alike together."""
    palette = drawing.palette
    for name, paint in (("ends", palette.bar), ("head", palette.head), ("mlp", palette.mlp)):
        yield f"classDef {name} {_paint(paint)}"
    yield f"classDef layer fill:{palette.strip},stroke:{palette.strip},color:{palette.ink}"
    for node in drawing.layout.boxes:
        if (paint := drawing.paint(node)) != palette.paint(node.kind):
            yield f"style {identifier(drawing.circuit.graph, node)} {_paint(paint)}"
    layers = [f"layer{band.layer}" for band in drawing.layout.bands]
    if layers:
        yield f"class {','.join([*layers, 'legend'])} layer"
    alike: dict[str, list[int]] = {}
    for number, (edge, score) in enumerate(drawing.edges.items()):
        alike.setdefault(_pen(drawing, edge, score), []).append(number)
    yield from (f"linkStyle {','.join(map(str, numbers))} {pen}" for pen, numbers in alike.items())


def _paint(paint: Paint) -> str:
    dashes = "" if paint.border == "solid" else DASHES[paint.border]
    return f"fill:{paint.fill},stroke:{paint.line},stroke-width:{paint.width:.1f}px,color:{paint.ink}{dashes}"


def _pen(drawing: Drawing, edge: Edge, score: float) -> str:
    stroke, width = drawing.stroke(edge), drawing.widths.width(score)
    return f"stroke:{stroke.colour},stroke-width:{width:.1f}px{DASHES[stroke.style]}"


def _legend(drawing: Drawing) -> Iterator[str]:
    """Boxes whose borders are drawn as the edges are that they name, or which look as the nodes do."""
    shown = [entry for entry in entries(drawing) if not entry.negative]
    if shown:
        yield 'subgraph legend["lines"]'
        yield from (f'  legend{number}["{escape(entry.text)}"]' for number, entry in enumerate(shown))
        yield "end"
    palette = drawing.palette
    for number, entry in enumerate(shown):
        pen = f"stroke:{entry.colour},stroke-width:{entry.width:.1f}px{DASHES[entry.style]}"
        looks = _paint(entry.paint) if entry.paint else f"fill:{palette.ground},color:{palette.ink},{pen}"
        yield f"style legend{number} {looks}"
