"""``circuitfind view``, and pages of other commands, called as the app calls them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Graph
from circuitfind.cli import view as module
from circuitfind.cli.evaluate import evaluate
from circuitfind.cli.export import export
from circuitfind.cli.view import view
from circuitfind.errors import CircuitfindError, OutputError, UsageError
from circuitfind.pipeline import RunOptions, run

CIRCUIT = Circuit(
    Graph(1, 1),
    {Edge.parse("input->m0"): 0.5, Edge.parse("m0->logits"): 1.0},
    {"name": "no/such-model", "n_layers": 1, "n_heads": 1, "parallel_attn_mlp": False},
    {"name": "ioi"},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "circuit.json").write_text(CIRCUIT.to_json(), encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a page."""
    out = tmp_path_factory.mktemp("runs") / "run"
    run(RunOptions("ioi", "tiny", edges=40, n_prompts=5, bootstrap=10, out=out, formats=("html",)))
    return out


def call(command: Any, *arguments: object) -> Any:
    app = typer.Typer()
    app.command("it")(command)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def data(page: Path) -> dict[str, Any]:
    """What the page holds."""
    return json.loads(
        re.findall(r'id="data">(.*?)</script>', page.read_text(encoding="ascii"), re.DOTALL)[0]
    )


def mean_diff(page: dict[str, Any], name: str) -> float:
    values = [prompt["predictions"][name]["diff"] for prompt in page["prompts"]]
    return sum(values) / len(values)


def test_a_run_writes_a_page_with_its_predictions_bootstrap_and_observations(ran: Path) -> None:
    page, circuit = data(ran / "circuit.html"), Circuit.load(ran)
    assert (
        len(page["prompts"]) == 5
        and len(page["observations"]["pairs"]) == 4
        and page["surenessLevel"] == 0.95
    )
    for name, block in (("clean", "full"), ("circuit", "circuit")):
        assert mean_diff(page, name) == pytest.approx(circuit.metrics[block]["logit-diff"], abs=1e-3)
    heads = {node for node, (_, kind, *_) in enumerate(page["nodes"]) if kind == "head"}
    assert set(map(int, page["observations"]["patterns"])) == heads
    assert not (set(page["observations"]["writes"]) ^ {str(n) for n in range(len(page["nodes"]) - 1)})


def test_view_of_the_run_shows_the_same_and_a_curve_and_replaces_its_own_page(ran: Path) -> None:
    before = data(ran / "circuit.html")
    assert call(view, ran, "--no-open").stdout == f"{ran / 'circuit.html'}\n"
    after = data(ran / "circuit.html")
    assert [p["edges"] for p in after["curve"]["absolute"]][-1] == 262 and after["curve"]["cmd"] > 0
    assert {**after, "curve": None} == before


def test_a_page_of_a_run_that_was_evaluated_shows_the_curve_that_its_report_has(
    ran: Path, tmp_path: Path
) -> None:
    shutil.copytree(ran, tmp_path / "run")
    call(evaluate, tmp_path / "run", "--parts", "curve", "--quiet")
    call(view, tmp_path / "run", "--no-open", "--no-model")
    report = json.loads((tmp_path / "run" / "evaluation" / "report.json").read_text(encoding="utf-8"))
    assert data(tmp_path / "run" / "circuit.html")["curve"] == report["curve"]


def test_export_makes_the_page_of_what_the_run_left_without_torch(ran: Path, tmp_path: Path) -> None:
    code = "import sys; from circuitfind.cli.app import call; call(sys.argv[1:], False); print('torch' in sys.modules)"
    page = tmp_path / "page.html"
    to = ["--out", str(page)]
    for arguments in (["export", str(ran), *to], ["view", str(ran), "--no-model", "--no-open", *to]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
        )
        assert done.stdout == f"{page}\nFalse\n"
        assert data(page)["observations"] is None and len(data(page)["prompts"]) == 5


@pytest.mark.parametrize(
    "options", [{"positions": True, "edges": 30}, {"level": "neuron", "neurons": 20}], ids=str
)
def test_pages_of_positions_and_of_neurons_have_predictions_of_their_circuit(
    options: Any, tmp_path: Path
) -> None:
    run(
        RunOptions(
            "ioi", "tiny", method="eap", n_prompts=3, out=tmp_path / "run", formats=("html",), **options
        )
    )
    call(view, tmp_path / "run", "--no-open", "--out", tmp_path / "page.html")
    circuit = Circuit.load(tmp_path / "run").metrics["circuit"]["logit-diff"]
    for file in (tmp_path / "run" / "circuit.html", tmp_path / "page.html"):
        assert mean_diff(data(file), "circuit") == pytest.approx(circuit, abs=1e-3)


def test_where_the_model_cannot_be_had_a_warning_says_so_and_the_page_is_made(folder: Path) -> None:
    result = call(view, folder, "--no-open")
    assert result.stdout == f"{folder / 'circuit.html'}\n"
    assert "warning: the page is made without the model: " in result.stderr
    assert data(folder / "circuit.html")["observations"] is None
    with pytest.raises(CircuitfindError):
        call(view, folder, "--no-open", "--model", "no/other")


def test_a_circuit_that_is_cut_is_told_of(folder: Path) -> None:
    graph = Graph(12, 12)
    edges = {edge: float(number + 1) for number, edge in zip(range(2001), graph.edges(), strict=False)}
    model = {**CIRCUIT.model, "n_layers": 12, "n_heads": 12}
    circuit = replace(CIRCUIT, graph=graph, edges=edges, model=model)
    (folder / "circuit.json").write_text(circuit.to_json(), encoding="utf-8")
    said = ": the circuit has 2,001 edges; the page has the 2,000 strongest by |score|.\n"
    assert said in call(view, folder, "--no-model", "--no-open").stderr
    assert said in call(export, folder, "--format", "html", "--force").stderr


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (["--out", "/"], OutputError, "it is a folder"),
        (["--out", "/nowhere/page.html"], OutputError, "there is no folder /nowhere"),
        (["--out", "/proc/page.html"], OutputError, "Cannot write to /proc"),
        (["--pairs", "0"], UsageError, "--pairs is 0; it must be 1 or more"),
        (["--known", "iio"], CircuitfindError, "Did you mean 'ioi'"),
    ],
)
def test_bad_input_says_what_to_do_and_writes_nothing(
    arguments: list[str], error: Any, says: str, folder: Path
) -> None:
    with pytest.raises(error, match=says):
        call(
            view, folder, "--no-open", *(["--no-model"] if "--pairs" not in arguments else []), *arguments
        )
    assert [file.name for file in folder.iterdir()] == ["circuit.json"]


def test_a_file_that_is_no_page_of_ours_is_replaced_only_with_force(folder: Path) -> None:
    (folder / "circuit.html").write_text("<p>mine", encoding="utf-8")
    with pytest.raises(OutputError, match=r"circuit\.html is there already\. Add --force"):
        call(view, folder, "--no-model", "--no-open")
    call(view, folder, "--no-model", "--no-open", "--force")
    assert data(folder / "circuit.html")["title"] == "ioi in no/such-model"


def test_it_is_opened_where_there_is_a_display_or_when_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(module.webbrowser, "open", opened.append)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(module.sys, "platform", "linux")
    call(view, folder, "--no-model")
    assert opened == []
    call(view, folder, "--no-model", "--open")
    monkeypatch.setenv("DISPLAY", ":0")
    call(view, folder, "--no-model")
    assert opened == [(folder / "circuit.html").as_uri()] * 2
