"""Labels and roles: what is read, what is shown, and that no text breaks a picture."""

from __future__ import annotations

import json
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from svgareas import SVG

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Graph, Node
from circuitfind.errors import UsageError
from circuitfind.export import Look, circuit_to_dot, render
from circuitfind.export.drawing.drawing import draw
from circuitfind.export.drawing.labels import published_roles, read_labels
from circuitfind.export.drawing.legend import entries
from circuitfind.export.drawing.text import clean, measure, shorten

GPT2 = Graph(12, 12)
MOVER = Node("head", 9, 9)
IOI = Circuit(
    GPT2,
    {
        Edge.parse(name): 1.0
        for name in ("input->a0.h1<q>", "a0.h1->a9.h9<k>", "a9.h9->a10.h0<q>", "a10.h0->logits")
    },
    model={"name": "gpt2"},
    task={"name": "ioi"},
)
NASTY = [
    'say "hi"',
    "\\N \\G \\n \\",
    'back\\"slash',
    "R&D &amp; &lt;b&gt; &#65;",
    "<b>bold</b><br/>",
    "$x_1^2$ 100% #1 {a}~b",
    "]]> --> \x00\n\t",
    "\u00e9\u4e2d\u6587\U0001f600 \u202e\ud800",
    "W" * 200,
    "word " * 60,
]


def with_name(name: str, task: str = "ioi") -> Circuit:
    return replace(IOI, model={"name": name}, task={"name": task})


@pytest.mark.parametrize("name", ["gpt2", "gpt2-small", "openai-community/gpt2"])
def test_roles_are_those_published_for_the_same_task_and_model(name):
    roles = published_roles(with_name(name))
    assert roles[MOVER] == "name mover" and len(roles) == 26


@pytest.mark.parametrize(
    "circuit", [with_name("gpt2-xl"), with_name("my-gpt2"), with_name("gpt2", "docstring")]
)
def test_another_model_of_the_same_shape_or_another_task_has_no_roles(circuit):
    assert published_roles(circuit) == {} == draw(circuit).colours


def test_a_node_with_a_role_says_so_in_the_roles_colour_and_the_legend_counts_it():
    drawing = draw(IOI)
    assert drawing.notes[MOVER] == ("name mover",)
    assert drawing.paint(MOVER) == drawing.paint(Node("head", 10, 0)) != drawing.paint(Node("head", 0, 1))
    shown = [(entry.text, entry.paint.fill) for entry in entries(drawing) if entry.paint]
    first, second = drawing.palette.roles[:2]
    assert shown == [("name mover: 2", first), ("duplicate token: 1", second)]


def test_a_label_takes_the_roles_place_an_empty_one_leaves_none_and_roles_can_be_left_out():
    drawing = draw(IOI, Look(labels=read_labels(["a9.h9=Mine, mine", "a10.h0="], GPT2)))
    assert drawing.notes == {MOVER: ("Mine, mine",), Node("head", 0, 1): ("duplicate", "token")}
    assert draw(IOI, Look(roles=False)).notes == {}


def test_labels_come_several_in_a_text_in_several_texts_and_in_a_file(tmp_path):
    file = tmp_path / "labels.json"
    file.write_text(json.dumps({"a1.h1": "from = file", "m0": "early"}), encoding="utf-8")
    read = read_labels([str(file), "a9.h9=Name mover, with a comma,m0=late", "a0.h0=x=y"], GPT2)
    named = {str(node): label for node, label in read.items()}
    assert named == {
        "a1.h1": "from = file",
        "m0": "late",
        "a9.h9": "Name mover, with a comma",
        "a0.h0": "x=y",
    }


