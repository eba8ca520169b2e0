"""A circuit as a Graphviz file: one statement a line, the same bytes for the same circuit.

Places and curves are written out (``layout=nop2`` tells every Graphviz to keep them), so that the picture is the same
everywhere and appears at once, however many edges it has. The file's nodes and edges are the circuit's and no more; the
legend and the strips of the layers are a background drawing, the caption is the graph's label.

An edge's width grows with the root of its |score|, up to a reference score of 1, 2 or 5 times a power of ten: a few
extreme scores don't flatten the rest, and one changed score doesn't change every line of the file.
"""

from __future__ import annotations

from circuitfind.circuit import Circuit
from circuitfind.export.drawing import Drawing, draw, ends
from circuitfind.export.legend import background, caption, legend_width
from circuitfind.export.style import FONT, INK, NODE_STYLES, tint
from circuitfind.export.subject import Look
from circuitfind.graph import Edge, Node


def circuit_to_dot(circuit: Circuit, look: Look = Look()) -> str:  # noqa: B008 - frozen
    """The picture of ``circuit`` as DOT text."""
    drawing = draw(circuit, look)
    statements = [*_header(drawing), *_defaults(drawing), *_nodes(drawing), *_edges(drawing)]
    return "\n".join(["digraph circuit {", *(f"  {statement}" for statement in statements), "}"]) + "\n"


def quote(text: str) -> str:
    r"""``text`` as a DOT string that is shown as it is: quotes, backslashes and markup mean nothing.

    >>> quote('a "b" <i>')
    '"a \\"b\\" <i>"'
    """
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    return '"' + shown.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"') + '"'


def _header(drawing: Drawing) -> list[str]:
    layout, font = drawing.layout, drawing.sizes.small_font
    middle, bottom = layout.width / 2, -5.2 * font
    text = caption(drawing)
    half = max(layout.width, legend_width(drawing), 0.5 * font * len(text)) / 2
    return [
        "// Every place is fixed, and any Graphviz keeps it: dot -Tsvg circuit.dot",
        "layout=nop2;",
        "rankdir=BT;",
        "outputorder=edgesfirst;",
        f'bb="{_point(middle - half, bottom)},{_point(middle + half, layout.height)}";',
        "pad=0.1;",
        f'fontname="{FONT}";',
        f'fontcolor="{INK}";',
        f"fontsize={_number(font)};",
        f"label={quote(text)};",
        f'lp="{_point(middle, -4.2 * font)}";',
        '_background="' + " \\\n    ".join(background(drawing)) + '";',
    ]


def _defaults(drawing: Drawing) -> list[str]:
    sizes = drawing.sizes
    size = f"width={sizes.node_width / 72:.3f}, height={sizes.node_height / 72:.3f}"
    text = f'fontname="{FONT}", fontsize={_number(sizes.font)}'
    return [f'node [shape=box, fixedsize=true, {size}, {text}, penwidth=0.8, color="{INK}"];']


def _nodes(drawing: Drawing) -> list[str]:
    """The nodes of each row as one rank."""
    lines = []
    for row in drawing.layout.rows:
        lines += ["{", "  rank=same;", *(f"  {_node(drawing, node)}" for node in row), "}"]
    return lines


def _node(drawing: Drawing, node: Node) -> str:
    box, style = drawing.layout.boxes[node], NODE_STYLES[node.kind]
    width = f"width={box.width / 72:.3f}, " if node.kind in ("input", "logits") else ""
    label = ""
    if drawing.circuit.graph.roles:  # columns tell the roles, and the inputs name them; given to one, all need a label
        label = f'label="{node if node.kind == "input" else node.name}", '
    if drawing.strengths:  # where one node has a label, those without are left blank
        style = _with_neurons(drawing, node) if node in drawing.strengths else f"label={node}, {style}"
    return f'"{node}" [id="{node}", pos="{_point(box.x, box.y)}", {label}{width}{style}];'


def _with_neurons(drawing: Drawing, node: Node) -> str:
    """A node that says how many neurons it keeps, and is the darker the larger their scores."""
    circuit, strength = drawing.circuit, drawing.strengths[node]
    n_kept = sum(neuron.node == node for neuron in circuit.neurons or ())
    said = f"{n_kept:,} of {circuit.all_neurons.width(node):,}"
    rounded = '"filled,rounded"' if node.kind == "head" else "filled"
    tooltip = f"{node}: {said} neurons, sum of |scores| {strength:.3g}"
    fill = tint(drawing.sizes.opacity, drawing.widths.share(strength))
    return f'label="{node}\\n{said}", tooltip={quote(tooltip)}, style={rounded}, fillcolor="{fill}"'


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
        "tooltip": f'"{edge} {score:.3g}"',
        "color": f'"{stroke.colour}{round(255 * opacity):02x}"',
        "style": stroke.style,
        "penwidth": f"{drawing.widths.width(score):.2f}",
        **_shape(drawing, edge, score),
    }
    sender, receiver = ends(drawing.circuit.graph, edge)
    return f'"{sender}" -> "{receiver}" [{", ".join(f"{k}={v}" for k, v in attributes.items())}];'


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
