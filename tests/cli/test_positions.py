"""``circuitfind run --positions`` as its user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import END
from circuitfind.cli.app import call
from circuitfind.methods.catalogue import CATALOGUE
from circuitfind.options import RunOptions
from circuitfind.runs.resume import resume_command

ROLES = ("IO", "S1", "S2", "rest", END)
QUICK = ("--model", "tiny", "--prompts", "4", "--format", "dot", "--quiet", "--positions")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: object) -> int:
    return call(["run", *map(str, arguments)], debug=False)


def files(folder: str, *but: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name not in but}


@pytest.mark.parametrize(
    "options",
    [
        ("--method", "eap-ig", "--edges", "40", "--bootstrap", "20"),
        ("--method", "atp", "--edges", "40", "--select", "greedy"),
        ("--threshold", "0.5"),
    ],
)
def test_a_run_leaves_a_circuit_of_edges_at_roles_in_every_file(options: tuple[str, ...]) -> None:
    assert run("ioi", *QUICK, *options, "--out", "a") == 0
    circuit, written = Circuit.load(Path("a")), json.loads(Path("a/circuit.json").read_text())
    assert circuit.graph.roles == ROLES and circuit.edges
    assert circuit.to_json() == Path("a/circuit.json").read_text()
    assert written["graph"] == {"n_edges": 1246, "n_nodes": 17, "positions": list(ROLES)}
    assert written["method"]["positions"] == list(ROLES)
    assert all(("@" in name) is not name.endswith("->logits") for name in written["edges"])
    with safe_open("a/scores.safetensors", "pt") as file:
        scores, receivers = file.get_tensor("scores"), json.loads(file.metadata()["receivers"])
    assert receivers == [str(receiver) for receiver in circuit.graph.receivers] and len(scores) == len(
        receivers
    )
    assert int((~scores.isnan()).sum()) == 1246
    report = Path("a/report.md").read_text()
    n_edges = sum(
        int(line.split("|")[2])
        for line in report.splitlines()
        if line.startswith(tuple(f"| {r} |" for r in ROLES))
    )
    assert "## The edges by role" in report and n_edges == len(circuit.edges)
    assert f"{len(circuit.edges)} on a path from input to logits" in report or "--threshold" in options
    if "--bootstrap" in options:
        assert Circuit.load(Path("a/consensus.json")).graph.roles == ROLES


def test_the_prompts_of_a_run_are_a_task_with_the_same_circuit() -> None:
    options = ("--method", "eap", "--metric", "loss", "--edges", "30")
    assert run("ioi", *QUICK, *options, "--out", "a") == 0
    assert run("a/prompts.jsonl", *QUICK, *options, "--out", "b") == 0
    assert Path("a/prompts.jsonl").read_bytes() == Path("b/prompts.jsonl").read_bytes()
    assert Circuit.load(Path("a")).edges == Circuit.load(Path("b")).edges


def test_without_positions_the_prompts_have_no_roles() -> None:
    assert run("ioi", *QUICK[:-1], "--method", "eap", "--edges", "30", "--out", "a") == 0
    assert "roles" not in Path("a/prompts.jsonl").read_text()
    assert "positions" not in Path("a/circuit.json").read_text()


def test_prompts_without_roles_are_told_apart_token_by_token(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ioi", *QUICK[:-1], "--prompts", 12, "--threshold", 9, "--out", "a") == 0
    by_length: dict[int, list[str]] = {}
    for line in Path("a/prompts.jsonl").read_text().splitlines():
        words = json.loads(line)["clean"].replace(",", " ,").split()
        by_length.setdefault(len(words), []).append(line)
    length, lines = max(by_length.items(), key=lambda item: len(item[1]))
    Path("alike.jsonl").write_text("\n".join(lines))
    assert run("alike.jsonl", *QUICK, "--method", "eap-ig", "--edges", 30, "--out", "b") == 0
    assert Circuit.load(Path("b")).graph.roles == (*map(str, range(length - 1)), END)
    capsys.readouterr()
    assert (
        run("a/prompts.jsonl", *QUICK, "--prompts", 12, "--method", "eap-ig", "--edges", 30, "--out", "c")
        == 2
    )
    assert "Name roles in the task" in capsys.readouterr().err and not Path("c").exists()


def test_a_sweep_and_a_run_cut_off_end_with_the_bytes_of_whole_runs() -> None:
    assert run("ioi", *QUICK, "--threshold", "0.5,1", "--out", "s") == 0
    for threshold in ("0.5", "1"):
        assert run("ioi", *QUICK, "--threshold", threshold, "--out", f"t{threshold}") == 0
        one, other = (
            files(folder, "run.json", "report.md")
            for folder in (f"t{threshold}", f"s/threshold-{threshold}")
        )
        assert one == other
    assert json.loads(Path("s/sweep.json").read_text())["graph"]["positions"] == list(ROLES)


UNABLE = ("ifr", "subnetwork-probing", "edge-pruning", "hisp", "activation-magnitude")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        *((("--method", name, "--edges", 30), f"--positions: {name} decides") for name in UNABLE),
        (("--method", "ensemble", "--of", "eap-ig,ifr", "--edges", 30), "--positions: ifr decides"),
        (
            ("--method", "edge-pruning", "--start-from", "eap-ig", "--edges", 30),
            "--positions: edge-pruning decides",
        ),
        (("--schedule", "screened"), "--positions: the schedule screened"),
        (("--schedule", "grouped"), "--positions: the schedule grouped"),
    ],
)
def test_what_does_not_tell_positions_apart_is_refused_with_what_does(
    options: tuple[Any, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("ioi", *QUICK, *options) == 2
    said = capsys.readouterr().err
    assert says in said and (
        "acdc, eap, clean-corrupted, eap-ig" in said or "--schedule sequential" in said
    )


def test_it_is_refused_before_torch_is_imported() -> None:
    code = (
        "import sys; from circuitfind.cli.app import call\n"
        "assert call(['run', 'ioi', '--positions', '--method', 'ifr', '--edges', '3'], debug=False) == 2\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_list_of_methods_says_which_tell_positions_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["methods", "--json"], debug=False) == 0
    listed = {
        method["name"]: method["positions"] for method in json.loads(capsys.readouterr().out)["methods"]
    }
    assert {name for name, can in listed.items() if not can} == set(UNABLE)
    assert set(listed) == set(CATALOGUE)


def test_the_command_to_go_on_says_positions() -> None:
    assert "--positions" in resume_command(RunOptions("ioi", positions=True), Path("a"))


def test_a_run_goes_on_only_at_the_level_it_was_begun_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ioi", *QUICK, "--threshold", 1, "--out", "a") == 0
    assert run("ioi", *QUICK[:-1], "--threshold", 1, "--out", "a", "--resume") == 2
    assert "positions True (now False)" in capsys.readouterr().err


def test_mean_ablation_goes_with_positions() -> None:
    assert run("ioi", *QUICK, "--method", "exact", "--edges", 30, "--ablation", "mean", "--out", "a") == 0
    assert Circuit.load(Path("a")).graph.roles == ROLES
    assert torch.tensor(list(Circuit.load(Path("a")).edges.values())).abs().max() > 0
