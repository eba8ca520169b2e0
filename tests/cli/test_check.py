"""``circuitfind check`` and ``pytest --circuits`` as their users meet them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from safetensors.torch import load_file, save_file

from circuitfind.cli.app import call
from circuitfind.models.loading.locate import locate
from circuitfind.progress import Silent
from circuitfind.runs import memory, prepare, prompt_sets
from circuitfind.runs.prompt_sets import draw


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A circuit of tiny by itself, as it would be kept in git."""
    folder = tmp_path_factory.mktemp("known")
    run = folder / "run"
    assert (
        call(
            [
                "run",
                "ioi",
                "--model",
                "tiny",
                "--prompts",
                "4",
                "--threshold",
                "0.05",
                "--out",
                str(run),
                "-q",
            ],
            False,
        )
        == 0
    )
    shutil.copy(run / "circuit.json", folder / "ioi.json")
    return folder / "ioi.json"


def altered(path: Path, to: Path, **blocks: Any) -> Path:
    """A copy of a circuit file with some of its blocks' values replaced."""
    data = json.loads(path.read_text(encoding="utf-8"))
    for block, values in blocks.items():
        data[block] = values(data.get(block, {}))
    to.write_text(json.dumps(data), encoding="utf-8")
    return to


def checked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    capsys.readouterr()
    code = call(["check", *arguments, "--json", "-q"], debug=False)
    return code, json.loads(capsys.readouterr().out)["verdicts"]


