"""The Mermaid flowchart. What it may hold was tried in Mermaid 12.3's own parser and in a browser."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from circuitfind.circuits.bases import Neuron, edges_among
from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Graph
from circuitfind.errors import OutputError
from circuitfind.export import Look
from circuitfind.export.drawing.drawing import ends
from circuitfind.export.drawing.naming import identifier
from circuitfind.export.formats.mermaid import LONGEST, MOST_EDGES, circuit_to_mermaid, escape

EDGE = re.compile(r"^  (\w+) (-->|--x)(?:\|([qkv])\|)? (\w+)$", re.MULTILINE)
ROLES = ("S1", "a_b.c", "a_b-c", "END")
SMALL = """\
---
title: "50% + more, tiny, 4 of 46 edges, 4 nodes"
---
%% A circuit, written by circuitfind. The thicker an edge the larger its |score|; x ends a negative one.
flowchart BT
  input["input"]:::ends
  subgraph layer0["layer 0"]
    a0h0("a0.h0"):::head
    m0["m0"]:::mlp
  end
  logits["logits"]:::ends
  input -->|k| a0h0
  input -->|v| a0h0
  input --x m0
  m0 --> logits
  subgraph legend["lines"]
    legend0["k"]
    legend1["v"]
    legend2["into MLP, logits"]
    legend3["#124;score#124; 0.2"]
    legend4["#8805; 2"]
  end
"""


def small() -> Circuit:
    scores = {"input->a0.h0<v>": 2.0, "input->a0.h0<k>": 2.0, "input->m0": -0.5, "m0->logits": 2.0}
    edges = {Edge.parse(name): score for name, score in scores.items()}
    return Circuit(Graph(2, 2), edges, {"name": "tiny"}, {"name": "50% & more"})


def test_a_small_circuit_is_written_as_a_person_would():
    text = circuit_to_mermaid(small())
    assert text.startswith(SMALL)
    assert "linkStyle 0 stroke:#d55e00,stroke-width:4.5px,stroke-dasharray:1 3\n" in text
    assert "linkStyle 3 stroke:#4d4d4d,stroke-width:4.5px\n" in text


@pytest.mark.parametrize("graph", [Graph(12, 12), Graph(6, 4, roles=ROLES)], ids=["edges", "roles"])
@pytest.mark.parametrize("n_edges", [20, 200])
def test_every_edge_is_there_with_its_sign_and_one_style(graph, n_edges, grow):
    circuit = grow(graph, n_edges)
    text = circuit_to_mermaid(circuit)
    expected = [
        (*(identifier(graph, node) for node in ends(graph, edge)), "--x" if score < 0 else "-->")
        for edge, score in circuit.edges.items()
    ]
    assert [(sender, receiver, line) for sender, line, _, receiver in EDGE.findall(text)] == expected
    styled = [
        int(number)
        for numbers in re.findall(r"linkStyle ([\d,]+) ", text)
        for number in numbers.split(",")
    ]
    assert sorted(styled) == list(range(n_edges))
    named = Counter(re.findall(r'^ +(\w+)[(\[]".*:::', text, re.MULTILINE))
    assert max(named.values()) == 1 and set(named) >= {name for *both, _ in expected for name in both}


@pytest.mark.parametrize(
    ("graph", "most"), [(Graph(30, 9), 2000), (Graph(12, 12), 80), (Graph(30, 9, roles=ROLES), 9999)]
)
def test_no_file_is_more_than_mermaid_draws_and_a_comment_says_what_was_cut(graph, most, grow):
    circuit = grow(graph, 900)
    text = circuit_to_mermaid(circuit, Look(most_edges=most))
    drawn = len(EDGE.findall(text))
    assert min(most, MOST_EDGES) * 0.8 < drawn <= min(most, MOST_EDGES) and len(text) <= LONGEST
    assert f"\n%% The {drawn:,} strongest of 900 edges:" in text


def test_a_text_that_is_too_long_has_fewer_edges(grow, monkeypatch):
    monkeypatch.setattr("circuitfind.export.formats.mermaid.LONGEST", 9_000)
    text = circuit_to_mermaid(grow(Graph(12, 12), 400))
    assert 6_000 < len(text) <= 9_000 and 50 < len(EDGE.findall(text)) < 400


def of_neurons(n_layers: int, n_heads: int) -> Circuit:
    graph = Graph(n_layers, n_heads)
    kept = {Neuron(node, 0): 0.5 for node in graph.senders[1:]}
    edges = {} if n_layers > 2 else edges_among(graph, kept)
    return Circuit(graph, edges, {"d_head": 4, "d_mlp": 8}, neurons=kept)


def test_nodes_of_neurons_stand_in_their_layers_and_too_many_are_refused():
    text = circuit_to_mermaid(of_neurons(2, 1))
    assert (
        'a0h0("a0.h0<br/>1 of 4"):::head' in text
        and "input ~~~ a0h0 ~~~ m0 ~~~ a1h0 ~~~ m1 ~~~ logits" in text
    )
    with pytest.raises(OutputError, match="Mermaid reads at most 50,000 characters"):
        circuit_to_mermaid(of_neurons(48, 25))


@given(st.text())
def test_a_label_holds_nothing_that_means_something_to_mermaid(text):
    escaped = escape(text)
    assert re.fullmatch(r"([A-Za-z0-9 .,_@+-]|#\d+;)+", escaped)
    shown = re.sub(r"#(\d+);", lambda match: chr(int(match[1])), escaped)
    assert shown.strip() == "".join(letter if letter.isprintable() else " " for letter in text).strip()


@given(st.text(max_size=20))
def test_the_title_is_a_string_whatever_a_task_is_called(name):
    circuit = Circuit(
        small().graph, small().edges, {"name": "tiny"}, {"name": f'{name}" %%{{init: <b>\n'}
    )
    opening, title, *rest = circuit_to_mermaid(circuit).split("\n")
    assert opening == "---" and rest[:1] == ["---"] and rest[2] == "flowchart BT"
    read = yaml.safe_load(title)["title"]
    assert read.endswith('" %%{init: ‹b› , tiny, 4 of 46 edges, 4 nodes') and not set(read) & set("<>&\n")
