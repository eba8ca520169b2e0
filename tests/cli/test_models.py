"""circuitfind models, as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from circuitfind.cli.models import app
from circuitfind.errors import ModelError
from circuitfind.models.loading.catalogue import CATALOGUE, DEFAULT_MODEL


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIRCUITFIND_CACHE", str(tmp_path / "cache"))


def run(*arguments: str) -> tuple[str, str]:
    """What the command writes to stdout and stderr."""
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def test_list_shows_every_named_model_on_a_line_of_its_own() -> None:
    lines = run("list")[0].splitlines()
    assert [line.split("\t")[0] for line in lines] == list(CATALOGUE)
    assert "(default)" in next(line for line in lines if line.startswith(DEFAULT_MODEL))


def test_list_says_what_else_can_be_given() -> None:
    assert "Any name TransformerLens knows" in run("list")[1]


def test_models_alone_lists() -> None:
    assert run() == run("list")


def test_list_json_is_one_document_and_nothing_else() -> None:
    written = json.loads(run("list", "--json")[0])
    assert written["default"] == DEFAULT_MODEL
    assert [model["name"] for model in written["models"]] == list(CATALOGUE)
    assert {"about", "size", "licence", "origin", "here"} < written["models"][0].keys()


def test_list_tells_whether_a_model_is_here_already() -> None:
    def here() -> bool:
        models = json.loads(run("list", "--json")[0])["models"]
        return bool(next(model["here"] for model in models if model["name"] == DEFAULT_MODEL))

    assert not here()
    place = CATALOGUE[DEFAULT_MODEL].source.place
    place.mkdir(parents=True)
    (place / "config.json").write_text("{}")
    assert here()


def test_pull_prints_the_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}')
    assert run("pull", str(tmp_path))[0].replace("\n", "") == str(tmp_path)


def test_pull_of_a_model_that_can_not_be_run_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["Qwen3ForCausalLM"]}')
    with pytest.raises(ModelError, match="the architecture Qwen3ForCausalLM is not supported"):
        run("pull", str(tmp_path))


def test_pull_of_an_unknown_model_raises_what_main_prints() -> None:
    with pytest.raises(ModelError, match="Did you mean 'gpt2'"):
        run("pull", "GPT2")


@pytest.mark.parametrize("command", [["--help"], ["list", "--help"], ["pull", "--help"]])
def test_every_help_shows_an_example(command: list[str]) -> None:
    assert "Example: circuitfind models" in run(*command)[0]
