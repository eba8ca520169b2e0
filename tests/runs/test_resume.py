"""A run that is cut off, whenever and however often, ends with the bytes of one that was not."""

from __future__ import annotations

import json
import os
import platform
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from circuitfind.cli.app import call
from circuitfind.errors import BusyError, CircuitfindError, OutputError, UsageError
from circuitfind.methods.saved_state import SoFar
from circuitfind.pipeline import RunOptions, carry_out, make_plan, run
from circuitfind.progress import Silent
from circuitfind.runs import checkpoint
from circuitfind.runs.checkpoint import Keeper, read_state
from circuitfind.runs.folder import STATE_FILE
from circuitfind.runs.resume import resume_command

REPEATABLE = ("circuit.json", "circuit.dot", "prompts.jsonl", "scores.safetensors")
COMMAND = ("ioi", "--model", "tiny", "--prompts", "5", "--threshold", "0.05", "--format", "dot")


class Killed(BaseException):
    """Nothing of the program runs afterwards, as far as a test can have it."""


def find(out: Path | None, **options: Any) -> Path:
    chosen = {"task": "ioi", "model": "tiny", "n_prompts": 5, "threshold": 0.05, "formats": ()}
    return run(RunOptions(**chosen | options, out=out)).folder


def repeatable(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in REPEATABLE}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run that no one cut off."""
    return find(tmp_path_factory.mktemp("runs") / "whole")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test works in an empty folder of its own, and every save goes to disk."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "SAVE_SECONDS", 0.0)


def cut_off(out: Path | None, after: int, **options: Any) -> bool:
    """Whether the run was cut off when it had come further so many times; else it has ended."""
    counts: set[str] = set()

    def save(keeper: Keeper, so_far: SoFar) -> None:
        original(keeper, so_far)
        counts.add(so_far.told)
        if len(counts) > after:
            raise Killed

    original = Keeper.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Keeper, "save", save)
        try:
            find(out, **options)
        except Killed:
            return True
        return False


# the same bytes


@pytest.mark.parametrize("seed", range(3))
def test_a_run_cut_off_again_and_again_ends_with_the_same_bytes(seed: int, whole: Path) -> None:
    rng, out, sittings = random.Random(seed), Path("run"), 0
    while cut_off(out, rng.randrange(1, 25), resume=sittings > 0, batch_size=rng.choice([None, 1, 4])):
        sittings += 1
        assert (out / STATE_FILE).exists() and not (out / "run.json").exists()
    assert sittings > 0 and repeatable(out) == repeatable(whole)
    assert not (out / STATE_FILE).exists()
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}


@pytest.mark.parametrize("step", ["evaluate", "write_run", "a file"])
def test_a_run_cut_off_after_its_search_tests_nothing_again(
    step: str, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from circuitfind.runs import evaluate, files, folder

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if step == "a file":
            original = folder.write
            patch.setattr(
                folder,
                "write",
                lambda f, name, x: kill() if name == "report.md" else original(f, name, x),
            )
        else:
            patch.setattr(files if step == "write_run" else evaluate, step, kill)
        with pytest.raises(Killed):
            find(Path("run"))
    n_tests = read_state(Path("run")).numbers["n_tests"]
    monkeypatch.setattr("circuitfind.methods.search.chain.Search.begin", kill)
    find(Path("run"), resume=True)
    assert repeatable(Path("run")) == repeatable(whole)
    assert json.loads(Path("run/run.json").read_text())["search"]["tested"] == n_tests > 0


def test_the_record_counts_the_time_of_every_sitting(whole: Path) -> None:
    cut_off(Path("run"), 10)
    before = read_state(Path("run")).spent
    cut_off(Path("run"), 10, resume=True)
    find(Path("run"), resume=True)
    record, once = (json.loads((folder / "run.json").read_text()) for folder in (Path("run"), whole))
    assert record["sittings"] == 3 and once["sittings"] == 1
    assert record["timings"].keys() == once["timings"].keys()
    assert all(record["timings"][part] > seconds for part, seconds in before.seconds.items())
    assert record["search"] == once["search"] or record["search"]["tested"] == once["search"]["tested"]


def test_a_forced_run_that_is_cut_off_leaves_the_older_one_and_takes_its_place_at_the_end(
    whole: Path,
) -> None:
    find(Path("run"), threshold=1.0)
    older = repeatable(Path("run"))
    assert cut_off(Path("run"), 10, force=True)
    assert repeatable(Path("run")) == older
    find(Path("run"), resume=True)
    assert repeatable(Path("run")) == repeatable(whole)


# which run


def test_without_a_folder_the_latest_unfinished_run_of_the_same_goes_on(whole: Path) -> None:
    for threshold in (0.05, 0.9, 0.05, 0.8):
        assert cut_off(None, 5, threshold=threshold)
    states = sorted(Path("results").rglob(STATE_FILE), key=lambda path: path.stat().st_mtime)
    assert len(states) == 4
    folder = find(None, resume=True)
    assert folder == states[2].parent and repeatable(folder) == repeatable(whole)
    assert [path.exists() for path in states] == [True, True, False, True]


def test_a_run_says_which_it_goes_on_with_and_how_far_it_was() -> None:
    cut_off(None, 15)
    listening = Listening()
    run(RunOptions("ioi", "tiny", n_prompts=5, threshold=0.05, formats=(), resume=True), listening)
    (said,) = [stage for stage in listening.stages if stage.startswith("going on with")]
    assert "results/ioi/tiny/acdc/" in said and "% decided" in said and "tests" in said


# what can't go on


def damage(folder: Path) -> None:
    (folder / STATE_FILE).write_bytes((folder / STATE_FILE).read_bytes()[:-9])


@pytest.mark.parametrize(
    ("options", "change", "says"),
    [
        ({"threshold": 0.06}, None, r"threshold 0\.05 \(now 0\.06\)"),
        ({"threshold": None}, None, r"threshold 0\.05 \(now 0\.02\)"),
        ({"metric": "loss"}, None, r"metric kl \(now loss\)"),
        ({"ablation": "zero"}, None, r"ablation corrupted \(now zero\)"),
        ({"objective": "match"}, None, r"objective improve \(now match\)"),
        ({"dtype": "float64"}, None, r"dtype float32 \(now float64\)"),
        ({"n_prompts": 6}, None, r"prompts 5 \(now 6\), prompts_sha256 .{12}\.\.\. \(now"),
        ({"seed": 1, "threshold": 0.5}, None, r"seed 0 \(now 1\), threshold 0\.05 \(now 0\.5\)"),
        ({"bos": True}, None, r"bos False \(now True\)"),
        ({"task": "greater-than"}, None, r"task ioi \(now greater-than\)"),
        ({}, damage, r"truncated or damaged"),
        ({"force": True}, None, r"--resume goes on with the run in a folder, --force replaces it"),
        (
            {"resume": False, "threshold": 0.06},
            None,
            r"holds an unfinished run of something else: threshold 0\.05 \(now 0\.06\)\.\nGive another --out, or --f",
        ),
    ],
)
def test_what_can_not_go_on_says_why_and_is_left_as_it_was(
    options: dict[str, Any], change: Callable[[Path], None] | None, says: str
) -> None:
    folder = Path("run")
    assert cut_off(folder, 10)
    if change:
        change(folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(CircuitfindError, match=says) as caught:
        find(folder, **{"resume": True} | options)
    assert str(caught.value).count("\n") <= 1
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_another_model_of_the_same_name_is_told_by_its_weights(tmp_path: Path) -> None:
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    from circuitfind.models.loading.catalogue import CATALOGUE

    model = shutil.copytree(
        CATALOGUE["tiny"].source.place, tmp_path / "mine", ignore=lambda *_: ["train.py"]
    )
    assert cut_off(Path("run"), 10, model=str(model))
    tensors = load_file(model / "model.safetensors")
    name = next(name for name in tensors if name.endswith("wte.weight"))
    save_file(
        tensors | {name: tensors[name] + torch.tensor(1e-3)},
        model / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(OutputError, match=r"model_sha256 .{12}\.\.\. \(now .{12}\.\.\.\)\.\n"):
        find(Path("run"), model=str(model), resume=True)


class Listening:
    """Keeps the stages that are told."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    def stage(self, name: str) -> None:
        self.stages.append(name)

    def update(self, done: float, total: float, note: str = "") -> None: ...

    def warn(self, message: str) -> None: ...


