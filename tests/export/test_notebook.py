"""What a notebook shows of a circuit."""

from __future__ import annotations

import base64
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Graph
from circuitfind.errors import OutputError
from circuitfind.export import render
from circuitfind.export.formats import notebook

EDGES = {Edge.parse("input->a0.h0<v>"): 0.5, Edge.parse("a0.h0->logits"): 2.0}
METRICS = {"faithfulness": 0.625, "circuit": {"kl": 0.5}}


def small(task: str = "ioi", model: str = "tiny", method: str = "acdc") -> Circuit:
    return Circuit(Graph(2, 2), EDGES, {"name": model}, {"name": task}, {"name": method}, METRICS)


class Page(HTMLParser):
    """The tags of a page, and what stands in its cells and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture
def broken(monkeypatch):
    """Graphviz draws nothing."""

    def fail(*_: object) -> bytes:
        raise OutputError("Graphviz could not draw the svg.")

    monkeypatch.setattr(notebook, "render", fail)
    notebook._draw.cache_clear()


def test_a_notebook_shows_the_picture_and_a_table():
    circuit = small()
    svg = circuit._repr_svg_()
    page = Page(circuit._repr_html_())
    assert svg.startswith("<?xml") and "a0.h0" in svg
    kind, code = page.images[0]["src"].split(",")
    assert kind == "data:image/svg+xml;base64" and base64.b64decode(code).decode() == svg
    assert page.texts == [
        *("task", "ioi", "model", "tiny", "method", "acdc", "size", "2 of 46 edges (4.35%)"),
        *("nodes", "1 of 4 heads, 0 of 2 MLPs", "faithfulness", "62.5%", "KL", "0.5 nats"),
    ]


def test_the_picture_is_drawn_once(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        notebook, "render", lambda dot, format: drawn.append(format) or render(dot, format)
    )
    notebook._draw.cache_clear()
    circuit = small("once")
    circuit._repr_html_(), circuit._repr_svg_()
    assert drawn == ["svg"]


def test_where_it_cannot_be_drawn_the_layers_stand_in_letters(broken):
    page = Page(small("<b>")._repr_html_())
    assert page.tags == ["pre"] and "".join(page.texts).startswith("<b>, tiny, acdc\n")
    assert " a0.h0->logits" in "".join(page.texts) and small("<b>")._repr_svg_() is None


def test_a_picture_that_would_be_heavy_is_not_kept(monkeypatch, grow):
    monkeypatch.setattr(notebook, "LARGEST", 20_000)
    circuit = grow(Graph(12, 12), 60)
    assert circuit._repr_svg_() is None and circuit._repr_html_().startswith("<pre")


def test_of_many_edges_the_strongest_are_drawn(grow, monkeypatch):
    monkeypatch.setattr(notebook, "render", lambda dot, _: str(dot.count(" -> ")).encode())
    assert grow(Graph(12, 12), 700)._repr_svg_() == "500"


@given(st.text(), st.text(), st.text())
@settings(max_examples=50)
def test_no_name_is_markup(task, model, method):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notebook, "render", lambda *_: b"<svg/>")
        page = Page(
            small(
                f"<script>{task}", f'"><img src=x onerror="y">{model}', f"</td>&lt;{method}"
            )._repr_html_()
        )
    assert set(page.tags) <= {"div", "img", "table", "tr", "th", "td"} and len(page.images) == 1
    assert set(page.images[0]) == {"alt", "style", "src"}
    assert page.texts[1].startswith("<script>") and page.texts[5].startswith("</td>&lt;")


def test_in_ipython_it_is_one_line(grow):
    said = []

    class Printer:
        text = said.append

    grow(Graph(12, 12), 300)._repr_pretty_(Printer(), False)
    assert said == ["<Circuit ioi, random, acdc: 300 of 32,491 edges (0.92%)>"]
