"""The layers of a circuit in letters: a line each, logits above and input below, a column for each head.

The fuller a cell, the larger the sum of |score| of the edges that leave its node, or of the neurons
that it keeps; as line widths in pictures do, it grows with the root. A minus stands at nodes whose
scores sum up to less than nothing.
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from rich.text import Text

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Graph, Node
from circuitfind.export.drawing.facts import strengths
from circuitfind.export.drawing.style import Widths, reference

POSITIVE, NEGATIVE, FAINT = "bright_blue", "dark_orange", "dim"
LEAST_EMPTY = 3  # so many layers of which nothing is in the circuit share a line


@dataclass(frozen=True)
class Glyphs:
    """What cells (``levels``) and bars (``parts``) are made of, from little to much."""

    levels: str = "▁▂▃▄▅▆▇█"
    parts: str = "▏▎▍▌▋▊▉█"
    none: str = "·"


UNICODE, ASCII = Glyphs(), Glyphs("123456789", "#", ".")


@dataclass(frozen=True)
class Grid:
    """The columns: how wide a head's is, how many heads stand in a line, how wide the layers' numbers are."""

    cell: int
    n_columns: int
    label: int

    @staticmethod
    def choose(n_layers: int, n_heads: int, width: int) -> Grid:
        """The widest columns that fit into so many letters; heads for which there is no room stand
        a line below.
        """
        label = max(len("logits"), 2 * len(str(n_layers)) + 1)
        room = max(1, width - label - len("   mlp   in"))
        cell = next((cell for cell in (3, 2) if cell * n_heads <= room), 1)
        n_lines = math.ceil(cell * n_heads / room)
        return Grid(cell, math.ceil(n_heads / n_lines), label)

    @property
    def width(self) -> int:
        return self.cell * self.n_columns

    def header(self) -> str:
        """Numbers above the columns, as many as there is room for."""
        step = {3: 1, 2: 5, 1: 10}[self.cell]
        line = [" "] * self.width
        for column in range(0, self.n_columns, step):
            number, place = str(column), self.cell * column + (self.cell == 3 and column < 10)
            if place + len(number) <= self.width:
                line[place : place + len(number)] = number
        return "".join(line)


@dataclass(frozen=True)
class Cells:
    """Of each node of the circuit its scores, and how much of a cell they fill."""

    scores: Mapping[Node, list[float]]
    widths: Widths
    glyphs: Glyphs

    def draw(self, node: Node, width: int) -> Text:
        """A node's cell: how much it sends, and whether that is negative."""
        if node not in self.scores:
            cell = Text(self.glyphs.none, FAINT)
        else:
            levels, score = self.glyphs.levels, sum(self.scores[node])
            share = self.widths.share(sum(map(abs, self.scores[node])))
            cell = Text(levels[min(int(share * len(levels)), len(levels) - 1)], colour(score))
            if score < 0 and width > 1:
                cell.append("-", colour(score))
        cell.pad_left(int(width == 3))
        cell.pad_right(width - len(cell))
        return cell


def colour(score: float) -> str:
    return NEGATIVE if score < 0 else POSITIVE


def layer_lines(circuit: Circuit, width: int, glyphs: Glyphs) -> Iterator[Text]:
    """The picture, and below it what its letters mean."""
    graph, scores = circuit.graph, strengths(circuit)
    full = reference(sum(map(abs, of_node)) for node, of_node in scores.items() if node.is_inner)
    cells, grid = (
        Cells(scores, Widths(full, 0, 1), glyphs),
        Grid.choose(graph.n_layers, graph.n_heads, width),
    )
    counts = _counts(circuit)
    yield Text(
        f"{'':{grid.label}} {grid.header()} mlp {'in' if circuit.neurons is None else 'kept':>5}", FAINT
    )
    yield _line("logits", Text(" " * grid.width), Text("  "), counts[-1], grid)
    taking_part = {node.layer for node in scores}
    layers = [(layer, layer in taking_part) for layer in reversed(range(graph.n_layers))]
    for is_there, members in groupby(layers, key=lambda item: item[1]):
        numbers = [layer for layer, _ in members]
        if is_there or len(numbers) < LEAST_EMPTY:
            for layer in numbers:
                yield from _layer(layer, graph, counts[layer], cells, grid)
        else:
            yield Text(f"{f'{numbers[-1]}-{numbers[0]}':>{grid.label}}  {glyphs.none}", FAINT)
    if circuit.neurons is None:
        yield Text.assemble((f"{'input':>{grid.label}} ", FAINT), cells.draw(Node("input"), grid.cell))
    yield Text()
    for said in _legend(
        cells, grid, "edges that leave it" if circuit.neurons is None else "neurons that it keeps"
    ):
        yield from (Text(line, FAINT) for line in textwrap.wrap(said, width, subsequent_indent="  "))


def _layer(layer: int, graph: Graph, count: int, cells: Cells, grid: Grid) -> Iterator[Text]:
    """A layer's line, and more for heads that don't fit into it; the MLP and the count stand in the first."""
    every = graph.layer(layer)[0].nodes
    for start in range(0, len(every), grid.n_columns):
        nodes = every[start : start + grid.n_columns]
        heads = Text().join(cells.draw(node, grid.cell) for node in nodes)
        heads.pad_right(grid.width - len(heads))
        if start and any(node in cells.scores for node in nodes):
            yield Text.assemble((f"{f'+{start}':>{grid.label}} ", FAINT), heads)
        elif not start:
            yield _line(str(layer), heads, cells.draw(Node("mlp", layer), 2), count, grid)


def _line(label: str, heads: Text, mlp: Text, count: int, grid: Grid) -> Text:
    return Text.assemble((f"{label:>{grid.label}} ", FAINT), heads, "  ", mlp, f"{count or '':>6}")


def _counts(circuit: Circuit) -> Counter[int]:
    """Into each layer how many edges, the logits' being -1; or how many neurons it keeps."""
    if circuit.neurons is not None:
        return Counter(neuron.node.layer for neuron in circuit.neurons)
    return Counter(edge.receiver.node.layer for edge in circuit.edges)


def _legend(cells: Cells, grid: Grid, what: str) -> Iterator[str]:
    """What a full cell means, and what the others are."""
    if full := cells.widths.reference:
        yield f"{cells.glyphs.levels[-1]} sum of |score| of the {what}: {full:g} or more"
    yield f"{cells.glyphs.none} not in the circuit"
    if any(
        sum(scores) < 0 and (grid.cell > 1 or node.kind == "mlp") for node, scores in cells.scores.items()
    ):
        yield "- the sum of its scores is negative"
