"""A circuit as a notebook shows it: its picture, and a small table of what it is.

Where it can't be drawn, or the picture would make the notebook heavy, its layers stand there in
letters. The picture is an image inside the page: nothing in it can act on the notebook, and two
circuits on one page don't share names.
"""

from __future__ import annotations

import base64
from functools import lru_cache
from html import escape

from circuitfind.circuits.circuit import Circuit
from circuitfind.errors import CircuitfindError
from circuitfind.export.drawing.facts import facts, names, title
from circuitfind.export.drawing.subject import Look
from circuitfind.export.formats.dot import circuit_to_dot
from circuitfind.export.formats.picture import render
from circuitfind.export.formats.terminal import View, show
from circuitfind.files.printable import printable

MOST_EDGES = 500
"""Of more the strongest are drawn, and the caption says so."""
LARGEST = 1_000_000
"""Characters of a picture: a notebook keeps it in its file each time that it is shown."""


def circuit_to_svg(circuit: Circuit) -> str | None:
    """The picture; None where there can be none."""
    try:
        svg = _draw(circuit_to_dot(circuit, Look(most_edges=MOST_EDGES)))
    except CircuitfindError:
        return None
    return svg if len(svg) <= LARGEST else None


def circuit_to_html(circuit: Circuit) -> str:
    """The picture, or the layers in letters, and the table."""
    svg = circuit_to_svg(circuit)
    if svg is None:
        text = "\n".join(line.plain.rstrip() for line in show(circuit, View()))
        return f'<pre style="line-height:1.2">{escape(text)}</pre>'
    code = base64.b64encode(svg.encode()).decode()
    style = "max-width:100%;max-height:40em;background:white"
    picture = (
        f'<img alt="{escape(circuit_to_line(circuit))}" style="{style}"'
        f' src="data:image/svg+xml;base64,{code}">'
    )
    rows = {**names(circuit), **facts(circuit)}
    cells = "".join(f"<tr>{_cell('th', key)}{_cell('td', value)}</tr>" for key, value in rows.items())
    return f"<div>{picture}<table>{cells}</table></div>"


def _cell(tag: str, text: str) -> str:
    return f'<{tag} style="text-align:left">{escape(text)}</{tag}>'


def circuit_to_line(circuit: Circuit) -> str:
    """The circuit in one line, where it is a value among others."""
    return printable(f"<Circuit {title(circuit)}: {facts(circuit)['size']}>")


@lru_cache(maxsize=4)  # a notebook asks for the picture, then for the page with the picture
def _draw(dot: str) -> str:
    return render(dot, "svg").decode()
