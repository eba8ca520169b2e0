"""Runs of methods that score, of learned masks and of neurons: cut off at any moment they end with the same bytes."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from circuitfind import pipeline
from circuitfind.cli.app import call
from circuitfind.errors import CircuitfindError, ModelError, OutputError
from circuitfind.methods.exact import OneByOne
from circuitfind.methods.masks import pruning
from circuitfind.methods.saved_state import SoFar
from circuitfind.pipeline import RunOptions, run
from circuitfind.runs import checkpoint
from circuitfind.runs.checkpoint import Keeper, read_state
from circuitfind.runs.folder import STATE_FILE
from circuitfind.runs.resume import resume_command
from circuitfind.sweep import SweepResult, sweep

REPEATABLE = (
    "circuit.json", "circuit.dot", "prompts.jsonl", "scores.safetensors", "prompt_scores.safetensors",
    "bootstrap.safetensors", "consensus.json",
)  # fmt: skip
EXACT: dict[str, Any] = {"method": "exact", "edges": 60}
PRUNING: dict[str, Any] = {"method": "edge-pruning", "edges": 60, "steps": 25}
RUNS: dict[str, dict[str, Any]] = {
    "exact": {**EXACT, "bootstrap": 20},
    "exact, at positions": {**EXACT, "positions": True, "n_prompts": 2},
    "exact, nodes": {"method": "exact", "level": "node", "nodes": 6},
    "exact, neurons": {
        "method": "exact",
        "level": "neuron",
        "neurons": 40,
        "bootstrap": 20,
        "n_prompts": 3,
    },
    "acdc, neurons": {"method": "acdc", "level": "neuron", "threshold": 0.01, "n_prompts": 3},
    "pruning": {**PRUNING, "settings": (("prompts_per_step", "4"),), "n_prompts": 9},
    "probing": {"method": "subnetwork-probing", "edges": 60, "steps": 25, "start_from": "exact"},
    "ensemble": {"method": "ensemble", "edges": 60, "of": ("eap-ig", "exact"), "combine": "max"},
}


SLOW = ("exact, at positions", "exact, neurons", "probing", "ensemble")


class Killed(BaseException):
    """Nothing of the program runs afterwards, as far as a test can have it."""


def options(out: Path | None, **chosen: Any) -> RunOptions:
    return RunOptions(**{"task": "ioi", "model": "tiny", "n_prompts": 5, "formats": ()} | chosen, out=out)


def find(out: Path | None, **chosen: Any) -> Path:
    return run(options(out, **chosen)).folder


def repeatable(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in REPEATABLE if (folder / name).exists()}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test works in an empty folder of its own, and every save goes to disk."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "SAVE_SECONDS", 0.0)


def cut_off(after: int, work: Callable[[], object], error: BaseException | None = None) -> bool:
    """Whether the work was cut off when it had saved so many times; else it has ended."""
    n_saves = 0

    def save(keeper: Keeper, so_far: SoFar) -> None:
        nonlocal n_saves
        original(keeper, so_far)
        n_saves += 1
        if n_saves > after:
            raise error or Killed

    original = Keeper.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Keeper, "save", save)
        patch.setattr(checkpoint, "PATIENCE", 0.0)
        try:
            work()
        except Killed:
            return True
        return False


# the same bytes


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in RUNS]
)
def test_a_run_cut_off_again_and_again_ends_with_the_same_bytes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[SoFar] = []
    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "save", lambda keeper, so_far: saved.append(so_far))
        whole = find(Path("whole"), **RUNS[name])
    rng, out = random.Random(name), Path("run")
    for sittings in range(1, 4):
        again = RUNS[name] | {"resume": sittings > 1, "batch_size": (None, 1, 4)[sittings - 1]}
        assert cut_off(rng.randrange(1, len(saved) // 3), lambda again=again: find(out, **again))
        assert (out / STATE_FILE).exists() and not (out / "run.json").exists()
    find(out, **RUNS[name], resume=True)
    assert repeatable(out) == repeatable(whole)
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}
    assert json.loads((out / "run.json").read_text())["sittings"] == 4


@pytest.mark.parametrize("name", ["exact", "pruning", "acdc, neurons"])
def test_a_run_cut_off_after_its_scores_finds_nothing_out_again(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(pipeline, "write_findings", kill)
        find(Path("run"), **RUNS[name])
    n_saves: list[SoFar] = []
    monkeypatch.setattr(Keeper, "save", lambda keeper, so_far: n_saves.append(so_far))
    find(Path("run"), **RUNS[name], resume=True)
    assert len(n_saves) == 1  # the state itself, as the run begins
    assert repeatable(Path("run")) == repeatable(find(Path("whole"), **RUNS[name]))


def test_a_run_says_which_it_goes_on_with_and_how_far_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "ioi", "--model", "tiny", "--prompts", "3", "--format", "dot", "--method"]
    cut_off(5, lambda: call([*command, "exact", "--edges", "9", "--out", "a"], debug=False))
    cut_off(
        5,
        lambda: call(
            [*command, "edge-pruning", "--edges", "9", "--steps", "9", "--out", "b"], debug=False
        ),
    )
    capsys.readouterr()
    assert call([*command, "exact", "--edges", "9", "--out", "a", "--resume"], debug=False) == 0
    assert (
        "going on with a: " in (said := capsys.readouterr().err) and " of 262 edges, after 0 s\n" in said
    )
    assert (
        call(
            [*command, "edge-pruning", "--edges", "9", "--steps", "9", "--out", "b", "--resume"],
            debug=False,
        )
        == 0
    )
    assert "going on with b: 6 of 9 steps, after " in capsys.readouterr().err


# what can't go on


def damage(folder: Path) -> None:
    (folder / STATE_FILE).write_bytes((folder / STATE_FILE).read_bytes()[:-9])


@pytest.mark.parametrize(
    ("name", "other", "change", "says"),
    [
        ("exact", {"metric": "loss"}, None, r"metric kl \(now loss\)"),
        ("exact", {"ablation": "zero"}, None, r"ablation corrupted \(now zero\)"),
        ("exact", {"dtype": "float64"}, None, r"dtype float32 \(now float64\)"),
        ("exact", {"seed": 1}, None, r"seed 0 \(now 1\)"),
        ("exact", {"n_prompts": 6}, None, r"prompts 5 \(now 6\)"),
        ("exact", {"kv": "grouped"}, None, r"kv per-head \(now grouped\)"),
        ("exact", {"positions": True}, None, r"positions False \(now True\)"),
        ("exact", {"method": "edge-pruning"}, None, r"method exact \(now edge-pruning\)"),
        ("exact", {"edges": None, "level": "node", "nodes": 5}, None, r"level edge \(now node\)"),
        ("pruning", {"steps": 26}, None, r"steps 25 \(now 26\)"),
        ("pruning", {"edges": 61}, None, r"sparsity 0\.7\d+ \(now 0\.7\d+\)"),
        ("pruning", {"settings": (("prompts_per_step", "5"),)}, None, r"prompts_per_step 4 \(now 5\)"),
        ("pruning", {"settings": ()}, None, r"prompts_per_step 4 \(now 8\)"),
        ("pruning", {"start_from": "eap-ig"}, None, r"start_from none \(now eap-ig\)"),
        ("probing", {"start_from": None}, None, r"start_from exact \(now none\)"),
        ("probing", {"start_from": "eap-ig"}, None, r"start_from exact \(now eap-ig\)"),
        ("ensemble", {"of": ("exact", "eap-ig")}, None, r"of eap-ig,exact \(now exact,eap-ig\)"),
        ("ensemble", {"combine": "mean"}, None, r"combine max \(now mean\)"),
        ("ensemble", {"steps": 3}, None, r"of eap-ig: steps 5 \(now 3\)"),
        ("acdc, neurons", {"threshold": 0.02}, None, r"threshold 0\.01 \(now 0\.02\)"),
        ("exact, neurons", {"metric": "loss"}, None, r"metric kl \(now loss\)"),
        ("pruning", {}, damage, r"truncated or damaged"),
    ],
)
def test_what_can_not_go_on_says_why_and_is_left_as_it_was(
    name: str, other: dict[str, Any], change: Callable[[Path], None] | None, says: str
) -> None:
    folder = Path("run")
    chosen = RUNS[name] | {"bootstrap": None}
    assert cut_off(3, lambda: find(folder, **chosen))
    if change:
        change(folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    left_out = {"steps": None, "settings": ()} if other.get("method") else {}
    with pytest.raises(CircuitfindError, match=says) as caught:
        find(folder, **chosen | left_out | other, resume=True)
    assert str(caught.value).count("\n") <= 1
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_scores_that_were_cut_off_can_become_a_circuit_of_another_size() -> None:
    assert cut_off(5, lambda: find(Path("run"), **EXACT))
    find(Path("run"), method="exact", edges=30, resume=True)
    assert repeatable(Path("run")) == repeatable(find(Path("whole"), method="exact", edges=30))
    with pytest.raises(OutputError, match=r"edges 30 \(now 60\)"):  # a finished run is not made anew
        find(Path("run"), **EXACT, resume=True)


def test_masks_that_diverge_leave_nothing_to_go_on_with(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    update = pruning._Pruning.update

    def spoil(masks: Any, step: int, gradient: torch.Tensor) -> None:
        assert Path("run", STATE_FILE).exists() == (step > 0)
        update(masks, step, gradient * (math.nan if step == 3 else 1.0))

    monkeypatch.setattr(pruning._Pruning, "update", spoil)
    monkeypatch.setattr(checkpoint, "PATIENCE", 0.0)
    command = [
        "run",
        "ioi",
        "--model",
        "tiny",
        "--prompts",
        "3",
        "--method",
        "edge-pruning",
        "--edges",
        "9",
    ]
    assert call([*command, "--steps", "9", "--out", "run"], debug=False) == 2
    assert "diverged at step 4" in (said := capsys.readouterr().err) and "--resume" not in said
    assert [path.name for path in Path("run").iterdir()] == ["scores.safetensors"]


# Ctrl-C


@pytest.mark.parametrize(
    "words",
    [
        pytest.param("--method exact --edges 60 --select top-signed", marks=pytest.mark.slow),
        "--method edge-pruning --edges 60 --steps 20 --set prompts_per_step=4 --set learning_rate=0.5",
        "--method subnetwork-probing --fraction 0.2 --steps 9 --start-from exact",
        "--method ensemble --of relp,exact --combine rank-mean --edges 60 --set temperature=3",
        "--level neuron --threshold 0.01",
        "--method exact --edges 60,20",
        "--method edge-pruning --edges 60,20 --steps 9",
    ],
)
def test_the_command_that_ctrl_c_tells_goes_on_to_the_same_bytes(
    words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "temperature" in words:
        words = words.replace("relp", "gim")
    command = [
        "run",
        "ioi",
        "--model",
        "tiny",
        "--prompts",
        "3",
        "--format",
        "dot",
        *words.split(),
        "--out",
    ]
    assert call([*command, "whole"], debug=False) == 0
    monkeypatch.setattr(checkpoint, "SAVE_SECONDS", 1000.0)  # nothing is on disk before
    codes: list[int] = []
    cut_off(12, lambda: codes.append(call([*command, "run"], debug=False)), KeyboardInterrupt())
    assert codes == [130]
    hint, told = [line for line in capsys.readouterr().err.splitlines() if line.strip()][-2:]
    assert hint.endswith("is kept. To go on with it:") and told.split()[:2] == ["circuitfind", "run"]
    assert call(told.split()[1:], debug=False) == 0
    assert "going on with run" in capsys.readouterr().err
    places = [place.relative_to("whole") for place in [Path("whole"), *Path("whole").glob("edges-*")]]
    assert all(repeatable("run" / place) == repeatable("whole" / place) for place in places)
    assert not list(Path("run").rglob(STATE_FILE))


def test_the_command_to_go_on_spells_settings_as_they_are_typed() -> None:
    asked = options(Path("x"), **PRUNING, settings=(("penalty", "2"), ("seed", "3")))
    assert "--steps 25 --set penalty=2 --set seed=3 --out a --resume" in resume_command(asked, Path("a"))


# sweeps

SIZES = (60, 20, 40)


def do_sweep(out: Path, **chosen: Any) -> SweepResult:
    return sweep(options(out, **chosen), SIZES, of="edges")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tests were made, each time some were."""
    counts: list[int] = []
    original = OneByOne.rises

    def rises(tests: Any, where: Any, which: Any) -> Any:
        counts.append(len(which))
        return original(tests, where, which)

    monkeypatch.setattr(OneByOne, "rises", rises)
    return counts