def test_a_circuit_that_is_found_again_holds_to_the_last_digit(
    known: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, (verdict,) = checked(
        capsys, str(known), "--tolerance", "jaccard=1,heads=1,kl=0,faithfulness=0,accuracy=0"
    )
    assert (code, verdict["status"]) == (0, "holds")
    assert [finding["name"] for finding in verdict["findings"]] == [
        "accuracy",
        "faithfulness",
        "kl",
        "edges",
        "heads",
    ]


def test_edges_that_are_no_longer_found_are_drift(
    known: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def strongest(edges: dict[str, float]) -> dict[str, float]:
        return dict(sorted(edges.items(), key=lambda item: -abs(item[1]))[: len(edges) // 2])

    half = altered(known, tmp_path / "half.json", edges=strongest)
    code, (verdict,) = checked(capsys, str(half), "--tolerance", "faithfulness=9,kl=9")
    assert (code, verdict["status"]) == (1, "drifted")
    (off,) = [finding for finding in verdict["findings"] if not finding["holds"]]
    assert off["name"] == "edges"
    assert 0.4 < off["now"] < 0.6
    assert verdict["details"][0].endswith("more") or "gained" in verdict["details"][0]
    code, (verdict,) = checked(capsys, str(half), "--tolerance", "faithfulness=9,kl=9,jaccard=0.3")
    assert (code, verdict["status"]) == (0, "holds")


def test_the_file_sets_tolerances_and_the_line_overrides_them(
    known: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def better(metrics: dict[str, Any]) -> dict[str, Any]:
        return {**metrics, "circuit": {**metrics["circuit"], "kl": metrics["circuit"]["kl"] - 0.5}}

    strict = altered(known, tmp_path / "strict.json", metrics=better)
    assert checked(capsys, str(strict), "--evaluate-only")[0] == 1
    lenient = altered(strict, tmp_path / "lenient.json", tolerances=lambda _: {"kl": 0.6})
    assert checked(capsys, str(lenient), "--evaluate-only")[0] == 0
    assert checked(capsys, str(lenient), "--evaluate-only", "--tolerance", "kl=0.1")[0] == 1


def changed_model(folder: Path, noise: float) -> Path:
    """tiny with noise on its weights: a checkpoint that was trained on."""
    shutil.copytree(locate("tiny", Silent()), folder)
    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    moved = {
        k: v + noise * v.std() * torch.randn(v.shape, generator=generator) for k, v in weights.items()
    }
    save_file(moved, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_a_model_that_lost_the_task_is_told_from_one_that_lost_the_circuit(
    known: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = changed_model(tmp_path / "broken", 3.0)
    code, (verdict,) = checked(capsys, str(known), "--model", str(broken))
    assert (code, verdict["status"]) == (1, "drifted")
    assert verdict["reason"].startswith("the task is gone, not the circuit")
    assert not verdict["findings"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not whole JSON"),
        (
            '{"format": "circuitfind.circuit", "version": 2}',
            "version 2; this circuitfind reads version 1. Upgrade it",
        ),
    ],
)
def test_a_circuit_that_can_not_be_read_could_not_run_and_the_others_still_do(
    known: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text(text, encoding="utf-8")
    report = tmp_path / "report.xml"
    code, verdicts = checked(capsys, str(bad), str(known), "--evaluate-only", "--junit", str(report))
    assert code == 2
    assert [verdict["status"] for verdict in verdicts] == ["could not run", "holds"]
    assert said in verdicts[0]["reason"]
    suite = ElementTree.fromstring(report.read_text(encoding="utf-8"))
    assert (suite.get("tests"), suite.get("errors")) == ("2", "1")


@pytest.mark.parametrize(
    "options",
    [
        "--positions --method eap --edges 60",
        "--candidates eap:60 --threshold 0.1",
        "--method ifr --edges 60",
        "--method ensemble --of eap,ifr --edges 60",
    ],
)
def test_what_was_found_in_a_special_way_is_found_again_and_judged_alone(
    options: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = [
        "run",
        "ioi",
        "--model",
        "tiny",
        "--prompts",
        "2",
        "--out",
        str(tmp_path),
        "--format",
        "dot",
        "-q",
    ]
    assert call([*run, *options.split()], debug=False) == 0
    code, (verdict,) = checked(
        capsys, str(tmp_path), "--tolerance", "jaccard=1,heads=1,kl=0,faithfulness=0"
    )
    assert (code, verdict["status"], verdict["diff"]["edges"]["jaccard"]) == (0, "holds", 1.0)
    code, (alone,) = checked(
        capsys, str(tmp_path), "--evaluate-only", "--tolerance", "kl=0,faithfulness=0"
    )
    assert (code, alone["findings"]) == (0, verdict["findings"][:3])


def test_a_circuit_of_neurons_is_found_again_and_drifts_where_it_was_altered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    neurons = [
        "--level",
        "neuron",
        "--method",
        "eap",
        "--neurons",
        "20",
        "--prompts",
        "2",
        "--out",
        str(tmp_path),
    ]
    assert call(["run", "ioi", "--model", "tiny", "--format", "dot", "-q", *neurons], debug=False) == 0
    exact = ("--tolerance", "jaccard=1,heads=1,kl=0,faithfulness=0")
    code, (verdict,) = checked(capsys, str(tmp_path), *exact)
    assert (code, verdict["diff"]["neurons"]["jaccard"]) == (0, 1.0)

    def fewer(kept: dict[str, float]) -> dict[str, float]:
        return dict(list(kept.items())[:12])

    altered(tmp_path / "circuit.json", tmp_path / "circuit.json", neurons=fewer)
    code, (verdict,) = checked(capsys, str(tmp_path), *exact)
    found = {finding["name"]: finding for finding in verdict["findings"]}
    assert (code, found["neurons"]["now"]) == (1, 12 / 20)
    assert not found["kl"]["holds"]
    assert "8 neurons gained" in verdict["details"][0]


def test_an_empty_circuit_and_one_of_another_shape_have_their_verdicts(
    known: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = altered(known, tmp_path / "empty.json", edges=lambda _: {})
    code, (verdict,) = checked(capsys, str(empty), "--evaluate-only")
    assert code == 1
    assert {f["name"] for f in verdict["findings"] if not f["holds"]} == {"faithfulness", "kl"}
    other = altered(
        known,
        tmp_path / "other.json",
        model=lambda model: {**model, "n_layers": 1},
        graph=lambda _: {"n_edges": 3 * 4 * 1 + 5 + 6, "n_nodes": 7},
        edges=lambda _: {"input->m0": 1.0},
    )
    code, (verdict,) = checked(capsys, str(other), "--evaluate-only")
    assert (code, verdict["status"]) == (2, "could not run")
    assert "1 layers of 4 heads" in verdict["reason"]


@pytest.mark.parametrize("is_old", [False, True], ids=["now", "with its interval's level in level"])
def test_a_consensus_circuit_holds_against_the_consensus_found_again(
    is_old: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    options = [
        "--method",
        "eap",
        "--edges",
        "20",
        "--prompts",
        "6",
        "--bootstrap",
        "10",
        "--format",
        "dot",
    ]
    assert call(["run", "ioi", "--model", "tiny", *options, "--out", str(run), "-q"], debug=False) == 0
    path = run / "consensus.json"
    if is_old:
        path = altered(path, tmp_path / "old.json", method=lambda said: {**said, "level": 0.95})
    code, (verdict,) = checked(capsys, str(path), "--tolerance", "jaccard=1,heads=1")
    assert (code, verdict["status"]) == (0, "holds"), verdict
    for command in (
        ["show", str(path)],
        ["export", str(path), "--format", "dot", "--out", str(tmp_path / "c.dot")],
    ):
        assert call(command, debug=False) == 0
    assert (
        call(
            ["evaluate", str(path), "--parts", "held-out", "--out", str(tmp_path / "ev"), "-q"],
            debug=False,
        )
        == 0
    )


def test_more_prompts_than_there_is_memory_for_are_refused_before_all_are_drawn(
    known: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []

    def counted(task: Any, tokenizer: Any, n_prompts: int, *rest: Any) -> Any:
        drawn.append(n_prompts)
        return draw(task, tokenizer, n_prompts, *rest)

    monkeypatch.setattr(memory, "available", lambda device: 450_000_000)
    monkeypatch.setattr(prepare, "draw", counted)
    monkeypatch.setattr(prompt_sets, "draw", counted)
    many = altered(known, tmp_path / "many.json", task=lambda said: {**said, "n_prompts": 100_000})
    code, (verdict,) = checked(capsys, str(many))
    assert (code, verdict["status"]) == (2, "could not run")
    assert "Lower --prompts (now 100000)" in verdict["reason"]
    assert max(drawn) < 20_000


def test_github_gets_annotations_on_stderr(
    known: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    bad = tmp_path / "bad.json"
    bad.write_text("{", encoding="utf-8")
    assert call(["check", str(bad), "-q"], debug=False) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("::error file=")
    assert printed.out.splitlines()[-1] == "1 could not run"


def test_pytest_makes_a_test_of_every_circuit_of_a_folder(known: Path, tmp_path: Path) -> None:
    folder = tmp_path / "circuits"
    folder.mkdir()
    shutil.copy(known, folder / "good.json")
    altered(
        known, folder / "worse.json", metrics=lambda m: {**m, "circuit": {**m["circuit"], "kl": -9.0}}
    )
    (folder / "notes.json").write_text("{}", encoding="utf-8")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--circuits",
            str(folder),
            "--circuits-evaluate-only",
            "-q",
            "-p",
            "no:cacheprovider",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 1 passed" in done.stdout
    assert "NOT kl: -9 stored" in done.stdout
