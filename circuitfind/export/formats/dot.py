"""A circuit as a Graphviz file: one statement a line, the same bytes for the same circuit.

Places and curves are written out (``layout=nop2`` tells every Graphviz to keep them), so that the
picture is the same everywhere and appears at once, however many edges it has. The file's nodes and
edges are the circuit's and no more; the legend and the strips of the layers are a background
drawing, the caption is the graph's label.

An edge's width grows with the root of its |score|, up to a reference score of 1, 2 or 5 times a
power of ten: a few extreme scores don't flatten the rest, and one changed score doesn't change
every line of the file.
"""

from __future__ import annotations

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Node
from circuitfind.export.drawing.background import background
from circuitfind.export.drawing.collapse import at_layer
from circuitfind.export.drawing.content import ends
from circuitfind.export.drawing.drawing import Drawing, draw
from circuitfind.export.drawing.legend import surround
from circuitfind.export.drawing.style import FONT, fade
from circuitfind.export.drawing.subject import Look


def circuit_to_dot(circuit: Circuit, look: Look = Look()) -> str:  # noqa: B008 - frozen
    """The picture of ``circuit`` as DOT text. Raises UsageError for a look that a circuit of
    neurons can't have.
    """
    drawing = draw(circuit, look)
    statements = [*_header(drawing), *_defaults(drawing), *_nodes(drawing), *_edges(drawing)]
    return "\n".join(["digraph circuit {", *(f"  {statement}" for statement in statements), "}"]) + "\n"


def quote(text: str) -> str:
    r"""``text`` as a DOT string that is shown as it is: quotes, backslashes and markup mean nothing.

    >>> quote('a "b" <i>')
    '"a \\"b\\" <i>"'
    """
    return '"' + _literal(text).replace('"', '\\"') + '"'


def _literal(text: str) -> str:
    """``text`` without what Graphviz reads as an entity or an escape."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    return shown.replace("&", "&amp;").replace("\\", "\\\\")


def _markup(text: str) -> str:
    """``text`` as it stands in a label with markup."""
    return _literal(text).replace("<", "&lt;").replace(">", "&gt;")


def _header(drawing: Drawing) -> list[str]:
    palette, font, around = drawing.palette, drawing.sizes.small_font, surround(drawing)
    lines = [text for text, _, _ in around.caption]
    (_, x, first), (_, _, last) = around.caption[0], around.caption[-1]
    ground = [f'bgcolor="{palette.ground}";'] if palette.ground != "#ffffff" else []
    return [
        "// Every place is fixed, and any Graphviz keeps it: dot -Tsvg circuit.dot",
        "layout=nop2;",
        "rankdir=BT;",
        "outputorder=edgesfirst;",
        f'bb="{_point(around.left, around.bottom)},{_point(around.right, around.top)}";',
        "pad=0.1;",
        *ground,
        f'fontname="{FONT}";',
        f'fontcolor="{palette.ink}";',
        f"fontsize={_number(font)};",
        "label=" + '"' + "\\n".join(quote(line)[1:-1] for line in lines) + '";',
        f'lp="{_point(x, (first + last) / 2)}";',
        '_background="' + " \\\n    ".join(background(drawing)) + ' ";',
    ]


def _defaults(drawing: Drawing) -> list[str]:
    sizes, line = drawing.sizes, drawing.palette.head.line
    size = f"width={sizes.node_width / 72:.3f}, height={sizes.node_height / 72:.3f}"
    text = f'fontname="{FONT}", fontsize={_number(sizes.font)}'
    return [f'node [shape=box, fixedsize=true, {size}, {text}, penwidth=0.8, color="{line}"];']


def _nodes(drawing: Drawing) -> list[str]:
    """The nodes of each row as one rank."""
    lines = []
    for row in drawing.layout.rows:
        lines += ["{", "  rank=same;", *(f"  {_node(drawing, node)}" for node in row), "}"]
    return lines


def _node(drawing: Drawing, node: Node) -> str:
    box, sizes, paint = drawing.layout.boxes[node], drawing.sizes, drawing.paint(node)
    attributes = {"id": f'"{node}"', "pos": f'"{_point(box.x, box.y)}"', **_label(drawing, node)}
    if box.width != sizes.node_width:
        attributes["width"] = f"{box.width / 72:.3f}"
    if box.height != sizes.node_height:
        attributes["height"] = f"{box.height / 72:.3f}"
    styles = [
        "filled",
        *(["rounded"] if paint.rounded else []),
        *(["dashed"] if paint.border == "dashed" else []),
    ]
    attributes["style"] = f'"{",".join(styles)}"' if len(styles) > 1 else styles[0]
    attributes["fillcolor"] = f'"{paint.fill}"'
    if paint.ink != "#000000":
        attributes["fontcolor"] = f'"{paint.ink}"'
    if paint.line != drawing.palette.head.line:
        attributes["color"] = f'"{paint.line}"'
    if paint.width != drawing.palette.head.width:
        attributes["penwidth"] = _number(paint.width)
    return f'"{node}" [{_listed(attributes)}];'


def _label(drawing: Drawing, node: Node) -> dict[str, str]:
    """What stands in the node's box: its name, smaller below it its notes; the whole of them as a tooltip."""
    notes = drawing.notes.get(node.at(None))
    if not notes:
        if (
            drawing.circuit.graph.roles or drawing.notes
        ):  # columns tell the roles, and the inputs name them
            return {"label": f'"{node if node.kind == "input" else node.name}"'}
        return {}
    lines = "".join(f"<br/>{_markup(line)}" for line in notes)
    small = f'<font point-size="{_number(drawing.sizes.small_font)}">{lines}</font>'
    return {"label": f"<{node.name}{small}>", "tooltip": quote(_tooltip(drawing, node))}


