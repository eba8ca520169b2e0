"""``circuitfind show`` as its user meets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from circuitfind.circuits.bases import Neuron, edges_among
from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Graph
from circuitfind.cli.app import call

SCORES = {
    "input->a5.h2<q>": 0.75,
    "input->m4": -0.05,
    "a5.h2->logits": 2.0,
    "m4->logits": -1.0,
    "m4->a5.h2<v>": -0.25,
}
NAMES = {"task": {"name": "ioi"}, "method": {"name": "acdc", "metric": "kl"}}
SMALL = """\
ioi, small, acdc
  size          5 of 703 edges (0.71%)
  nodes         1 of 18 heads, 1 of 6 MLPs
  metric        kl
  faithfulness  62.5%
  KL            0.5 nats (everything ablated: 3.25)

        0  1  2  mlp    in
logits                   2
     5  ·  ·  █   ·      2
     4  ·  ·  ·   ▇-     1
   0-3  ·
 input  ▆

█ sum of |score| of the edges that leave it: 2 or more
· not in the circuit
- the sum of its scores is negative

5 edges, the 3 strongest
 a5.h2->logits       +2  ██████████████████████████████
 m4->logits          -1  ███████████████
 input->a5.h2<q>  +0.75  ███████████▎
"""


def model(graph: Graph) -> dict[str, object]:
    shape = {"n_layers": graph.n_layers, "n_heads": graph.n_heads, "parallel_attn_mlp": graph.parallel}
    return {"name": "small", "d_head": 4, "d_mlp": 8, **shape}


def small(**names: object) -> Circuit:
    graph = Graph(6, 3)
    edges = {Edge.parse(name): score for name, score in SCORES.items()}
    metrics = {"circuit": {"kl": 0.5}, "ablated": {"kl": 3.25}, "faithfulness": 0.625}
    return Circuit(graph, edges, model(graph), metrics=metrics, **{**NAMES, **names})


def of_neurons() -> Circuit:
    graph = Graph(2, 2)
    kept = {
        Neuron.parse(name): score
        for name, score in {"a0.h1.d2": 0.5, "a0.h1.d3": -1.0, "m1.n7": 0.1}.items()
    }
    return Circuit(graph, edges_among(graph, kept), model(graph), neurons=kept, **NAMES)


@pytest.fixture
def printed(tmp_path, capsys, monkeypatch):
    """``printed(circuit, *options)``: what the command prints."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(circuit: Circuit, *options: str, code: int = 0) -> str:
        (tmp_path / "circuit.json").write_text(circuit.to_json(), encoding="utf-8")
        assert call(["show", str(tmp_path), *options], debug=False) == code
        written = capsys.readouterr()
        return written.err if code else written.out

    return run


def test_a_person_sees_the_layers_and_the_strongest_edges(printed):
    assert printed(small(), "--edges", "3") == SMALL


def test_of_a_node_its_edges_out_and_in_are_shown(printed):
    assert printed(small(), "--node", "a5.h2").splitlines() == [
        "a5.h2 in ioi, small, acdc",
        "",
        "1 edge out",
        " a5.h2->logits  +2  ██████████████████████████████",
        "",
        "2 edges in",
        " input->a5.h2<q>  +0.75  ██████████████████████████████",
        " m4->a5.h2<v>     -0.25  ██████████",
    ]


def test_of_neurons_nodes_with_how_many_they_keep_are_shown(printed):
    text = printed(of_neurons())
    assert "3 of 32 neurons, all edges" in text and "    0  ·  ▇-  ·      2\n" in text
    assert " a0.h1  2 of 4 neurons  -0.5  ██████████████████████████████\n" in text
    assert " a0.h1.d3    -1  ██████████████████████████████\n" in printed(of_neurons(), "--node", "a0.h1")


def test_a_circuit_of_positions_and_an_empty_one_are_shown(printed):
    graph = Graph(6, 3, roles=("S1", "END"))
    edges = {Edge.parse("input->a5.h2<k>@S1"): 1.0, Edge.parse("a5.h2->logits"): 2.0}
    text = printed(Circuit(graph, edges, model(graph), **NAMES))
    assert "\n  positions  S1, END\n" in text and "\n input->a5.h2<k>@S1  +1  ███████████████\n" in text
    assert printed(Circuit(Graph(6, 3), {}, model(Graph(6, 3)))).endswith(
        "   0-5  ·\n input  ·\n\n· not in the circuit\n\n0 edges\n"
    )


def test_a_program_gets_one_json_document(printed):
    document = json.loads(printed(small(), "--json", "--edges", "2"))
    assert document["edges"] == {"a5.h2->logits": 2.0, "m4->logits": -1.0}
    assert document["nodes"]["m4"] == {"kind": "mlp", "n": 2, "score": -1.25, "strength": 1.25}
    assert (document["task"], document["n_edges"], document["faithfulness"]) == ("ioi", 5, 0.625)
    document = json.loads(printed(small(), "--json", "--node", "m4"))
    assert document["out"] == {"m4->logits": -1.0, "m4->a5.h2<v>": -0.25} and document["in"] == {
        "input->m4": -0.05
    }
    assert json.loads(printed(of_neurons(), "--json", "--node", "m1"))["neurons"] == {"m1.n7": 0.1}


def test_colours_are_there_where_they_are_wanted_and_nowhere_else(printed, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[38;5;208m███████████████\x1b[0m" in printed(small())
    monkeypatch.setenv("NO_COLOR", "1")
    assert printed(small(), "--edges", "3") == SMALL


def test_a_name_can_do_nothing_to_a_terminal(printed):
    text = printed(small(task={"name": "\x1b[2J[red]x[/red]\n\r\x07 \u202e" + "y" * 100}))
    assert text.startswith(" [2J[red]x[/red]") and text.splitlines()[1:10] == SMALL.splitlines()[1:10]
    assert not set(text) & set("\x1b\x07\r\u202e")


def test_a_file_that_holds_words_where_numbers_are_expected_is_refused(printed):
    graph = Graph(2, 2)
    said = printed(Circuit(graph, {}, model(graph), metrics={"faithfulness": "high"}), code=2)
    assert "its \"metrics.faithfulness\" is 'high'; it must be a number or null." in said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--node", "a0.h0"], "Node 'a0.h0' is not in the circuit"),
        (["--node", "a99.h0", "--json"], "Node 'a99.h0' is not in the circuit"),
        (["--node", "nine"], "'nine' is no node. Nodes are named"),
        (["--edges", "-1"], "--edges is -1; it must be 0 or more."),
    ],
)
def test_bad_input_says_what_to_do(options, says, printed):
    assert says in printed(small(), *options, code=2)


def test_a_terminal_without_the_letters_gets_others(tmp_path: Path):
    (tmp_path / "circuit.json").write_text(small().to_json(), encoding="utf-8")
    code = "import sys; from circuitfind.cli.app import main; main()"
    command = [sys.executable, "-c", code, "show", str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}, check=True
    )
    assert b"     4  .  .  .   8-     1\n" in done.stdout and done.stdout.isascii()
