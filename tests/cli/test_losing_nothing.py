"""No command writes over what the user has, whatever it is called and however it is asked to."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from circuitfind.cli.app import call

RUN = "run ioi --model tiny --prompts 4 --threshold 1.0 --format dot"
FOREIGN = (
    "report.md",
    "report.json",
    "sweep.md",
    "sweep.json",
    "curve.png",
    "circuit.svg",
    "search.safetensors",
)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ran") / "run"
    assert call([*RUN.split(), "--out", str(folder)], debug=False) == 0
    return folder


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ran") / "scored"
    command = "run ioi --model tiny --prompts 4 --method eap --edges 20 --format dot -q --out"
    assert call([*command.split(), str(folder)], debug=False) == 0
    return folder


@pytest.fixture
def here(ran: Path, scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a run in ``run`` and files of the user's that are called as a run's are."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ran, "run")
    lines = Path("run/prompts.jsonl").read_text().splitlines()
    Path("prompts.jsonl").write_text("\n".join(lines * 12) + "\n")
    for name in FOREIGN:
        Path(name).write_text("mine")
    shutil.copytree(scored, "scored")
    Path("link.json").symlink_to("run/circuit.json")
    assert call(["export", "run", "--format", "eap-ig-json", "--out", "theirs.json"], debug=False) == 0
    return tmp_path


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("evaluate run --out run --force", "report.md"),
        ("evaluate run/circuit.json --out run --force", "report.md"),
        ("evaluate run --out . --force", "curve.png"),
        ("run prompts.jsonl --model tiny --prompts 4 --threshold 1.0 --out . --force", "prompts.jsonl"),
        (f"{RUN} --out . --force", "prompts.jsonl"),
        (
            "run run/prompts.jsonl --model tiny --prompts 2 --threshold 1.0 --out run --force",
            "prompts.jsonl",
        ),
        ("sweep ioi --model tiny --prompts 4 --threshold 1.0,2.0 --out . --force", "search.safetensors"),
        ("check run --evaluate-only --junit run/circuit.json", "circuit.json"),
        ("check run --evaluate-only --junit run/run.json", "run.json"),
        ("check run --evaluate-only --junit report.md", "report.md"),
        ("export run --format dot --out run/circuit.json --force", "circuit.json"),
        ("export run/circuit.json --format eap-ig-json --out link.json --force", "link.json"),
        ("export run/circuit.json --format dot --out run/prompts.jsonl --force", "prompts.jsonl"),
        ("diff run run --dot run/scores.safetensors --force", "scores.safetensors"),
        ("view run --no-model --out run/run.json --force --no-open", "run.json"),
        ("import theirs.json --out theirs.json --force", "theirs.json"),
        ("import run/prompts.jsonl --out run/prompts.jsonl --force", "prompts.jsonl"),
        ("submit mib run=scored --out . --force", "circuit.json"),
        ("submit mib scored=scored --out . --force", "circuit.json"),
    ],
)
def test_nothing_of_the_users_is_written_over(
    command: str, names: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(here)
    capsys.readouterr()
    assert call(command.split(), debug=False) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("error: ") and names in said[0] and len(said) <= 2
    assert contents(here) == before


@pytest.mark.parametrize("name", FOREIGN)
def test_a_forced_run_leaves_what_it_does_not_write(name: str, here: Path) -> None:
    (folder := here / "new").mkdir()
    (folder / name).write_text("mine")
    code = call([*RUN.split(), "--out", "new", "--force"], debug=False)
    assert code == (2 if name in ("report.md", "search.safetensors") else 0)
    assert (folder / name).read_text() == "mine"


def test_a_report_of_check_is_replaced_by_the_next(here: Path) -> None:
    for _ in range(2):
        assert call(["check", "run", "--evaluate-only", "--junit", "ci.xml", "--quiet"], debug=False) == 0
    assert "testsuite" in Path("ci.xml").read_text()