def _tooltip(drawing: Drawing, node: Node) -> str:
    base, said = node.at(None), []
    if label := drawing.content.labels.get(base):
        said.append(label)
    if base in drawing.strengths:
        said += [f"{drawing.notes[base][0]} neurons", f"sum of |scores| {drawing.strengths[base]:.3g}"]
    if node.of_kind.is_several and node.head < 0:
        kept = (n.name for n in drawing.circuit.nodes if at_layer(n) == base)
        said.append(" ".join(kept))
    return f"{node}: {', '.join(said)}"


def _edges(drawing: Drawing) -> list[str]:
    """The edges in graph order."""
    return [_edge(drawing, edge, score) for edge, score in drawing.edges.items()]


def _edge(drawing: Drawing, edge: Edge, score: float) -> str:
    stroke, share = drawing.stroke(edge), drawing.widths.share(score)
    opacity = drawing.sizes.opacity + (1 - drawing.sizes.opacity) * share
    attributes = {
        "key": f'"{edge.receiver}"',
        "id": f'"{edge}"',
        "score": f'"{score!r}"',
        "tooltip": f'"{_explain(drawing, edge, score)}"',
        "color": f'"{fade(stroke.colour, opacity)}"',
        "style": stroke.style,
        "penwidth": f"{drawing.widths.width(score):.2f}",
        **_shape(drawing, edge, score),
    }
    sender, receiver = ends(drawing.circuit.graph, edge)
    return f'"{sender}" -> "{receiver}" [{_listed(attributes)}];'


def _explain(drawing: Drawing, edge: Edge, score: float) -> str:
    """The edge, its score, its mark, and of how many edges it is made."""
    parts = drawing.parts[edge]
    made = f" of {len(parts)} edges" if len(parts) > 1 else ""
    mark = f", {drawing.marks[edge]}" if edge in drawing.marks else ""
    return f"{edge} {score:.3g}{made}{mark}"


def _listed(attributes: dict[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in attributes.items())


def _shape(drawing: Drawing, edge: Edge, score: float) -> dict[str, str]:
    """Arrowhead and curve: a bar for a negative score, an arrow for others, or none where edges are many."""
    size, length, head = drawing.sizes.arrow, 10 * drawing.sizes.arrow, "normal"
    if score < 0:
        size = max(size, 0.35, 0.3 * drawing.widths.width(score))
        length, head = 3 * size, "tee"
    points = drawing.curve(edge, length).bezier()
    curve = " ".join(_point(x, y) for x, y in points)
    if not size:
        return {"arrowhead": "none", "pos": f'"{curve}"'}
    x, y = points[-1]
    return {"arrowhead": head, "arrowsize": _number(size), "pos": f'"e,{_point(x, y + length)} {curve}"'}


def _point(x: float, y: float) -> str:
    return f"{_number(x)},{_number(y)}"


def _number(value: float) -> str:
    """At most one decimal: ``12``, ``12.5``, never ``-0``."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text
