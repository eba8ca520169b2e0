r"""A circuit as a TikZ picture: the places and curves of the DOT file, the text in the font of the paper.

One file that compiles alone and, by the package ``standalone``, which skips its preamble, inside a
paper by ``\input``. It takes nothing from TikZ's libraries, since those can't be loaded from inside
a document: arrowheads are drawn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Node
from circuitfind.circuits.kinds import KINDS
from circuitfind.errors import OutputError
from circuitfind.export.drawing.drawing import Drawing, draw
from circuitfind.export.drawing.legend import LINK_WIDTH, SAMPLE, SAMPLE_HEIGHT, Placed, caption, surround
from circuitfind.export.drawing.naming import identifier, label_lines
from circuitfind.export.drawing.style import Paint, Stroke
from circuitfind.export.drawing.subject import Look
from circuitfind.export.formats.latex import LETTER, escape

WHITE = "#ffffff"
MARGIN = 6.0  # of a ground that is not white, in points
WIDEST = 14_000
"""In points: TeX's lengths end at 16,383."""
LINES = {
    "solid": "solid",
    "dashed": "dash pattern=on 5bp off 2bp",
    "dotted": "dash pattern=on 1.5bp off 4bp",
}
"""As they are in the other pictures, whatever a paper's TikZ makes of their names."""

PREAMBLE = r"""% A circuit, drawn by circuitfind.
% Alone:       pdflatex circuit.tex, or lualatex
% In a paper:  \usepackage{standalone,tikz} in the preamble and, as wide as the text,
%              \resizebox{\linewidth}{!}{\input{circuit}}
% All text is in the paper's font. What is said of the circuit stands in the last node: take it out where a \caption is.
\documentclass[border=6bp]{standalone}
\usepackage{tikz}
\begin{document}%
"""


def circuit_to_tikz(circuit: Circuit, look: Look = Look()) -> str:  # noqa: B008 - frozen
    """The picture of ``circuit`` as LaTeX. Raises OutputError for one that is too large for TeX."""
    drawing = draw(circuit, look)
    width, height = drawing.layout.width, drawing.layout.height
    if max(width, height) > WIDEST:
        raise OutputError(
            f"The picture is {width:,.0f} by {height:,.0f} points; in TeX lengths end at {WIDEST:,}.\n"
            "Export svg or pdf, or a circuit of fewer edges."
        )
    parts = (_styles, _ground, _bands, _borders, _links, _edges, _nodes, _legend, _caption)
    picture = "".join(f"  {line}\n" for part in parts for line in part(drawing))
    used = sorted(set(re.findall(r"circuit([0-9a-f]{6})", picture)))
    colours = "".join(f"  \\definecolor{{circuit{code}}}{{HTML}}{{{code.upper()}}}\n" for code in used)
    macro = f"  {LETTER}\n" if r"\letter" in picture else ""
    return (
        f"{PREAMBLE}\\begin{{tikzpicture}}[x=1bp, y=1bp]\n{macro}{colours}{picture}"
        "\\end{tikzpicture}%\n\\end{document}\n"
    )


def _styles(drawing: Drawing) -> Iterator[str]:
    """What can be changed for the whole picture: of the nodes, of each kind of edge, of the text around."""
    sizes = drawing.sizes
    box = f"minimum width={_number(sizes.node_width)}bp, minimum height={_number(sizes.node_height)}bp"
    text = f"inner sep=0pt, outer sep=0pt, align=center, {_font(sizes.font)}"
    yield r"\tikzset{"
    yield f"  box/.style={{{box}, {text}}},"
    for kind in sorted(KINDS, key=lambda kind: KINDS[kind].is_inner):
        paint = drawing.palette.paint(kind)
        corners = ", rounded corners=4bp" if paint.rounded else ""
        yield f"  {kind}/.style={{box, {_paint(paint)}{corners}}},"
    for stroke in sorted({drawing.stroke(edge) for edge in drawing.edges}, key=_style):
        yield f"  {_style(stroke)}/.style={{{_colour(stroke.colour)}, {LINES[stroke.style]}}},"
    yield f"  note/.style={{inner sep=0pt, text={_colour(drawing.palette.ink)}, {_font(sizes.small_font)}}},"
    yield "}"