def test_resuming_where_there_is_nothing_begins_anew_and_says_so(whole: Path) -> None:
    chosen = RunOptions("ioi", "tiny", n_prompts=5, threshold=0.05, formats=(), resume=True)
    Path("run").mkdir()
    Path("run/slurm.out").write_text("mine")
    for out, says in (
        (Path("run"), "run holds nothing of a run to go on with: it begins anew"),
        (None, "there is no unfinished run of this below results/ioi/tiny/acdc: it begins anew"),
    ):
        listening = Listening()
        folder = run(replace(chosen, out=out), listening).folder
        assert says in listening.stages and repeatable(folder) == repeatable(whole)
    assert Path("run/slurm.out").read_text() == "mine"
    assert cut_off(None, 5, threshold=0.9)
    run(replace(chosen, out=None), listening := Listening())
    assert any("threshold 0.9 (now 0.05)): it begins anew" in stage for stage in listening.stages)


@pytest.mark.parametrize("method", ["eap", "eap-ig"])
def test_a_method_that_keeps_no_state_is_resumed_by_beginning_anew(method: str) -> None:
    chosen: dict[str, Any] = {"method": method, "threshold": None, "edges": 20}
    find(Path("whole"), **chosen)
    for n in range(3):
        find(Path(f"run{n}"), **chosen, resume=True)
        assert repeatable(Path(f"run{n}")) == repeatable(Path("whole"))


