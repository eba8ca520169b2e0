"""Circuits and run folders that come from strangers: what their words may open, and what they may not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import circuitfind
from circuitfind.cli import view as view_module
from circuitfind.cli.app import call
from circuitfind.models.loading import hub, load, locate, wheel
from circuitfind.models.loading.locate import locate as locate_model
from circuitfind.progress import Silent
from circuitfind.review import opening
from circuitfind.review.opening import find_here

QUICK = ("--parts", "held-out", "-q")
COMMANDS = {
    "check": ("check", "-q"),
    "check --evaluate-only": ("check", "--evaluate-only", "-q"),
    "evaluate": ("evaluate", "--force", *QUICK),
    "view": ("view", "--no-open", "--force", "-q"),
}
TASK = """
import pathlib
from circuitfind.prompts.files import load_task
from dataclasses import replace
pathlib.Path({canary!r}).write_text("executed", encoding="utf-8")

def margin(logits, answers, wrong_answers):
    return logits.amax(-1)

TASK = replace(load_task("ioi"), name="notes", metrics={metrics})
"""


def run_of(folder: Path, task: str, *options: str) -> Path:
    arguments = [
        "run",
        task,
        "--model",
        "tiny",
        "--prompts",
        "4",
        "--out",
        str(folder),
        "--format",
        "dot",
        "-q",
    ]
    assert call([*arguments, *(options or ("--threshold", "0.05"))], debug=False) == 0
    return folder


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a built-in task."""
    return run_of(tmp_path_factory.mktemp("theirs") / "run", "ioi")


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """What a file that is run writes."""
    return tmp_path / "canary"


@pytest.fixture
def received(ran: Path, tmp_path: Path, canary: Path) -> Path:
    """The run folder as it came, with a Python file in it that its record names as the task."""
    folder = Path(shutil.copytree(ran, tmp_path / "received"))
    notes = folder / "notes.py"
    notes.write_text(TASK.format(canary=str(canary), metrics="{}"), encoding="utf-8")
    change(folder / "run.json", lambda record: record["command"].update(task=str(notes)))
    return folder


@pytest.fixture
def lone(received: Path, tmp_path: Path) -> Path:
    """Its circuit.json by itself, whose task is the file."""
    folder = tmp_path / "lone"
    folder.mkdir()
    file = Path(shutil.copy(received / "circuit.json", folder))
    change(file, lambda circuit: circuit["task"].update(name=str(received / "notes.py")))
    return file


def change(file: Path, how: Callable[[dict[str, Any]], object]) -> None:
    """Alters a JSON file."""
    data = json.loads(file.read_text(encoding="utf-8"))
    how(data)
    file.write_text(json.dumps(data), encoding="utf-8")


def do(command: str, path: Path, *options: str) -> int:
    name, *rest = COMMANDS[command]
    return call([name, str(path), *rest, *options], debug=False)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of the network."""
    asked: list[str] = []

    def ask(name: str, *_: Any) -> Path:
        asked.append(name)
        raise AssertionError(f"{name} was fetched")

    monkeypatch.setattr(hub, "fetch_from_hub", ask)
    monkeypatch.setattr(wheel, "fetch_wheel", ask)
    return asked


@pytest.mark.parametrize("command", COMMANDS)
def test_a_received_folder_runs_no_file_and_its_prompts_are_enough(
    command: str, received: Path, canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert do(command, received) == 0
    assert not canary.exists()
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("command", ["check", "evaluate"])
def test_a_received_circuit_runs_no_file_and_says_how_to_name_it(
    command: str, lone: Path, canary: Path, received: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert do(command, lone) == 2
    assert not canary.exists()
    printed = capsys.readouterr()
    assert f"--task {received / 'notes.py'}" in printed.out + printed.err


def test_a_page_of_a_received_circuit_runs_no_file_and_is_made_without_the_model(
    lone: Path, canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert do("view", lone) == 0
    assert not canary.exists()
    assert "If you want it, name it: --task " in capsys.readouterr().err


def pytest_says(folder: Path, *options: str) -> str:
    """What ``pytest --circuits-evaluate-only`` prints of a folder's circuits."""
    command = [sys.executable, "-m", "pytest", "--circuits-evaluate-only", "-q", "-p", "no:cacheprovider"]
    here = {**os.environ, "PYTHONPATH": str(Path(circuitfind.__file__).parent.parent)}
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, cwd=folder, env=here, check=False
    )
    return done.stdout + done.stderr


def test_pytest_runs_no_file(received: Path, lone: Path, canary: Path) -> None:
    said = pytest_says(lone.parent, "--circuits", str(received / "circuit.json"), "--circuits", str(lone))
    assert "1 failed, 1 passed" in said
    assert not canary.exists()


@pytest.mark.slow
def test_pytest_runs_a_file_where_it_is_named_or_the_circuits_are_trusted(
    received: Path, lone: Path, canary: Path
) -> None:
    for options in (("--circuits-trust",), ("--circuits-task", str(received / "notes.py"))):
        assert "1 passed" in pytest_says(lone.parent, "--circuits", str(lone), *options)
        assert canary.exists()
        canary.unlink()


@pytest.mark.parametrize("command", ["check --evaluate-only", "view"])
def test_a_file_runs_where_it_is_named_or_the_folder_is_trusted(
    command: str, lone: Path, received: Path, canary: Path
) -> None:
    for options in (("--task", str(received / "notes.py")), ("--trust",)):
        assert do(command, lone, *options) == 0
        assert canary.read_text(encoding="utf-8") == "executed"
        canary.unlink()


