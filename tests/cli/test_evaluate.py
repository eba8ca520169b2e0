"""``circuitfind evaluate`` as its user meets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from circuitfind.cli.app import call

FEW = ("--knock-outs", "2", "--steps", "1", "--knock-out-candidates", "3", "--random", "4", "--most", "5")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder on tiny."""
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    options = ["--model", "tiny", "--prompts", "4", "--threshold", "0.05", "--out", str(folder), "-q"]
    assert call(["run", "ioi", *options], debug=False) == 0
    return folder


@pytest.fixture(scope="module")
def whole(run: Path) -> Path:
    """Its evaluation in all parts, against itself as reference."""
    arguments = ["evaluate", str(run), "--reference", str(run), "--held-out", "3", *FEW, "-q"]
    assert call(arguments, debug=False) == 0
    return run / "evaluation"


def document(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def test_every_part_is_in_both_reports_and_the_curve_is_drawn(whole: Path) -> None:
    found, page = document(whole), (whole / "report.md").read_text(encoding="utf-8")
    parts = [
        "faithfulness",
        "ablations",
        "held_out",
        "reference",
        "completeness",
        "minimality",
        "random",
        "hypotheses",
        "curve",
    ]
    assert [name for name in found if name in parts] == parts
    for title in (
        "Under every ablation",
        "On other prompts",
        "Completeness",
        "Hypothesis tests",
        "![Faithfulness",
    ):
        assert title in page
    assert (whole / "curve.svg").read_bytes().startswith(b"<?xml")
    assert (whole / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_its_own_prompts_and_ablation_give_the_numbers_of_the_run(run: Path, whole: Path) -> None:
    stored = json.loads((run / "circuit.json").read_text(encoding="utf-8"))["metrics"]
    found = document(whole)
    assert found["ablations"]["corrupted"] == stored
    assert {name: found["faithfulness"][name] for name in stored} == stored
    assert list(found["ablations"]) == ["corrupted", "zero", "mean", "mean-positional", "optimal"]


def test_a_circuit_is_its_own_best_reference(whole: Path) -> None:
    shared = document(whole)["reference"]
    assert shared["edges"]["jaccard"] == shared["nodes"]["jaccard"] == 1.0
    assert shared["edges"]["auc"] == 1.0


def test_other_prompts_are_none_of_its_own_and_as_many_as_asked_for(whole: Path) -> None:
    held_out = document(whole)["held_out"]
    assert list(held_out) == ["the task, another seed", "the task, other templates"]
    assert [each["n_prompts"] for each in held_out.values()] == [3, 3]
    assert len({each["circuit"]["kl"] for each in held_out.values()}) == 2


def test_a_circuit_of_neurons_is_judged_as_its_run_judged_it_and_in_no_way_that_is_for_edges(
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
        "3",
        "--out",
        str(tmp_path),
    ]
    assert call(["run", "ioi", "--model", "tiny", "--format", "dot", "-q", *neurons], debug=False) == 0
    assert call(["evaluate", str(tmp_path), "--held-out", "2", "-q"], debug=False) == 0
    said, stored = (
        document(tmp_path / "evaluation"),
        json.loads((tmp_path / "circuit.json").read_text())["metrics"],
    )
    assert (
        said["faithfulness"]["circuit"] == stored["circuit"] == said["ablations"]["corrupted"]["circuit"]
    )
    assert set(said["ablations"]) == {"corrupted", "zero", "mean", "mean-positional"}
    assert [each["n_prompts"] for each in said["held_out"].values()] == [2, 2]
    assert any("completeness, minimality" in warning for warning in said["warnings"])
    assert "curve" not in said and "20 neurons" in capsys.readouterr().out


def test_only_the_parts_asked_for_are_run_and_the_summary_has_them(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    arguments = [
        "evaluate",
        str(run / "circuit.json"),
        "--parts",
        "ablations",
        "--ablations",
        "zero",
        "--out",
        str(out),
    ]
    assert call([*arguments, "-q"], debug=False) == 0
    printed = capsys.readouterr().out
    assert "Under every ablation" in printed
    assert "Completeness" not in printed
    found = document(out)
    assert list(found["ablations"]) == ["zero"]
    assert "completeness" not in found


@pytest.mark.slow
def test_the_same_evaluation_has_the_same_bytes_but_for_its_timings(
    run: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "again"
    arguments = [
        "evaluate",
        str(run),
        "--reference",
        str(run),
        "--held-out",
        "3",
        *FEW,
        "--batch-size",
        "1",
        "-q",
    ]
    assert call([*arguments, "--out", str(out)], debug=False) == 0
    first, second = document(whole), document(out)
    for found in (first, second):
        del found["timings"], found["files"]["report.md"]
    assert first == second


def test_a_warning_is_told_once(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [
        json.loads(line) for line in (run / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    turned = [
        {**pair, "answers": pair["wrong_answers"], "wrong_answers": pair["answers"]} for pair in pairs
    ]
    prompts = tmp_path / "turned.jsonl"
    prompts.write_text("".join(f"{json.dumps(pair)}\n" for pair in turned), encoding="utf-8")
    options = ["--model", "tiny", "--method", "eap", "--edges", "40", "--format", "dot", "-q", "--out"]
    assert call(["run", str(prompts), *options, str(tmp_path / "run")], debug=False) == 0
    capsys.readouterr()
    arguments = ["evaluate", str(tmp_path / "run"), "--parts", "ablations", "--ablations", "zero", "-q"]
    assert call(arguments, debug=False) == 0
    warnings = document(tmp_path / "run" / "evaluation")["warnings"]
    assert len(warnings) == len(set(warnings)) and any(
        "fails this task" in warning for warning in warnings
    )
    assert capsys.readouterr().err.count("fails this task") == 1


def test_nothing_is_overwritten_without_force(
    run: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["evaluate", str(run), "--parts", "quick", "-q"], debug=False) == 2
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--parts", "completness"), "No part named 'completness'. Did you mean 'completeness'?"),
        (("--metric", "logit-dif"), "No metric named 'logit-dif'. Did you mean 'logit-diff'?"),
        (("--ablations", "corupted"), "No ablation named 'corupted'. Did you mean 'corrupted'?"),
        (("--random", "0"), "--random is 0; it must be 1 or more."),
        (("--reference", "nowhere.json"), "Cannot read the circuit nowhere.json"),
        (("--also", "nowhere.jsonl"), "There is no file nowhere.jsonl"),
    ],
)
def test_a_bad_option_is_one_message(
    run: Path, tmp_path: Path, options: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["evaluate", str(run), "--out", str(tmp_path / "new"), *options], debug=False) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_model_of_another_shape_and_a_circuit_of_an_unknown_task_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = json.loads((run / "circuit.json").read_text(encoding="utf-8"))
    alone = tmp_path / "alone.json"
    alone.write_text(
        json.dumps({**stored, "task": {**stored["task"], "name": "elsewhere"}}), encoding="utf-8"
    )
    assert call(["evaluate", str(alone)], debug=False) == 2
    said = capsys.readouterr().err
    assert "is of the task 'elsewhere', which is none of circuitfind's own" in said
    assert said.endswith("If you want it, name it: --task elsewhere\n")


@pytest.mark.slow
def test_a_part_is_written_when_it_is_done_and_resume_makes_the_others_to_the_same_bytes(
    run: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    arguments = [
        "evaluate",
        str(run),
        "--reference",
        str(run),
        "--held-out",
        "3",
        *FEW,
        "--out",
        str(out),
        "-q",
    ]
    few = ["--parts", "ablations,minimality,curve"]
    assert call([*arguments, *few], debug=False) == 0
    assert {"ablations", "minimality", "curve"} < set(document(out)) and "completeness" not in document(
        out
    )
    assert call([*arguments, "--resume"], debug=False) == 0
    for name in ("curve.svg", "curve.png"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    first, second = document(whole), document(out)
    assert list(first) == list(second) and list(first["timings"]) == list(second["timings"])
    for found in (first, second):
        del found["timings"], found["files"]["report.md"]
    assert first == second
    pages = [
        (folder / "report.md").read_text(encoding="utf-8").split("## What it took")[0]
        for folder in (whole, out)
    ]
    assert pages[0] == pages[1]
    capsys.readouterr()
    assert call([*arguments, "--resume", "--most", "4"], debug=False) == 2
    assert "is of another --most: 5, not 4." in capsys.readouterr().err


def cut_off(*arguments: object) -> None:
    """In place of work, a Ctrl-C."""
    raise KeyboardInterrupt


def test_what_was_done_when_it_was_cut_off_is_kept_and_told(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from circuitfind.review import evaluate

    out, arguments = (
        tmp_path / "report",
        ["evaluate", str(run), "--parts", "ablations,random", "--random", "2", "-q"],
    )
    arguments += ["--ablations", "zero", "--out", str(out)]
    monkeypatch.setattr(evaluate, "by_trials", cut_off)
    assert call(arguments, debug=False) == 130
    left = document(out)
    assert left["missing"] == ["random"] and list(left["ablations"]) == ["zero"]
    assert "Not done yet" in (out / "report.md").read_text(encoding="utf-8")
    monkeypatch.undo()
    assert call([*arguments, "--resume"], debug=False) == 0
    assert document(out)["missing"] == [] and document(out)["random"]["n"] == 2
    assert document(out)["ablations"] == left["ablations"]


def test_a_complete_report_stays_whole_until_the_one_that_replaces_it_is(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from circuitfind.review import evaluate

    out = tmp_path / "report"
    arguments = [
        "evaluate",
        str(run),
        "--parts",
        "ablations,random",
        "--ablations",
        "zero",
        "--out",
        str(out),
    ]
    assert call([*arguments, "--random", "2", "-q"], debug=False) == 0
    before = {file.name: file.read_bytes() for file in out.iterdir() if file.is_file()}
    monkeypatch.setattr(evaluate, "by_trials", cut_off)
    assert call([*arguments, "--random", "3", "-q", "--force"], debug=False) == 130
    assert {file.name: file.read_bytes() for file in out.iterdir() if file.is_file()} == before
    monkeypatch.undo()
    learned: list[str] = []
    monkeypatch.setattr(evaluate, "on_its_prompts", lambda *_: learned.append("again"))
    assert call([*arguments, "--random", "3", "-q", "--resume"], debug=False) == 0
    assert learned == [] and document(out)["random"]["n"] == 3 and document(out)["missing"] == []
    assert {path.name for path in out.iterdir()} == before.keys()


def test_resume_begins_anew_where_there_is_nothing_and_again_does_nothing_at_all(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from circuitfind.review import evaluate

    out = tmp_path / "report"
    arguments = [
        "evaluate",
        str(run),
        "--parts",
        "reference",
        "--reference",
        str(run),
        "--out",
        str(out),
        "--resume",
    ]
    assert call(arguments, debug=False) == 0
    first = (out / "report.json").read_bytes()
    assert "holds no evaluation yet: it begins anew" in capsys.readouterr().err
    monkeypatch.setattr(evaluate, "make_ready", None)  # nothing is loaded
    assert call(arguments, debug=False) == 0
    assert (out / "report.json").read_bytes() == first
    assert "Against the reference" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[:-40], "is not whole JSON"),
        (
            lambda text: text.replace('"parts": [', '"parts": 3, "other": ['),
            'its "parts" is 3; it must be a list',
        ),
        (
            lambda text: text.replace('"faithfulness": {', '"other": {', 1),
            "lacks the values of its section",
        ),
    ],
)
def test_a_damaged_report_is_not_gone_on_with(
    run: Path, tmp_path: Path, damage: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    arguments = [
        "evaluate",
        str(run),
        "--parts",
        "reference",
        "--reference",
        str(run),
        "--out",
        str(out),
        "-q",
    ]
    assert call(arguments, debug=False) == 0
    report = out / "report.json"
    report.write_text(damage(report.read_text(encoding="utf-8")), encoding="utf-8")
    assert call([*arguments, "--resume"], debug=False) == 2
    assert said in capsys.readouterr().err