def test_the_same_command_takes_over_an_unfinished_run(whole: Path) -> None:
    assert cut_off(Path("run"), 10)
    n_tests = read_state(Path("run")).numbers["n_tests"]
    listening = Listening()
    run(RunOptions("ioi", "tiny", n_prompts=5, threshold=0.05, formats=(), out=Path("run")), listening)
    assert n_tests > 0 and any(stage.startswith("going on with run") for stage in listening.stages)
    assert repeatable(Path("run")) == repeatable(whole)
    with pytest.raises(OutputError, match="is not empty"):  # a finished one is not
        find(Path("run"))


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_cut_off_as_its_files_are_exchanged_is_ended_by_the_next_command(
    resume: bool, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced: list[Path] = []
    original = Path.replace

    def kill(path: Path, target: Path) -> Path:
        if path.parent.name == "ready" and len(replaced) == 2:
            raise Killed
        if path.parent.name == "ready":
            replaced.append(path)
        return original(path, target)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Path, "replace", kill)
        find(Path("run"))
    assert not (Path("run") / "run.json").exists()
    if resume:
        with pytest.raises(UsageError, match="is finished: there is nothing to resume"):
            find(Path("run"), resume=True)
    else:
        with pytest.raises(OutputError, match="is not empty"):
            find(Path("run"))
    assert repeatable(Path("run")) == repeatable(whole)
    assert {path.name for path in Path("run").iterdir()} == {path.name for path in whole.iterdir()}


def test_a_run_that_another_process_is_at_work_on_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cut_off(Path("run"), 5) and cut_off(None, 5)
    monkeypatch.setattr(os, "getpid", lambda: -1)  # this is now another process
    says = rf"Process \d+ on {platform.node()} is at work on (run|results/.*), since \d{{4}}-.*\. Wait for it"
    with pytest.raises(OutputError, match=says):
        find(Path("run"), resume=True)
    with pytest.raises(OutputError, match=says):
        find(None, resume=True)


