"""The layers of a circuit in letters, for terminals and models of all widths."""

from __future__ import annotations

import pytest

from circuitfind.circuits.graph import Graph
from circuitfind.export.formats.terminal import View, show
from circuitfind.export.formats.textlayers import ASCII, Grid, layer_lines


@pytest.mark.parametrize("width", [40, 61, 80, 120])
@pytest.mark.parametrize("graph", [Graph(30, 9), Graph(3, 32), Graph(2, 100), Graph(120, 2)], ids=str)
def test_no_line_is_wider_than_the_terminal_and_every_node_has_a_cell(graph, width, grow):
    circuit = grow(graph, 300)
    assert max(len(line.plain.rstrip()) for line in show(circuit, View(width, 20, ASCII))) <= width
    grid = Grid.choose(graph.n_layers, graph.n_heads, width)
    _, _, *layers = [line.plain for line in layer_lines(circuit, width, ASCII)]
    cells = [line[grid.label + 1 :][: grid.width + 4] for line in layers[: layers.index("")]]
    assert (
        sum(letter in ASCII.levels for line in cells for letter in line) == len(circuit.nodes) - 1
    )  # not the logits


def test_columns_are_numbered_and_as_wide_as_there_is_room_for():
    assert Grid.choose(12, 12, 80).header().split() == [str(head) for head in range(12)]
    assert [Grid.choose(12, 12, width).cell for width in (80, 50, 40)] == [3, 2, 1]
    wide = Grid.choose(12, 64, 80)
    assert (wide.cell, wide.n_columns) == (1, 32) and wide.header() == f"{'0':10}{'10':10}{'20':10}30"