def _ground(drawing: Drawing) -> Iterator[str]:
    """What lies behind all, where it is not white."""
    if drawing.palette.ground != WHITE:
        page = surround(drawing)
        low, high = (page.left - MARGIN, page.bottom - MARGIN), (page.right + MARGIN, page.top + MARGIN)
        yield rf"\fill[{_colour(drawing.palette.ground)}] {_point(*low)} rectangle {_point(*high)};"


def _bands(drawing: Drawing) -> Iterator[str]:
    """The strips of the layers and their numbers."""
    palette = drawing.palette
    for band in drawing.layout.bands:
        corner = _point(drawing.layout.width, band.top)
        yield rf"\fill[{_colour(palette.strip)}] {_point(0, band.bottom)} rectangle {corner};"
        middle = (band.bottom + band.top) / 2
        style = rf"note, text={_colour(palette.faint)}, anchor=west"
        yield rf"\node[{style}] at {_point(4, middle)} {{{band.layer}}};"


def _borders(drawing: Drawing) -> Iterator[str]:
    """Lines between the columns of one role and those of the next."""
    for x in drawing.layout.borders:
        pen = f"{_colour(drawing.palette.faint)}, line width=0.5bp, {LINES['dotted']}"
        yield rf"\draw[{pen}] {_point(x, 0)} -- {_point(x, drawing.layout.height)};"


def _links(drawing: Drawing) -> Iterator[str]:
    """A line behind the boxes of each head that reads at one role and writes at another."""
    boxes = drawing.layout.boxes
    for _, heads in groupby(drawing.crossings, key=lambda nodes: nodes[0].layer):
        of_layer = list(heads)
        for place, nodes in enumerate(of_layer, start=1):
            across = [boxes[node] for node in nodes]
            y = across[0].bottom + across[0].height * place / (len(of_layer) + 1)
            left, right = min(box.x for box in across), max(box.x for box in across)
            pen = f"{_colour(drawing.palette.link)}, line width={LINK_WIDTH}bp"
            yield rf"\draw[{pen}] {_point(left, y)} -- {_point(right, y)};"


def _edges(drawing: Drawing) -> Iterator[str]:
    """The edges in graph order, a line each."""
    for edge, score in drawing.edges.items():
        yield f"{_edge(drawing, edge, score)} % {edge} {score:.3g}"


def _edge(drawing: Drawing, edge: Edge, score: float) -> str:
    """The curve, and at its end an arrow, a bar for a negative score, or nothing where edges are many."""
    style, width = _style(drawing.stroke(edge)), drawing.widths.width(score)
    share, faintest = drawing.widths.share(score), drawing.sizes.opacity
    pen = f"{style}, line width={width:.2f}bp, opacity={faintest + (1 - faintest) * share:.2f}"
    size = drawing.sizes.arrow
    if score < 0:
        size = max(size, 0.35, 0.3 * width)
    length = 3 * size if score < 0 else 10 * size
    first, *rest = drawing.curve(edge, length).bezier()
    curve = "".join(
        f" .. controls {_point(*a)} and {_point(*b)} .. {_point(*c)}"
        for a, b, c in zip(rest[::3], rest[1::3], rest[2::3], strict=True)
    )
    x, y = rest[-1]
    return rf"\draw[{pen}] {_point(*first)}{curve};" + _tip(
        pen, (x, y), length, 3.5 * size + 0.6 * width, score < 0
    )


def _tip(pen: str, start: tuple[float, float], length: float, half: float, is_bar: bool) -> str:
    """What stands at the upper end of an edge; all edges arrive from straight below."""
    x, y = start
    if not length:
        return ""
    if is_bar:
        return rf" \fill[{pen}] {_point(x - half, y)} rectangle {_point(x + half, y + 0.6 * length)};"
    return rf" \fill[{pen}] {_point(x - half, y)} -- {_point(x + half, y)} -- {_point(x, y + length)} -- cycle;"