def test_a_folder_that_another_process_holds_is_left_to_it(whole: Path) -> None:
    code = "import sys; from pathlib import Path; from circuitfind.runs.lock import hold\n"
    code += "with hold(Path('run')): print('held', flush=True); sys.stdin.read()"
    assert cut_off(Path("run"), 5)
    before = {path: path.read_bytes() for path in Path("run").iterdir()}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None and child.stdout.readline() == b"held\n"
        for options in ({"resume": True}, {}, {"force": True}):
            with pytest.raises(
                BusyError, match=rf"Process {child.pid} on .* is at work on run, since \d{{4}}-"
            ):
                find(Path("run"), **options)
        child.kill()  # whatever it had said of itself
    assert {path: path.read_bytes() for path in Path("run").iterdir() if path.is_file()} == before
    find(Path("run"), resume=True)
    assert repeatable(Path("run")) == repeatable(whole)
    assert {path.name for path in Path("run").iterdir()} == {path.name for path in whole.iterdir()}


def test_a_state_that_another_process_went_on_with_meanwhile_is_not_gone_on_with() -> None:
    assert cut_off(Path("run"), 5)
    plan = make_plan(
        RunOptions("ioi", "tiny", n_prompts=5, threshold=0.05, out=Path("run"), resume=True), Silent()
    )
    assert cut_off(Path("run"), 5, resume=True)
    with pytest.raises(OutputError, match="Another process has gone on with run meanwhile"):
        carry_out(plan, Silent())


# a finished run


def test_a_finished_run_is_not_redone(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["run", *COMMAND, "--out", "run"], debug=False) == 0
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in Path("run").iterdir()}
    capsys.readouterr()
    assert call(["run", *COMMAND, "--out", "run", "--resume"], debug=False) == 0
    written = capsys.readouterr()
    assert written.err == "The run in run is finished: there is nothing to resume.\n"
    assert written.out.splitlines() == ["picture: run/circuit.dot", "report:  run/report.md"]
    assert call(["run", *COMMAND, "--out", "run", "--resume", "--json"], debug=False) == 0
    assert json.loads(capsys.readouterr().out)["folder"] == "run"
    assert {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in Path("run").iterdir()
    } == before
    with pytest.raises(UsageError, match="is finished: there is nothing to resume"):
        find(Path("run"), resume=True)


def test_a_finished_run_of_something_else_is_told_as_such(whole: Path) -> None:
    with pytest.raises(OutputError, match=r"threshold 0\.05 \(now 0\.5\)"):
        find(whole, threshold=0.5, resume=True)


# Ctrl-C, a full disk


