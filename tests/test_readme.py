"""What the README and docs/ say is so: every command and every example in them is run, every file they name exists."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from circuitfind.models.architectures.table import FAMILIES

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCUMENTS = sorted([README, *ROOT.glob("docs/*.md")])
BLOCK = re.compile(
    r"(?P<before>[^\n]*)\n\n```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
SAVED = re.compile(r"[Ss]ave as `(?P<name>[\w.-]+)`")
SHOWN_ONLY = ("text",)
PRETRAINED = "smollm2-135m"
QUICK = {
    "tiny",
    "--help",
    "methods",
    "models list",
    "tasks list",
    "tasks check",
    "tasks show",
    "export",
    "import",
}
QUICK |= {
    "known list",
    "known show",
    "known compare",
    "bench truth",
    "evaluate",
    "diff",
    "check",
    "show",
    "view",
}


@dataclass(frozen=True)
class Step:
    """One thing that a reader does: runs a command or some Python, or saves a file."""

    kind: str  # make, quick, pretrained, python, file or shown
    text: str
    name: str = ""


def steps_of(document: Path) -> list[Step]:
    """What the document's blocks ask for, in order. Raises ValueError for a block or command that no rule covers."""
    steps = []
    for block in BLOCK.finditer(document.read_text(encoding="utf-8")):
        saved, kind, text = SAVED.search(block["before"]), block["kind"], block["text"]
        if saved:
            steps.append(Step("file", text, saved["name"]))
        elif kind == "sh":
            steps += [Step(kind_of(line), line) for line in text.splitlines() if line]
        elif kind == "python":
            steps.append(Step("python", text))
        elif kind not in SHOWN_ONLY:
            raise ValueError(f"{document.name}: no rule for a block of {kind}")
    return steps


def kind_of(command: str) -> str:
    """How a command is tested. Raises ValueError if it is not."""
    program, *arguments = shlex.split(command)
    if program == "make" and len(arguments) == 1:
        return "make"
    if program == "circuitfind":
        if PRETRAINED in arguments:
            return "pretrained"
        if {*arguments, " ".join(arguments[:2])} & QUICK:
            return "quick"
    raise ValueError(f"no rule says how to test the command: {command}")


READER = """
import json, shlex, sys
from pathlib import Path
from typer.testing import CliRunner
from circuitfind.cli.app import app

for kind, text, name in json.load(sys.stdin):
    if kind == "file":
        Path(name).write_text(text, encoding="utf-8")
    elif kind == "python":
        exec(compile(text, "example", "exec"), {"__name__": "example"})
    else:
        result = CliRunner().invoke(app, shlex.split(text)[1:], catch_exceptions=False)
        assert result.exit_code == 0, f"{text}: {result.output}"
        print(result.stdout)
"""
"""Does what a reader would, one step after the other; one process, because a command's imports take seconds."""


def follow(steps: list[Step], folder: Path) -> str:
    """Does the steps in ``folder``; returns what was printed."""
    done = subprocess.run(
        [sys.executable, "-c", READER],
        input=json.dumps([(step.kind, step.text, step.name) for step in steps]),
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def targets() -> set[str]:
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(document, marks=[] if document == README else pytest.mark.slow)
        for document in DOCUMENTS
    ],
    ids=lambda document: document.name,
)
def test_every_command_and_example_works_in_order(document: Path, tmp_path: Path) -> None:
    steps = [step for step in steps_of(document) if step.kind in ("file", "python", "quick")]
    if steps:
        follow(steps, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_command_for_the_pretrained_model_works(document: Path, tmp_path: Path) -> None:
    steps = [step for step in steps_of(document) if step.kind in ("file", "pretrained")]
    if any(step.kind == "pretrained" for step in steps):
        follow(steps, tmp_path)


@pytest.mark.parametrize(
    "command", ["circuitfind run ioi --model gpt2", "circuitfind run ioi", "pip install x", "make a b"]
)
def test_a_command_that_no_rule_covers_is_told(command: str) -> None:
    with pytest.raises(ValueError, match="no rule"):
        kind_of(command)


def test_every_fenced_block_is_seen() -> None:
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        assert len(BLOCK.findall(text)) == len(re.findall(r"^```\w+$", text, re.MULTILINE)), document.name


def test_the_summary_shown_is_what_the_command_prints(tmp_path: Path) -> None:
    example = re.search(
        r"```sh\n(circuitfind run [^\n]*)\n```\n\n```text\n(.*?)```", README.read_text(), re.DOTALL
    )
    assert example
    command, shown = example.groups()
    assert follow([Step("quick", command)], tmp_path).startswith(shown)


@pytest.mark.parametrize(
    "document", [*DOCUMENTS, ROOT / "CONTRIBUTING.md"], ids=lambda document: document.name
)
def test_every_file_linked_to_and_every_make_target_named_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []
    assert set(re.findall(r"(?:`|^)make ([\w-]+)", text, re.MULTILINE)) <= targets()


def test_the_page_of_models_names_every_supported_architecture() -> None:
    assert "docs/models.md" in README.read_text(encoding="utf-8")
    text = (README.parent / "docs" / "models.md").read_text(encoding="utf-8")
    assert [name for name in FAMILIES if name not in text] == []


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) < 200


def test_continuous_integration_runs_what_the_readme_names_and_nothing_else() -> None:
    commands = [
        line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("make ")
    ]
    assert commands[0] == "make test"
    assert [command for command in commands if f"`{command}`" not in README.read_text()] == []


@pytest.mark.slow
@pytest.mark.skipif(
    not (ROOT / ".git").exists() or not shutil.which("git"), reason="needs the repository and git"
)
def test_make_demo_in_a_fresh_clone_ends_with_the_summary_and_where_the_picture_lies(
    tmp_path: Path,
) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    # A make inside a make announces its folders in the output; a user's own does not.
    outer = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    environment["CIRCUITFIND_CACHE"] = str(tmp_path / "cache")
    done = subprocess.run(["make", "demo"], cwd=clone, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    *summary, picture, report = done.stdout.splitlines()
    assert any(line.startswith("ioi in smollm2-135m, acdc: a circuit of") for line in summary)
    assert picture.startswith("picture: ") and report.startswith("report: "), done.stdout
    assert (clone / picture.removeprefix("picture: ")).read_text().startswith("<?xml")
    assert (clone / report.removeprefix("report: ").strip()).is_file()
    command = ["make", "--dry-run", "demo"]
    again = subprocess.run(
        command, cwd=clone, env=environment, capture_output=True, text=True, check=True
    )
    assert "pip install" not in again.stdout
