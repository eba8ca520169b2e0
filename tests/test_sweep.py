"""A sweep on tiny: each of its runs is what that run alone would be, and what they share is made once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from circuitfind.cli.app import call
from circuitfind.errors import ModelError, OutputError, UsageError
from circuitfind.pipeline import RunOptions, run
from circuitfind.progress import Silent
from circuitfind.runs import evaluate as evaluating
from circuitfind.runs import prepare, search
from circuitfind.runs.sweep_plan import folder_name, make_sweep_plan, parse_sizes
from circuitfind.sweep import SweepResult, cells_of, sweep

REPEATABLE = ("circuit.json", "circuit.dot", "prompts.jsonl", "scores.safetensors")
THRESHOLDS = (0.1, 0.5, 0.05, 20.0)  # in no order; the last removes all


def options(out: Path | None, **chosen: Any) -> RunOptions:
    usual: dict[str, Any] = {"task": "ioi", "model": "tiny", "n_prompts": 4, "formats": ()}
    return RunOptions(**usual | chosen, out=out)


def do_sweep(out: Path, thresholds: tuple[float, ...] = THRESHOLDS, **chosen: Any) -> SweepResult:
    return sweep(options(out, **chosen), thresholds)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    """The sweep that others are compared with."""
    return do_sweep(tmp_path_factory.mktemp("sweeps") / "first", formats=("svg", "dot"))


@pytest.fixture
def again(result: SweepResult, tmp_path: Path) -> Path:
    """A copy of that sweep's folder, to be changed at will."""
    return Path(shutil.copytree(result.folder, tmp_path / "again"))


def record(folder: Path, threshold: float) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / folder_name(threshold) / "run.json").read_text())
    return read


# each run is that run alone


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_each_run_is_to_the_byte_that_run_alone(
    threshold: float, result: SweepResult, tmp_path: Path
) -> None:
    alone = run(options(tmp_path / "alone", threshold=threshold))
    place = result.folder / folder_name(threshold)
    assert {name: (place / name).read_bytes() for name in REPEATABLE} == {
        name: (alone.folder / name).read_bytes() for name in REPEATABLE
    }
    assert (place / "report.md").is_file() and (place / "circuit.svg").is_file()
    search = json.loads((alone.folder / "run.json").read_text())["search"]
    assert record(result.folder, threshold)["search"]["tested"] == search["tested"]


def test_a_run_can_be_repeated_from_its_record(result: SweepResult) -> None:
    command = record(result.folder, 0.1)["command"]
    assert (command["threshold"], command["out"]) == (0.1, str(result.folder / "threshold-0.1"))


# what is shared


PLACES = {"evaluate": evaluating, "search": search} | dict.fromkeys(
    ("load_model", "make_prompts", "task_performance"), prepare
)


def count(monkeypatch: pytest.MonkeyPatch, *names: str) -> dict[str, list[tuple[Any, ...]]]:
    """The calls of these functions from now on."""
    calls: dict[str, list[tuple[Any, ...]]] = {name: [] for name in names}

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: calls[name].append(arguments) or function(*arguments)

    for name in names:
        monkeypatch.setattr(PLACES[name], name, watched(name, getattr(PLACES[name], name)))
    return calls


def test_what_depends_on_no_threshold_is_made_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = count(monkeypatch, "load_model", "make_prompts", "task_performance", "evaluate", "search")
    do_sweep(tmp_path / "sweep")
    made = {name: len(each) for name, each in calls.items()}
    assert made == {"load_model": 1, "make_prompts": 1, "task_performance": 1, "evaluate": 4, "search": 4}
    known = 5  # the argument that hands on what the evaluation before it found
    assert [arguments[known] is None for arguments in calls["evaluate"]] == [True, False, False, False]