def interrupting(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """The search ends so at its tenth save, with nothing of it on disk yet."""
    n_saves = 0

    def save(keeper: Keeper, found: Any) -> None:
        nonlocal n_saves
        original(keeper, found)
        n_saves += 1
        if n_saves == 10:
            raise error

    original = Keeper.save
    monkeypatch.setattr(checkpoint, "SAVE_SECONDS", 1000.0)
    monkeypatch.setattr(Keeper, "save", save)


@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_ctrl_c_keeps_what_was_decided_and_tells_how_to_go_on(
    quiet: list[str], whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        interrupting(patch, KeyboardInterrupt())
        assert call(["run", *COMMAND, *quiet], debug=False) == 130
    (state,) = Path("results").rglob(STATE_FILE)
    assert read_state(state.parent).numbers["n_tests"] > 0
    *_, hint, command = capsys.readouterr().err.splitlines()
    assert hint == "What it has decided is kept. To go on with it:"
    assert command.split()[:2] == ["circuitfind", "run"]
    assert call(command.split()[1:], debug=False) == 0
    assert repeatable(state.parent) == repeatable(whole)


def test_a_disk_that_is_full_at_the_end_leaves_a_run_that_can_go_on(
    whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from circuitfind.runs import folder

    original = folder.write

    def full(folder: Path, name: str, content: str | bytes) -> Path:
        if name == "report.md":
            raise OutputError("Cannot write run/report.md: No space left on device. Free some space.")
        return original(folder, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(folder, "write", full)
        assert call(["run", *COMMAND, "--out", "run"], debug=False) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: Cannot write run/report.md: No space left on device")
    assert lines[-3] == "What it has decided is kept. To go on with it:"
    assert call(lines[-2].split()[1:], debug=False) == 0
    assert repeatable(Path("run")) == repeatable(whole)


def test_the_command_to_go_on_repeats_every_option_that_was_given() -> None:
    options = RunOptions(
        "my task.py", "tiny", threshold=0.5, metric="loss", n_prompts=3, seed=2, bos=True, formats=("svg", "pdf"),
        memory=4 * 10**9, force=True, resume=True, out=Path("x"),
    )  # fmt: skip
    assert resume_command(options, Path("runs/a")) == (
        "circuitfind run 'my task.py' --model tiny --threshold 0.5 --metric loss --prompts 3 --seed 2 --bos "
        "--format svg,pdf --memory 4000000000B --out runs/a --resume"
    )


# real processes, really killed

OFTEN = (
    "from circuitfind.runs import checkpoint; checkpoint.SAVE_SECONDS = 0.3; "
    "from circuitfind.cli.app import main; main()"
)
LONG = {
    "acdc": "run ioi --model tiny --prompts 256 --format dot --threshold 0.005",
    "exact": "run ioi --model tiny --prompts 256 --format dot --method exact --edges 60",
    "edge-pruning": "run ioi --model tiny --prompts 64 --format dot --method edge-pruning --edges 60 --steps 600",
}
LATEST = {"acdc": 4.0, "exact": 1.0, "edge-pruning": 1.0}
"""How many seconds after it has first saved something a process is killed at the latest."""
KILLS = 3


def start(folder: Path, *more: str, method: str = "acdc") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", OFTEN, *LONG[method].split(), "--out", str(folder), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_news(process: subprocess.Popen[str], state: Path, seconds: float) -> bool:
    """Whether the process still runs so long after it has first saved something."""
    before = state.stat().st_mtime_ns if state.exists() else 0
    while process.poll() is None and not (state.exists() and state.stat().st_mtime_ns > before):
        time.sleep(0.01)
    time.sleep(seconds)
    return process.poll() is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "seed"), [("acdc", 0), ("acdc", 1), ("exact", 0), ("edge-pruning", 0)]
)
def test_a_process_killed_at_random_moments_ends_with_the_same_bytes(
    method: str, seed: int, tmp_path: Path
) -> None:
    process = start(tmp_path / "whole", method=method)
    assert process.wait() == 0, process.communicate()
    process.communicate()
    rng, killed, folder = random.Random(seed), 0, tmp_path / "run"
    while True:
        process = start(folder, *(["--resume"] if killed else []), method=method)
        if killed == KILLS or not wait_for_news(
            process, folder / STATE_FILE, rng.uniform(0.0, LATEST[method])
        ):
            break
        process.kill()
        process.communicate()
        killed += 1
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert killed > 0 and repeatable(folder) == repeatable(tmp_path / "whole")
    assert json.loads((folder / "run.json").read_text())["sittings"] == killed + 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")
@pytest.mark.parametrize(
    ("number", "code", "last"),
    [
        (signal.SIGINT, 130, "Interrupted."),
        (signal.SIGTERM, 143, "Ended by SIGTERM."),
        (signal.SIGHUP, 129, "Ended by SIGHUP."),
    ],
)
def test_a_process_ended_by_a_signal_in_its_search_can_go_on(
    number: int, code: int, last: str, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    process = start(folder)
    assert wait_for_news(process, folder / STATE_FILE, 0.5)
    process.send_signal(number)
    out, err = process.communicate()
    assert (process.returncode, out) == (code, "")
    assert err.splitlines()[-1] == last and "--resume" in err.splitlines()[-2]
    process = start(folder, "--resume")
    _, err = process.communicate()
    assert process.returncode == 0 and f"going on with {folder}" in err
