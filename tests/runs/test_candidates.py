"""Runs on tiny that test a shortlist alone: what they leave behind, resumed runs, sweeps, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from circuitfind.cli.app import call
from circuitfind.errors import OutputError, UsageError
from circuitfind.methods.attribution.eap import EAPIG
from circuitfind.methods.exact import OneByOne
from circuitfind.methods.options import settle_method
from circuitfind.methods.search.acdc import ACDC
from circuitfind.models.sizes import Shape, Stored
from circuitfind.pipeline import RunOptions, RunResult, run
from circuitfind.runs import checkpoint
from circuitfind.runs.checkpoint import Keeper, read_state
from circuitfind.runs.folder import STATE_FILE
from circuitfind.runs.memory import Workload, needed
from circuitfind.sweep import sweep

REPEATABLE = ("circuit.json", "circuit.dot", "prompts.jsonl", "scores.safetensors")


def options(out: Path | None, **chosen: Any) -> RunOptions:
    usual: dict[str, Any] = {
        "task": "ioi",
        "model": "tiny",
        "n_prompts": 4,
        "threshold": 0.05,
        "formats": (),
    }
    return RunOptions(**usual | {"candidates": "eap-ig:100"} | chosen, out=out)


def find(out: Path | None, **chosen: Any) -> RunResult:
    return run(options(out, **chosen))


def read(folder: Path, name: str = "run.json") -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / name).read_text())
    return document


def repeatable(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in REPEATABLE}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """The run that others are compared with."""
    return find(tmp_path_factory.mktemp("runs") / "first")


# what a run leaves behind


def test_the_record_says_which_edges_were_tested_and_what_they_do_by_themselves(
    result: RunResult,
) -> None:
    block, said = result.circuit.method["candidates"], read(result.folder)["candidates"]
    assert block == {"asked": 100, "method": EAPIG("kl").to_dict(), "kept": said["kept"]}
    assert read(result.folder)["method"]["candidates"] == {"asked": 100, "method": EAPIG("kl").to_dict()}
    assert said.keys() == {
        "asked",
        "kept",
        "metrics",
        "faithfulness",
        "faithfulness_interval",
        "faithfulness_by_metric",
    }
    assert said["asked"] == 100 and 40 < said["kept"] <= 100
    assert read(result.folder)["search"]["tested"] <= said["kept"]
    assert 0 < said["metrics"]["kl"] < result.evaluation.ablated.mean("kl")
    assert "candidates" in read(result.folder)["timings"]


def test_the_shortlist_is_what_a_circuit_of_that_size_would_be(result: RunResult, tmp_path: Path) -> None:
    scored = find(tmp_path / "scored", method="eap-ig", edges=100, threshold=None, candidates=None)
    said = read(result.folder)["candidates"]
    assert said["kept"] == len(scored.circuit.edges)
    assert said["metrics"] == scored.circuit.metrics["circuit"]
    assert set(result.circuit.edges) < set(scored.circuit.edges)
    scores = load_file(result.folder / "scores.safetensors")["scores"]
    outside = [edge for edge in scored.circuit.graph.edges() if edge not in scored.circuit.edges]
    assert not any(scores[scored.circuit.graph.order(edge)] for edge in outside)


def test_the_report_has_a_line_of_it(result: RunResult) -> None:
    page, kept = (result.folder / "report.md").read_text(), read(result.folder)["candidates"]["kept"]
    assert f"| candidates | {kept} after pruning, of 100 by eap-ig; alone KL 0." in page
    assert "candidates eap-ig:100, order published" in page


def test_a_shortlist_that_loses_much_is_warned_of(result: RunResult, tmp_path: Path) -> None:
    assert not any("before any test" in warning for warning in result.warnings)
    poor = find(tmp_path / "poor", candidates="eap-ig:30")
    (warning,) = [warning for warning in poor.warnings if "before any test" in warning]
    assert "have a faithfulness (kl) of " in warning and "Ask for more candidates" in warning


def test_candidates_that_lead_nowhere_leave_an_empty_circuit_that_says_why(tmp_path: Path) -> None:
    nothing = find(tmp_path / "nothing", candidates="eap-ig:1")
    assert not nothing.circuit.edges and read(nothing.folder)["search"]["tested"] == 0
    assert any(
        warning.startswith("none of the candidates lies on a path") for warning in nothing.warnings
    )
    assert "none of those chosen lies on a path" in (nothing.folder / "report.md").read_text()


def test_neither_batch_size_nor_memory_changes_a_byte(result: RunResult, tmp_path: Path) -> None:
    assert repeatable(find(tmp_path / "again", batch_size=1, memory=10**9).folder) == repeatable(
        result.folder
    )


@pytest.mark.parametrize("schedule", ["screened", "grouped"])
def test_other_schedules_test_the_same_shortlist(
    schedule: str, result: RunResult, tmp_path: Path
) -> None:
    other = find(tmp_path / "other", schedule=schedule)
    assert read(other.folder)["candidates"] == read(result.folder)["candidates"]
    assert len(other.circuit.edges) > 0


# a run that was cut off


class Killed(BaseException):
    """Nothing of the program runs afterwards, as far as a test can have it."""


def cut_off(out: Path, after: int, **chosen: Any) -> bool:
    """Whether the run was cut off when it had saved so many times; else it has ended."""
    return cut_off_at(after, lambda: find(out, **chosen))


def cut_off_at(after: int, work: Callable[[], object]) -> bool:
    """Whether the work was cut off when it had saved so many times; else it has ended."""
    n_saves = 0

    def save(keeper: Keeper, found: Any) -> None:
        nonlocal n_saves
        original(keeper, found)
        n_saves += 1
        if n_saves > after:
            raise Killed

    original = Keeper.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Keeper, "save", save)
        patch.setattr(checkpoint, "SAVE_SECONDS", 0.0)
        patch.setattr(checkpoint, "PATIENCE", 0.0)
        try:
            work()
        except Killed:
            return True
        return False


def test_a_run_cut_off_again_and_again_ends_with_the_same_bytes(
    result: RunResult, tmp_path: Path
) -> None:
    out, sittings = tmp_path / "run", 0
    while cut_off(out, 7, resume=sittings > 0, batch_size=(None, 1)[sittings % 2]):
        sittings += 1
    assert sittings > 2 and repeatable(out) == repeatable(result.folder)


def test_candidates_that_take_long_are_cut_off_and_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: dict[str, Any] = {"candidates": "exact:60", "n_prompts": 3, "threshold": 0.2}
    whole, out, tested = find(tmp_path / "whole", **chosen), tmp_path / "run", []
    original = OneByOne.rises
    with monkeypatch.context() as patch:
        patch.setattr(
            OneByOne, "rises", lambda self, *which: tested.append(which) or original(self, *which)
        )
        assert cut_off(out, 9, **chosen)  # while they are being chosen
        assert list(read_state(out).so_far().tensors) == ["candidates/scores"]
        n_left = len(whole.circuit.graph.receivers) - len(tested)
        assert n_left > 0 and cut_off(out, n_left + 3, **chosen, resume=True)  # when some are decided
        assert set(read_state(out).so_far().tensors) == {"candidates/edges", "kept", "scores", "decided"}
        find(out, **chosen, resume=True)
    assert repeatable(out) == repeatable(whole.folder)
    assert len(tested) == len(whole.circuit.graph.receivers)  # each once, in all three sittings
    assert read(out)["timings"]["candidates"] > 0 and read(out)["sittings"] == 3


def test_a_resumed_run_says_how_far_the_choice_of_candidates_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", "ioi", "--model", "tiny", "--prompts", "3", "--threshold", "0.2", "--format", "dot"]
    command += ["--candidates", "exact:60", "--out", str(tmp_path / "run")]
    assert cut_off_at(5, lambda: call(command, debug=False))
    assert cut_off_at(1000, lambda: call([*command, "--resume"], debug=False)) is False
    said = capsys.readouterr().err
    assert f"going on with {tmp_path / 'run'}: " in said and " of 262 edges, after 0 s\n" in said


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("eap-ig:99", r"candidates eap-ig:100 \(now eap-ig:99\)"),
        ("ifr:100", r"candidates eap-ig:100 \(now ifr:100\)"),
        (None, r"candidates eap-ig:100 \(now none\)"),
    ],
)
def test_a_run_of_other_candidates_is_not_gone_on_with(
    asked: str | None, says: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert cut_off(out, 2) and (out / STATE_FILE).exists()
    with pytest.raises(OutputError, match=says):
        find(out, candidates=asked, resume=True)


def test_a_finished_run_of_other_candidates_is_told_from_one_that_is_asked_for(result: RunResult) -> None:
    with pytest.raises(UsageError, match="is finished"):
        find(result.folder, candidates=" eap-ig : 100", resume=True)
    with pytest.raises(OutputError, match=r"candidates eap-ig:100 \(now none\)"):
        find(result.folder, candidates=None, resume=True)


# a sweep


def test_the_runs_of_a_sweep_share_their_candidates_and_are_to_the_byte_those_runs_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    alone = find(tmp_path / "alone", threshold=0.1, dtype="float64")
    scored: list[object] = []
    original = EAPIG.score
    monkeypatch.setattr(
        EAPIG, "score", lambda *arguments: scored.append(arguments) or original(*arguments)
    )
    swept = sweep(options(tmp_path / "sweep", threshold=None, dtype="float64"), (0.5, 0.1, 2.0))
    assert len(scored) == 1
    assert repeatable(swept.folder / "threshold-0.1") == repeatable(alone.folder)
    records = [read(swept.folder / f"threshold-{threshold}") for threshold in ("2", "0.5", "0.1")]
    assert all(record["candidates"] == read(alone.folder)["candidates"] for record in records)
    assert [record["search"]["taken_over"] > 0 for record in records] == [False, True, True]
    assert "candidates eap-ig:100" in (swept.folder / "sweep.md").read_text()


def test_a_sweep_that_ends_as_a_run_begins_chooses_no_candidates_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    alone, begun = find(tmp_path / "alone", threshold=0.1), 0
    original = ACDC.find

    def begin(*arguments: Any) -> Any:
        nonlocal begun
        begun += 1
        if begun == 2:
            raise Killed
        return original(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(ACDC, "find", begin)
        sweep(options(tmp_path / "sweep", threshold=None), (0.5, 0.1))
    monkeypatch.setattr(EAPIG, "score", lambda *_: pytest.fail("scored again"))
    swept = sweep(options(tmp_path / "sweep", threshold=None, resume=True), (0.5, 0.1))
    assert repeatable(swept.folder / "threshold-0.1") == repeatable(alone.folder)


def test_a_sweep_of_other_candidates_is_not_gone_on_with(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    sweep(options(folder, threshold=None), (0.5, 0.3))
    with pytest.raises(OutputError, match=r"candidates eap-ig:100 \(now eap-ig:50\)"):
        sweep(options(folder, threshold=None, candidates="eap-ig:50", resume=True), (0.5, 0.3))
    again = sweep(options(folder, threshold=None, resume=True), (0.5, 0.3, 0.05))
    assert [row["threshold"] for row in again.table["circuits"]] == [0.5, 0.3, 0.05]


# what is refused


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"candidates": "eap-ig"}, "--candidates is 'eap-ig'; it must be METHOD:N, e.g. eap-ig:5000."),
        ({"candidates": "eap-ig:many"}, "it must be METHOD:N"),
        ({"candidates": ":10"}, "it must be METHOD:N"),
        ({"candidates": "eap-ig:1.5"}, "it must be METHOD:N"),
        (
            {"candidates": "eap-ig:0"},
            "--candidates is 'eap-ig:0', which asks for 0 edges; ask for 1 or more.",
        ),
        ({"candidates": "eap-ig:-3"}, "asks for -3 edges"),
        ({"candidates": "eap-gi:10"}, "No method named 'eap-gi'. Did you mean 'eap-ig'?"),
        ({"candidates": "acdc:10"}, "acdc can't be part of another method. Methods that can: eap, "),
        ({"candidates": "edge-pruning:10"}, "edge-pruning can't be part of another method"),
        ({"candidates": "ensemble:10"}, "ensemble can't be part of another method"),
        (
            {"method": "eap-ig", "edges": 5, "candidates": "eap:10"},
            "eap-ig has no --candidates; it is for acdc.",
        ),
        ({"steps": 3, "candidates": "eap-ig:10"}, "acdc has no --steps"),
    ],
)
def test_candidates_that_mean_nothing_are_refused(chosen: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as refused:
        settle_method(RunOptions("ioi", **chosen), "kl")
    assert says in str(refused.value)


def test_more_candidates_than_there_are_edges_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"--candidates eap-ig:263 asks for 263 edges; the model's graph has 262\."
    ):
        find(tmp_path / "run", candidates="eap-ig:263")
    assert not (tmp_path / "run").exists()


def test_a_method_that_can_not_have_the_runs_metric_takes_another_and_says_so(tmp_path: Path) -> None:
    asked = RunOptions("ioi", candidates="eap:50", metric="kl")
    settled, said = settle_method(asked, "kl")
    assert settled.metric == "kl" and said == (
        "the candidates are those of logit-diff: kl has no gradient where eap takes it.",
    )
    assert settle_method(replace(asked, metric="loss"), "kl")[1] == ()
    found = find(tmp_path / "run", candidates="eap:50")
    assert (
        found.circuit.method["metric"] == "kl"
        and found.circuit.method["candidates"]["method"]["metric"] == "logit-diff"
    )


# memory


def test_a_run_with_candidates_needs_what_the_larger_of_scoring_and_searching_takes() -> None:
    shape, stored = Shape(12, 12, 768, 3072, 50_257), Stored(500_000_000, 125_000_000)
    work = Workload(shape, stored, 4, n_prompts=32, n_pos=20, batch_size=8, n_threads=2)
    for n_prompts in (4, 512):
        plain = replace(work, n_prompts=n_prompts)
        both = needed(replace(plain, has_candidates=True))
        assert both >= max(needed(plain), needed(replace(plain, of_scores=True)))
    # a block that is opened holds 6 streams for each head besides: 8 prompts x 20 x 768 numbers on each of 2 threads
    tests_are_nothing = replace(work, bytes_in_flight=1, shape=replace(shape, d_mlp=1, d_vocab=10**6))
    more = needed(replace(tests_are_nothing, has_candidates=True)) - needed(tests_are_nothing)
    assert more == 2 * 6 * 12 * 8 * 20 * 768 * 4