def test_a_sweep_that_scores_once_goes_on_with_its_scores(counted: list[int]) -> None:
    chosen = {"method": "exact"}
    assert cut_off(9, lambda: do_sweep(Path("sweep"), **chosen))
    assert [path.name for path in Path("sweep").iterdir()] == [STATE_FILE]
    result = do_sweep(Path("sweep"), **chosen, resume=True)
    assert sum(counted) == 262  # every edge once
    assert not (result.folder / STATE_FILE).exists()
    for size in SIZES:
        alone = find(Path(f"alone-{size}"), **chosen, edges=size)
        assert repeatable(result.folder / f"edges-{size}") == repeatable(alone)


@pytest.mark.parametrize(
    "n_written", [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(2, marks=pytest.mark.slow)]
)
def test_a_sweep_cut_off_between_its_runs_scores_nothing_again(
    n_written: int, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from circuitfind import sweep as module

    original, n_left = module.write_findings, n_written

    def write(*arguments: Any) -> Any:
        nonlocal n_left
        if n_left == 0:
            raise Killed
        n_left -= 1
        return original(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, "write_findings", write)
        do_sweep(Path("sweep"), method="exact")
    assert len(list(Path("sweep").glob("edges-*"))) == n_written
    result = do_sweep(Path("sweep"), method="exact", resume=True)
    assert sum(counted) == 262 and not (result.folder / STATE_FILE).exists()
    assert [row["n_edges"] > 0 for row in result.table["circuits"]] == [True] * 3
    for size in SIZES:
        assert repeatable(result.folder / f"edges-{size}") == repeatable(
            find(Path(f"{size}"), **EXACT | {"edges": size})
        )


def test_a_sweep_that_learns_masks_for_each_size_goes_on_with_the_one_that_was_cut_off() -> None:
    assert cut_off(40, lambda: do_sweep(Path("sweep"), **PRUNING | {"edges": None}))  # in the second run
    states = [path.parent.name for path in Path("sweep").rglob(STATE_FILE)]
    assert states == ["edges-40"] and (Path("sweep") / "edges-20" / "run.json").exists()
    assert read_state(Path("sweep") / "edges-40").numbers["step"] == 16
    result = do_sweep(Path("sweep"), **PRUNING | {"edges": None}, resume=True)
    for size in SIZES:
        alone = find(Path(f"alone-{size}"), **PRUNING | {"edges": size})
        assert repeatable(result.folder / f"edges-{size}") == repeatable(alone)


def test_a_sweep_of_other_scores_is_not_gone_on_with() -> None:
    assert cut_off(9, lambda: do_sweep(Path("sweep"), method="exact"))
    with pytest.raises(OutputError, match=r"metric kl \(now loss\)"):
        do_sweep(Path("sweep"), method="exact", metric="loss", resume=True)
    with pytest.raises(OutputError, match=r"prompts 5 \(now 4\)"):
        do_sweep(Path("sweep"), method="exact", n_prompts=4, resume=True)


def test_scores_that_fail_leave_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ModelError("no")

    monkeypatch.setattr(OneByOne, "rises", fails)
    with pytest.raises(ModelError):
        do_sweep(Path("sweep"), method="exact")
    assert list(Path().iterdir()) == []