def _nodes(drawing: Drawing) -> Iterator[str]:
    """The nodes, row by row."""
    graph, labels = drawing.circuit.graph, label_lines(drawing)
    for node in (node for row in drawing.layout.rows for node in row):
        box = drawing.layout.boxes[node]
        style = f"{node.kind}{_extra(drawing, node)}"
        name, *notes = map(escape, labels[node])
        small = _font(drawing.sizes.small_font).removeprefix("font=")
        text = name + "".join(rf"\\{{{small} {note}}}" for note in notes)
        yield rf"\node[{style}] ({identifier(graph, node)}) at {_point(box.x, box.y)} {{{text}}};"


def _extra(drawing: Drawing, node: Node) -> str:
    """What sets it apart from others of its kind: its size, its label or mark, and how much its
    neurons weigh.
    """
    said, box, paint = "", drawing.layout.boxes[node], drawing.paint(node)
    if box.width != drawing.sizes.node_width:
        said = f", minimum width={_number(box.width)}bp"
    if box.height != drawing.sizes.node_height:
        said += f", minimum height={_number(box.height)}bp"
    return said if paint == drawing.palette.paint(node.kind) else f"{said}, {_paint(paint)}"


def _paint(paint: Paint) -> str:
    """The look of a box."""
    said = f"fill={_colour(paint.fill)}, text={_colour(paint.ink)}, draw={_colour(paint.line)}"
    if (opacity := _opacity(paint.fill)) < 1:
        said += f", fill opacity={opacity:.2f}, text opacity=1"
    dashes = "" if paint.border == "solid" else f", {LINES[paint.border]}"
    return f"{said}, line width={_number(paint.width)}bp{dashes}"


def _legend(drawing: Drawing) -> Iterator[str]:
    """Samples of lines and boxes in rows under the input."""
    font = drawing.sizes.small_font
    for placed in surround(drawing).legend:
        yield from _sample(placed)
        text = escape(placed.entry.text)
        yield rf"\node[note, anchor=base west] at {_point(placed.text_x, placed.y - 0.34 * font)} {{{text}}};"


def _sample(placed: Placed) -> Iterator[str]:
    entry, x, y = placed.entry, placed.x, placed.y
    if entry.paint:
        half = SAMPLE_HEIGHT / 2
        corners = f"{_point(x + 4, y - half)} rectangle {_point(x + SAMPLE, y + half)}"
        yield rf"\draw[{_paint(entry.paint)}] {corners};"
        return
    pen = f"{_colour(entry.colour)}, {LINES[entry.style]}, line width={entry.width:.2f}bp"
    yield rf"\draw[{pen}, opacity={_opacity(entry.colour):.2f}] {_point(x, y)} -- {_point(x + SAMPLE, y)};"
    if entry.negative:
        yield rf"\draw[{pen}] {_point(x + SAMPLE, y - 3.5)} -- {_point(x + SAMPLE, y + 3.5)};"


def _caption(drawing: Drawing) -> Iterator[str]:
    _, middle, first = surround(drawing).caption[0]
    y = first + drawing.sizes.small_font / 2
    shape = f"text width={_number(drawing.layout.width)}bp, align=center, anchor=north"
    yield rf"\node[note, {shape}] at {_point(middle, y)} {{{escape(caption(drawing))}}};"


def _style(stroke: Stroke) -> str:
    """What edges that are drawn so are called in the file."""
    return "edge " + re.sub(r"[^A-Za-z0-9]+", " ", stroke.label).strip()


def _colour(code: str) -> str:
    """The name of a colour, which may have an opacity behind it that is no part of it."""
    return f"circuit{code[1:7].lower()}"


def _opacity(code: str) -> float:
    return int(code[7:9] or "ff", 16) / 255


def _font(size: float) -> str:
    """In whole points, which every font has."""
    return rf"font=\fontsize{{{size:.0f}}}{{{1.2 * size:.0f}}}\selectfont"


def _point(x: float, y: float) -> str:
    return f"({_number(x)},{_number(y)})"


def _number(value: float) -> str:
    """At most one decimal: ``12``, ``12.5``, never ``-0``."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text