@pytest.mark.parametrize(
    ("given", "collapse", "says"),
    [
        (
            "a9.h99=x",
            None,
            r"names 'a9\.h99'; a model of 12 layers of 12 heads .* Did you mean 'a9\.h\d'",
        ),
        ("logits=x", None, "no such head or MLP"),
        ("=x", None, "names ''"),
        ("a9.h9", None, r"'a9\.h9' is no label and no file.*NODE=LABEL"),
        ("a9.h9=x", "layers", r"--collapse layers draws as a part of 'a9'\. Label 'a9'"),
        ("a9=x", None, r"Did you mean 'a9\.h\d'"),
    ],
)
def test_a_label_of_nothing_is_an_error_that_helps(given, collapse, says):
    with pytest.raises(UsageError, match=says):
        read_labels([given], GPT2, collapse)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('["a9.h9"]', UsageError),
        ('{"a9.h9": 1}', UsageError),
        ("{", UsageError),
        ('{"x": "y"}', UsageError),
    ],
)
def test_a_file_that_holds_no_labels_is_an_error(text, error, tmp_path):
    (tmp_path / "labels.json").write_text(text, encoding="utf-8")
    with pytest.raises(error, match=r"labels"):
        read_labels([str(tmp_path / "labels.json")], GPT2)


def test_a_label_of_megabytes_is_refused_and_a_long_text_is_shortened_at_once(tmp_path):
    (tmp_path / "labels.json").write_text('{"a9.h9": "%s"}' % ("long " * 10**6), encoding="utf-8")
    for text in ("a9.h9=" + "x" * 2000, str(tmp_path / "labels.json")):
        with pytest.raises(UsageError, match=r"1,000"):
            read_labels([text], GPT2)
    begun = time.process_time()
    assert shorten("x" * 10**6, 100, 9).startswith("xxx")
    assert time.process_time() - begun < 1


@pytest.mark.parametrize("text", ["Name mover", "x" * 500, "a b " * 99, "\u4e2d\u6587" * 40])
def test_a_text_is_shortened_to_as_much_as_fits(text):
    for most in (5.0, 31.5, 100.0, 1e5):
        short = shorten(text, most, 9)
        if measure(text, 9) <= most:
            assert short == text
        else:
            letters = next(
                n for n in range(len(text), -1, -1) if n == 0 or measure(text[:n] + "\u2026", 9) <= most
            )
            assert short == text[:letters].rstrip() + "\u2026"


def texts_of(svg: bytes) -> tuple[dict[str, list[str]], list[str]]:
    """The texts in each node's box, and those elsewhere, as a reader of the SVG sees them."""
    root = ElementTree.fromstring(svg)

    def seen(element: ElementTree.Element) -> str:
        return clean((element.text or "").replace("\xa0", " ").replace("\u2060", ""))

    nodes = [g for g in root.iter(f"{SVG}g") if g.get("class") == "node"]
    elsewhere = [seen(text) for text in root.find(f"{SVG}g").findall(f"{SVG}text")]
    return {g.get("id"): [seen(text) for text in g.iter(f"{SVG}text")] for g in nodes}, elsewhere


@given(st.lists(st.text(st.characters(), max_size=60), min_size=3, max_size=3))
@settings(max_examples=15, deadline=None)
@example(NASTY[:3])
@example(NASTY[3:6])
@example(NASTY[6:9])
@example(["&amp;", '\\"\\"', "  "])
def test_any_label_is_shown_as_it_is_or_shortened_and_breaks_nothing(labels):
    nodes = (Node("head", 0, 1), MOVER, Node("head", 10, 0))
    drawing = draw(IOI, look := Look(labels=dict(zip(nodes, labels, strict=True))))
    inside, outside = texts_of(render(circuit_to_dot(IOI, look), "svg"))
    for node in nodes:
        lines = [clean(line.replace("\u2060", "")) for line in drawing.notes.get(node, ())]
        assert inside[str(node)] == [str(node), *filter(None, lines)]
    assert set(inside) == {str(node) for node in IOI.nodes}
    shown = [clean(entry.text.replace("\u2060", "")) for entry in entries(drawing)]
    assert [text for text in outside if text in shown] == shown


@pytest.mark.parametrize("format", ["png", "pdf"])
def test_every_picture_format_draws_nasty_labels(format):
    nodes = [node for node in GPT2.senders if node.kind == "head"]
    circuit = Circuit(
        GPT2, {Edge(node, Edge.parse("m0->logits").receiver): 1.0 for node in nodes[: len(NASTY)]}
    )
    look = Look(labels=dict(zip(nodes, NASTY, strict=False)))
    assert len(render(circuit_to_dot(circuit, look), format)) > 8000
