"""``circuitfind import`` and ``submit``, called as the app calls them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from circuitfind.circuits.circuit import Circuit
from circuitfind.cli.app import call

THEIRS = Path(__file__).parents[1] / "exchange" / "fixtures" / "eap-ig-2x2.json"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = call([str(argument) for argument in arguments], debug=False)
    written = capsys.readouterr()
    return code, written.out, written.err


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    (tmp_path / "theirs.json").write_bytes(THEIRS.read_bytes())
    return tmp_path / "theirs.json"


def test_a_circuit_becomes_a_folder_beside_it_and_its_export_is_the_file(theirs, capsys, tmp_path):
    code, out, err = run(capsys, "import", theirs, "--model", "two")
    assert (code, err) == (0, "") and out == f"{tmp_path / 'theirs'}: a circuit of 8 of 46 edges\n"
    code, out, err = run(capsys, "export", tmp_path / "theirs", "--format", "eap-ig-json")
    assert code == 0 and err.startswith(
        "circuit.eap-ig.json: not in the file: what the circuit was found with"
    )
    assert (tmp_path / "theirs" / "circuit.eap-ig.json").read_bytes() == THEIRS.read_bytes()
    assert (tmp_path / "theirs" / "circuit.json").exists()
    code, _, err = run(capsys, "import", theirs)
    assert code == 2 and "is not empty" in err


def test_out_may_be_a_circuit_alone(theirs, capsys, tmp_path):
    code, _, err = run(capsys, "import", theirs, "--edges", 20, "--out", tmp_path / "c.json")
    assert code == 0 and "c.json has the circuit alone" in err
    assert 0 < len(Circuit.load(tmp_path / "c.json").edges) <= 20
    code, _, err = run(capsys, "import", theirs, "--out", tmp_path / "c.json")
    assert code == 2 and "Add --force" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--format", "eapig"], "No import format named 'eapig'"),
        (["--edges", "3", "--fraction", "0.1"], "Give exactly one of"),
        (["--edges", "300"], "300 edges are asked for"),
        (["--select", "best"], "No way to select named 'best'"),
        (["--shape", "2by2"], "--shape is '2by2'"),
        (["--out", "theirs.json/x"], "is a file"),
    ],
)
def test_bad_input_says_what_to_do(arguments, says, theirs, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "import", theirs, *arguments)
    assert code == 2 and out == "" and says in err and len(err.splitlines()) <= 2
    assert [path.name for path in tmp_path.iterdir()] == ["theirs.json"]


def test_a_run_writes_files_for_other_tools_and_one_that_can_not_be_written_does_not_lose_it(
    capsys, tmp_path
):
    asked = ["run", "ioi", "--model", "tiny", "--prompts", "2", "--method", "eap", "--edges", "30", "-q"]
    code, _, _ = run(capsys, *asked, "--format", "eap-ig-json", "--out", tmp_path / "edges")
    assert code == 0 and (tmp_path / "edges" / "circuit.eap-ig.json").is_file()
    code, _, err = run(
        capsys, *asked, "--positions", "--format", "eap-ig-json", "--out", tmp_path / "roles"
    )
    assert code == 0 and "circuit.eap-ig.json is left out" in err
    found = {path.name for path in (tmp_path / "roles").iterdir()}
    assert "circuit.json" in found and "circuit.eap-ig.json" not in found


def test_a_folder_is_no_file_to_import(capsys, tmp_path):
    assert call(["import", str(tmp_path)], debug=False) == 2
    assert "is a folder. Name the file in it" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_place_that_can_not_be_written_is_told(theirs, capsys, tmp_path):
    (tmp_path / "shut").mkdir(mode=0o500)
    code, _, err = run(capsys, "import", theirs, "--out", tmp_path / "shut" / "x")
    assert code == 2 and "Cannot write to" in err


def test_prompts_become_a_prompts_file_that_tasks_check_takes(capsys, tmp_path):
    marked = (f"{name} gave it to <predict>Ann</predict>" for name in ("Tom", "Jim"))
    rows = [{"clean": text, "corrupted": "Tim gave it to"} for text in marked]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, out, _ = run(capsys, "import", tmp_path / "p.jsonl")
    assert code == 0 and out == f"{tmp_path / 'p.prompts.jsonl'}: 2 prompts\n"
    assert run(capsys, "tasks", "check", tmp_path / "p.prompts.jsonl")[0] == 0
    code, _, err = run(capsys, "import", tmp_path / "p.jsonl", "--out", tmp_path / "p.txt")
    assert code == 2 and "Name a file that ends so" in err


def test_a_submission_is_packed_and_what_is_wrong_with_it_is_exit_code_1(theirs, capsys, tmp_path):
    run(capsys, "import", theirs)
    out = tmp_path / "out"
    code, printed, _ = run(capsys, "submit", "mib", f"ioi_gpt2={tmp_path / 'theirs'}", "--out", out)
    assert code == 1 and printed.splitlines()[0] == str(out / "ioi_gpt2" / "importances.json")
    assert "the model has 12 layers of 12 heads" in printed and "2 or more of each" in printed
    assert run(capsys, "submit", "mib", "--check", out)[0] == 1
    code, _, err = run(capsys, "submit", "mib", f"ioi_gpt2={tmp_path / 'theirs'}", "--out", out)
    assert code == 2 and "not empty" in err
    args = (
        "submit",
        "mib",
        f"ioi_gpt2={tmp_path / 'theirs'}",
        "--out",
        out,
        "--as",
        "circuits",
        "--force",
    )
    assert run(capsys, *args)[0] == 1
    assert len(list((out / "ioi_gpt2").iterdir())) == 9
    assert "Give runs and --out DIR" in run(capsys, "submit", "mib", "x")[2]
    assert "No kind named 'circuit'" in run(capsys, "submit", "mib", "x", "--as", "circuit")[2]