def test_all_but_the_first_search_take_over_what_was_decided_alike_and_change_no_byte(
    tmp_path: Path,
) -> None:
    rows = do_sweep(tmp_path / "sweep", (0.1, 0.5, 2.0), dtype="float64").table["circuits"]
    taken = [row["search"]["taken_over"] for row in rows]
    assert taken[0] == 0 and all(
        0 < number < row["search"]["tested"] for number, row in list(zip(taken, rows, strict=True))[1:]
    )
    alone = run(options(tmp_path / "alone", threshold=0.1, dtype="float64"))
    place = tmp_path / "sweep" / folder_name(0.1)
    assert all((place / name).read_bytes() == (alone.folder / name).read_bytes() for name in REPEATABLE)


# the sweep's own files


def test_a_sweep_leaves_its_runs_its_table_and_its_picture(result: SweepResult) -> None:
    names = {path.name for path in result.folder.iterdir()}
    assert names == {"sweep.json", "sweep.md", "sweep.svg", *map(folder_name, THRESHOLDS)}


def test_the_table_is_the_file_and_goes_from_the_largest_threshold_to_the_smallest(
    result: SweepResult,
) -> None:
    table = json.loads((result.folder / "sweep.json").read_text())
    assert table == result.table and (table["format"], table["version"]) == ("circuitfind.sweep", 1)
    assert [row["threshold"] for row in table["circuits"]] == [20.0, 0.5, 0.1, 0.05]
    assert "threshold" not in table["method"] and {"full", "ablated"} == table["metrics"].keys()
    assert table["circuits"][0]["n_edges"] == 0
    assert table["circuits"][0]["metrics"]["kl"] == pytest.approx(table["metrics"]["ablated"]["kl"])


def test_the_page_has_a_row_for_each_threshold_that_leads_to_its_report(result: SweepResult) -> None:
    page = (result.folder / "sweep.md").read_text()
    assert "![Edges against KL](sweep.svg)" in page
    for row, cells in zip(result.table["circuits"], cells_of(result.table), strict=True):
        assert f"| [{cells[0]}]({row['folder']}/report.md) | {cells[1]} |" in page


