"""``circuitfind export``, called as the app calls it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import typer
from typer.testing import CliRunner

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Graph, Node
from circuitfind.cli.export import export
from circuitfind.errors import CircuitError, OutputError, UsageError
from circuitfind.export import Look, circuit_to_dot
from circuitfind.export.drawing.highlight import Highlight

CIRCUIT = Circuit(
    Graph(1, 1),
    {Edge.parse("input->m0"): 0.5, Edge.parse("m0->logits"): 1.0},
    {"name": "one", "n_layers": 1, "n_heads": 1, "parallel_attn_mlp": False},
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "circuit.json").write_text(CIRCUIT.to_json(), encoding="utf-8")
    return tmp_path


def call(*arguments: object) -> str:
    """What the command prints. Raises what it raises."""
    app = typer.Typer()
    app.command("export")(export)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("given", [".", "circuit.json"])
def test_a_picture_is_written_beside_the_circuit_and_its_path_printed(given, folder):
    assert call(folder / given).split() == [str(folder / "circuit.svg")]
    assert (folder / "circuit.svg").read_bytes().startswith(b"<?xml")


def test_several_formats_are_several_files(folder):
    call(folder, "--format", "dot, png,dot")
    assert {file.name for file in folder.iterdir()} == {"circuit.json", "circuit.dot", "circuit.png"}


def test_out_names_the_file_and_its_ending_the_format(folder):
    call(folder, "--out", folder / "figure.pdf")
    assert (folder / "figure.pdf").read_bytes().startswith(b"%PDF-")


def test_a_dash_writes_to_stdout(folder):
    assert call(folder, "--format", "dot", "--out", "-") == circuit_to_dot(CIRCUIT)
    assert [file.name for file in folder.iterdir()] == ["circuit.json"]


def test_a_file_is_replaced_only_with_force(folder):
    (folder / "circuit.dot").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match=r"circuit\.dot is there already\. Add --force"):
        call(folder, "--format", "svg,dot")
    assert (folder / "circuit.dot").read_text(encoding="utf-8") == "mine" and not (
        folder / "circuit.svg"
    ).exists()
    call(folder, "--format", "dot", "--force")
    assert (folder / "circuit.dot").read_text(encoding="utf-8") == circuit_to_dot(CIRCUIT)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (
            ["--format", "svg,pdf", "--out", "x.svg"],
            UsageError,
            "--out x.svg names one file, but --format asks for 2",
        ),
        (["--format", "svgg"], UsageError, "Did you mean 'svg'"),
        (["--format", ""], UsageError, "No export format named ''"),
        (["--out", "figure.jpeg"], UsageError, "No export format named 'jpeg'"),
        (["--format", "png", "--out", "-"], UsageError, "png is none"),
        (["--format", "dot", "--out", "/"], OutputError, "it is a folder"),
        (["--style", "sceen"], UsageError, "No style named 'sceen'. Did you mean 'screen'"),
        (["--style", ""], UsageError, "No style named ''"),
        (["--collapse", "layer"], UsageError, "No way to collapse named 'layer'. Did you mean 'layers'"),
        (["--max-edges", "0"], UsageError, "--max-edges is 0; it must be 1 or more"),
        (["--max-edges", "-3"], UsageError, "--max-edges is -3"),
        (["--labels", "a0.h1=x"], UsageError, "names 'a0.h1'.* Did you mean 'a0.h0'"),
        (["--labels", "a0.h0"], UsageError, "no label and no file of labels"),
        (["--highlight", "ioi"], CircuitError, "ioi is of 12 layers of 12 heads"),
        (["--highlight", "nothing"], CircuitError, "No known circuit named 'nothing'"),
    ],
)
def test_bad_input_says_what_to_do_and_writes_nothing(arguments, error, says, folder):
    with pytest.raises(error, match=says):
        call(folder, *arguments)
    assert [file.name for file in folder.iterdir()] == ["circuit.json"]


def test_the_options_are_the_look(folder):
    options = [
        "--style",
        "screen",
        "--collapse",
        "layers",
        "--max-edges",
        "1",
        "--labels",
        "a0=One, two,m0=Three",
    ]
    look = Look(
        1, "screen", "layers", {Node("head", 0): "One, two", Node("mlp", 0): "Three"}, roles=False
    )
    look = replace(look, highlight=Highlight.of(CIRCUIT, folder.name))
    said = call(folder, "--format", "dot", "--out", "-", *options, "--no-roles", "--highlight", folder)
    assert said == circuit_to_dot(CIRCUIT, look) != circuit_to_dot(CIRCUIT)


def test_a_circuit_that_is_not_there_is_a_circuit_error(tmp_path):
    with pytest.raises(CircuitError, match=r"Give a circuit\.json or a run folder"):
        call(tmp_path / "nothing")


def test_help_shows_an_example():
    assert "circuitfind export results/" in " ".join(call("--help").split())


def test_the_command_is_ready_without_graphviz_and_torch():
    code = "import sys, circuitfind.cli.export; print({'torch', 'pygraphviz'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