def test_the_block_method_decides_neither_task_nor_model_nor_place(
    ran: Path, received: Path, canary: Path, tmp_path: Path, no_network: list[str]
) -> None:
    """A circuit's method is taken for options of a search: nothing else may come that way."""
    other = {"task": str(received / "notes.py"), "model": "someone/theirs", "out": str(tmp_path / "out")}
    folder = Path(shutil.copytree(ran, tmp_path / "method"))
    change(
        folder / "circuit.json", lambda c: c["method"].update(other, force=True, resume=True, n_prompts=1)
    )
    assert do("check", folder) == 0
    assert not canary.exists()
    assert not (tmp_path / "out").exists()
    assert no_network == []


@pytest.mark.parametrize("name", ["someone/theirs", "gpt2", "smollm2-135m"])
@pytest.mark.parametrize("command", ["check", "evaluate"])
def test_a_model_that_is_not_here_is_not_fetched(
    command: str,
    name: str,
    received: Path,
    no_network: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CIRCUITFIND_CACHE", str(tmp_path / "cache"))
    change(received / "run.json", lambda record: record["command"].update(model=name))
    assert do(command, received) == 2
    assert no_network == []
    printed = capsys.readouterr()
    assert f"names the model '{name}', which is not here" in printed.out + printed.err
    assert f"--model {name}" in printed.out + printed.err


@pytest.mark.parametrize(
    "spelled", ["absolute", "relative", "inside", "gguf", "like a hub name", "known"]
)
def test_a_model_that_is_a_path_is_not_read(
    spelled: str, received: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: list[str]
) -> None:
    """Not even one that is spelled as a name, where a folder of that name lies in the working directory."""
    monkeypatch.chdir(tmp_path)
    names = {
        "relative": "../" + tmp_path.name + "/m",
        "inside": "received/m",
        "like a hub name": "some/m",
    }
    names |= {"absolute": str(tmp_path / "m"), "gguf": "m.gguf", "known": "gpt2"}
    name = names[spelled]
    if spelled == "gguf":
        Path(name).write_bytes(b"GGUF")
    else:
        shutil.copytree(locate_model("tiny", Silent()), name)
    change(received / "run.json", lambda record: record["command"].update(model=name))
    assert find_here(name) is None
    assert do("check --evaluate-only", received) == 2
    if spelled != "gguf":
        assert do("check --evaluate-only", received, "--model", name) == 0
        assert do("check --evaluate-only", received, "--trust") == 0


def test_a_model_in_the_users_own_cache_is_opened_by_its_name(
    received: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: list[str]
) -> None:
    cached = Path(shutil.copytree(locate_model("tiny", Silent()), tmp_path / "snapshot"))
    monkeypatch.setattr(hub, "cached", {"someone/theirs": cached}.get)
    change(received / "run.json", lambda record: record["command"].update(model="someone/theirs"))
    assert do("check --evaluate-only", received) == 0
    assert no_network == []


@pytest.mark.parametrize("name", ["prompts.jsonl", "run.json", "circuit.json", "scores.safetensors"])
def test_a_link_out_of_the_folder_is_not_followed(
    name: str, received: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = Path(shutil.move(received / name, tmp_path / "secret"))
    (received / name).symlink_to(secret)
    assert do("check", received) == 2
    printed = capsys.readouterr()
    assert f"{received / name} is a link to a file outside its folder" in printed.out + printed.err
    (received / name).unlink()
    inside = Path(shutil.move(secret, received / "inside"))
    (received / name).symlink_to(inside.name)
    assert do("check --evaluate-only", received) == 0


@pytest.fixture
def own_metric(tmp_path: Path, canary: Path) -> tuple[Path, Path]:
    """A run by a metric of its task file, and the file."""
    file = tmp_path / "mine.py"
    file.write_text(TASK.format(canary=str(canary), metrics="{'margin': margin}"), encoding="utf-8")
    folder = run_of(tmp_path / "mine", str(file), "--metric", "margin", "--threshold", "0.2")
    canary.unlink()
    return folder, file


def test_a_search_by_a_metric_of_the_file_asks_for_it_and_the_rest_goes_without(
    own_metric: tuple[Path, Path], canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file = own_metric
    assert do("check", folder) == 2
    printed = capsys.readouterr().out
    assert "the metric 'margin', which its task file defines" in printed
    assert f"--task {file}" in printed
    assert do("check --evaluate-only", folder) == 0
    assert do("view", folder) == 0
    capsys.readouterr()
    assert do("evaluate", folder) == 0
    assert f"its file was not opened. If you want it, name it: --task {file}" in capsys.readouterr().err
    assert not canary.exists()
    assert do("check", folder, "--task", str(file), "--tolerance", "jaccard=1,kl=0") == 0


def test_a_task_file_that_was_changed_since_is_told_of(
    own_metric: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file = own_metric
    capsys.readouterr()
    assert do("check --evaluate-only", folder, "--trust") == 0
    assert "not the task file" not in capsys.readouterr().err
    file.write_text(file.read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")
    for options in (("--trust",), ("--task", str(file))):
        assert do("check --evaluate-only", folder, *options) == 0
        assert f"{file} is not the task file that the circuit was found with" in capsys.readouterr().err


def test_the_means_of_a_received_run_are_over_the_prompts_that_came_with_it(tmp_path: Path) -> None:
    folder = run_of(tmp_path / "means", "ioi", "--threshold", "0.05", "--ablation", "mean")
    change(folder / "run.json", lambda record: record["command"].update(task="elsewhere.jsonl"))
    assert do("check", folder, "--tolerance", "jaccard=1,kl=0,faithfulness=0,accuracy=0") == 0


def test_the_rule_is_used_by_all_that_open_models() -> None:
    """The modules that the tests above watch are those that fetch."""
    assert opening.locate is locate.locate
    assert load.locate is locate.locate
    assert view_module.webbrowser
