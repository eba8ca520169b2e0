"""circuitfind tasks, as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from toy_tokenizers import ToyTokenizer
from typer.testing import CliRunner

import circuitfind.models.loading.load
from circuitfind.cli.tasks import app
from circuitfind.errors import TaskError, UsageError

GOOD = '{"clean": "2 + 2 =", "corrupted": "2 + 3 =", "answers": [" 4"], "wrong_answers": [" 5"]}\n'
LONG = '{"clean": "2 + 2 =", "corrupted": "2 + 33 =", "answers": [" 4"], "wrong_answers": [" 5"]}\n'


@pytest.fixture(autouse=True)
def asked_for(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models whose tokenizer was asked for; each gets a toy one."""
    asked: list[str] = []

    def load_tokenizer(name: str, progress: object = None) -> ToyTokenizer:
        asked.append(name)
        return ToyTokenizer(space_joins=True)

    monkeypatch.setattr(circuitfind.models.loading.load, "load_tokenizer", load_tokenizer)
    return asked


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.mark.parametrize("arguments", [(), ("list",)])
def test_list_shows_every_task_on_a_line_of_its_own(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == [
        "docstring",
        "greater-than",
        "ioi",
    ]


def test_list_as_json_is_one_document() -> None:
    tasks = json.loads(run("list", "--json").stdout)["tasks"]
    assert [task["name"] for task in tasks] == ["docstring", "greater-than", "ioi"]
    assert set(tasks[0]) == {"name", "title", "paper", "metric", "example"}


def test_show_without_a_model_shows_the_example_and_loads_no_tokenizer(asked_for: list[str]) -> None:
    lines = run("show", "greater-than").stdout.splitlines()
    assert lines[0] == "greater-than"
    assert "clean      The voyage lasted from the year 1732 to the year 17" in lines
    assert lines[-2].endswith("32 in all")
    assert lines[-1].split() == ["roles", "NOUN", "'voyage'", "XX", "'17'", "YY", "'32'"]
    assert asked_for == []


def test_show_with_a_model_shows_as_many_prompts_as_asked_for(asked_for: list[str]) -> None:
    prompts = [
        json.loads(run("show", "ioi", "-m", "m", "-n", n, "--json").stdout)["prompts"] for n in (2, 3)
    ]
    assert [len(shown) for shown in prompts] == [2, 3]
    assert prompts[1][:2] == prompts[0]
    assert asked_for == ["m", "m"]


def test_the_seed_changes_what_is_shown() -> None:
    assert run("show", "ioi", "-m", "m").stdout != run("show", "ioi", "-m", "m", "--seed", "1").stdout


def test_fewer_prompts_than_asked_for_are_told_on_stderr(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(GOOD, encoding="utf-8")
    result = run("show", path, "--model", "m", "--prompts", "3")
    assert result.stdout.count("clean") == 1
    assert result.stderr == "warning: 3 prompts were asked for; there are 1.\n"


def test_prompts_without_a_model_are_refused() -> None:
    with pytest.raises(UsageError, match="--prompts needs --model"):
        run("show", "ioi", "--prompts", "3")


def test_a_sound_file_passes_and_what_was_not_checked_is_told(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(GOOD, encoding="utf-8")
    result = run("check", path)
    assert (result.exit_code, result.stdout) == (0, f"{path}: nothing wrong (1 checked).\n")
    assert "tokens were not checked" in result.stderr
    assert run("check", path, "--model", "m").stderr == ""


def test_a_wrong_file_is_told_line_by_line_and_exits_1(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(GOOD + LONG + "oops\n", encoding="utf-8")
    result = run("check", path, "--model", "m")
    assert result.exit_code == 1
    assert [line.partition(":")[0] for line in result.stdout.splitlines()] == ["line 2", "line 3"]
    document = run("check", path, "--model", "m", "--json")
    assert document.exit_code == 1
    assert json.loads(document.stdout)["problems"] == result.stdout.splitlines()


def test_a_missing_file_is_an_error() -> None:
    with pytest.raises(TaskError, match="There is no file"):
        run("check", "nowhere.jsonl")


@pytest.mark.parametrize("command", ["list", "show", "check"])
def test_every_command_shows_an_example(command: str) -> None:
    assert f"Example: circuitfind tasks {command}" in run(command, "--help").stdout


def test_the_command_imports_neither_torch_nor_transformers_nor_yaml() -> None:
    code = (
        "import sys, circuitfind.cli.tasks; print({'torch', 'transformers', 'yaml'} & set(sys.modules))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.strip()
        == b"set()"
    )