# what goes wrong


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "--threshold is ''; give a number"),
        ("a", "--threshold is 'a'; give a number"),
        ("0.1,,0.05", "--threshold is '0.1,,0.05'; give a number"),
        ("0.1,", "--threshold is '0.1,'; give a number"),
        (
            "0.1,x",
            "--threshold has 'x' in it; give a number, or several as in --threshold 0.1,0.05,0.02.",
        ),
        ("0.1,0.05,0.10", "--threshold has 0.1 in it twice"),
        ("0,-0", "--threshold has 0 in it twice"),
    ],
)
def test_a_list_of_thresholds_that_means_nothing(text: str, says: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_sizes(text, "threshold")
    assert says in str(refused.value)


def test_thresholds_may_be_many_and_written_in_any_way() -> None:
    assert (
        parse_sizes(" 0.1, 5e-2,1", "threshold") == (0.1, 0.05, 1.0)
        and parse_sizes(None, "threshold") == ()
    )
    hundred = [number / 1000 for number in range(100)]
    assert parse_sizes(",".join(map(str, hundred)), "threshold") == tuple(hundred)


def test_no_two_thresholds_share_a_folder() -> None:
    thresholds = (0.05, 1e-5, 1.0, 20.0, 0.0, 0.123456789, 0.123457)
    assert [folder_name(threshold) for threshold in thresholds] == [
        "threshold-0.05", "threshold-1e-05", "threshold-1", "threshold-20", "threshold-0", "threshold-0.123456789",
        "threshold-0.123457",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "ioi", "--threshold", "0.1,nan"], "--threshold is nan; it must be a finite number"),
        (["run", "ioi", "--threshold", "0.1,-0.2"], "--threshold is -0.2; it must be a finite number"),
        (["run", "ioi", "--threshold", "0.1,0.2", "--edges", "3"], "--threshold and --edges each set"),
        (
            ["run", "ioi", "--threshold", "0.1,0.0001", "--dtype", "bfloat16"],
            "bfloat16 logits do not resolve",
        ),
        (
            ["sweep", "ioi"],
            "A sweep needs two thresholds or more. Give several, as in --threshold 0.1,0.05,0.02.",
        ),
        (["sweep", "ioi", "--threshold", "0.1"], "A sweep needs two thresholds or more."),
        (["sweep", "ioi", "--threshold", "0.1,0.2", "--resume"], "A sweep is resumed in its folder"),
    ],
)
def test_a_sweep_that_can_not_be_is_refused_before_anything_is_made(
    arguments: list[str],
    says: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call([*arguments, "--model", "tiny"], debug=False) == 2
    written = capsys.readouterr()
    assert says in written.err and written.out == "" and list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone_unless_forced(again: Path) -> None:
    with pytest.raises(OutputError, match="is not empty"):
        do_sweep(again)
    (again / "notes.txt").write_text("mine")
    do_sweep(again, (0.5, 0.1), force=True)
    assert not (again / "sweep.svg").exists() and (again / "notes.txt").read_text() == "mine"
    assert len(json.loads((again / "sweep.json").read_text())["circuits"]) == 2


def test_nothing_is_left_behind_by_a_sweep_that_finds_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(*_: object) -> None:
        raise ModelError("no")

    monkeypatch.setattr(search, "search", fails)
    with pytest.raises(ModelError):
        do_sweep(tmp_path / "sweep")
    assert list(tmp_path.iterdir()) == []


# going on with a sweep


def test_a_sweep_goes_on_with_the_runs_that_are_missing(
    result: SweepResult, again: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(again / folder_name(0.1))
    calls = count(monkeypatch, "search")
    resumed = do_sweep(again, resume=True)
    assert [arguments[1].threshold for arguments in calls["search"]] == [0.1]
    rows = zip(resumed.table["circuits"], result.table["circuits"], strict=True)
    assert all(mine["metrics"] == other["metrics"] for mine, other in rows)


def test_a_sweep_with_nothing_left_to_do_loads_no_model(
    again: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count(monkeypatch, "load_model")
    for file in again.glob("sweep.*"):
        file.unlink()
    do_sweep(again, resume=True)
    assert calls["load_model"] == [] and (again / "sweep.json").is_file()


def test_a_resumed_sweep_may_have_further_thresholds(
    again: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count(monkeypatch, "search")
    do_sweep(again, (*THRESHOLDS, 0.3), resume=True)
    assert [arguments[1].threshold for arguments in calls["search"]] == [0.3]


@pytest.mark.parametrize(("other", "says"), [({"seed": 1}, "seed 0"), ({"metric": "loss"}, "metric kl")])
def test_a_sweep_of_something_else_is_not_gone_on_with(
    other: dict[str, Any], says: str, again: Path
) -> None:
    with pytest.raises(OutputError, match=says):
        make_sweep_plan(options(again, resume=True, **other), THRESHOLDS, Silent())


def test_a_finished_run_of_other_prompts_is_told_when_they_are_known(again: Path) -> None:
    shutil.rmtree(again / folder_name(0.1))
    with pytest.raises(OutputError, match=r"prompts 4 \(now 3\)"):
        do_sweep(again, resume=True, n_prompts=3)


# what it prints


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_the_table_is_printed(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        command,
        "ioi",
        "--model",
        "tiny",
        "--prompts",
        "2",
        "--threshold",
        "5,1",
        "--out",
        str(tmp_path / "out"),
    ]
    assert call([*words, "--quiet"], debug=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ioi in tiny, acdc: 2 thresholds" and lines[1].split()[:4] == [
        "threshold",
        "edges",
        "nodes",
        "KL",
    ]
    assert [line.split()[0] for line in lines[2:4]] == ["5", "1"]
    assert lines[-2:] == [
        f"picture: {tmp_path / 'out/sweep.svg'}",
        f"table:   {tmp_path / 'out/sweep.md'}",
    ]


def test_json_is_one_document_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "sweep",
        "ioi",
        "--model",
        "tiny",
        "--prompts",
        "2",
        "--threshold",
        "5,4",
        "--format",
        "dot",
        "--json",
    ]
    assert call([*words, "--out", str(tmp_path / "out")], debug=False) == 0
    document = json.loads(capsys.readouterr().out)
    assert document.pop("folder") == str(tmp_path / "out")
    assert document == json.loads((tmp_path / "out/sweep.json").read_text())
