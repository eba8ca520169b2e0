"""Links in folders that come from strangers: nothing is read where they lead, and nothing is written there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from circuitfind.circuits.circuit import Circuit
from circuitfind.cli.app import call
from circuitfind.cli.pytest_plugin import circuit_files
from circuitfind.errors import CircuitError, OutputError
from circuitfind.exchange import submission
from circuitfind.export.html.folder import RunFolder
from circuitfind.files.links import file_in, keep_inside, leads_outside, open_new
from circuitfind.prompts.files import load_task
from circuitfind.review.parts import read_assessment
from circuitfind.runs.folder import BESIDE, write

PAIR = {"clean": "a b", "corrupted": "a c", "answers": ["x"], "wrong_answers": ["y"]}


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that scores edges."""
    folder = tmp_path_factory.mktemp("scored") / "run"
    options = [
        "--model",
        "tiny",
        "--prompts",
        "2",
        "--edges",
        "40",
        "--format",
        "dot",
        "-q",
        "--out",
        str(folder),
    ]
    assert call(["run", "ioi", *options], debug=False) == 0
    return folder


@pytest.fixture
def received(scored: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(scored, tmp_path / "received"))


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """What is the user's own."""
    file = tmp_path / "secret"
    file.write_text("mine", encoding="utf-8")
    return file


def lead_out(file: Path) -> Path:
    """Moves the file elsewhere, and leaves a link to it."""
    elsewhere = file.parent.parent / f"elsewhere-{file.name}"
    shutil.move(file, elsewhere)
    file.symlink_to(elsewhere)
    return elsewhere


def test_a_file_is_in_its_folder_whatever_the_folder_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder := tmp_path / "folder").mkdir()
    (folder / "file").write_text("here", encoding="utf-8")
    (tmp_path / "link").symlink_to(folder)
    (folder / "inner").symlink_to("file")
    (folder / "outer").symlink_to("../other")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    (tmp_path / "other").write_text("elsewhere", encoding="utf-8")
    monkeypatch.chdir(folder)
    for place in (folder, tmp_path / "link", Path()):
        assert file_in(place, "file") == place / "file"
        assert file_in(place, "inner") == place / "inner"
        assert file_in(place, "pipe") is file_in(place, "none") is file_in(place, "loop") is None
        with pytest.raises(CircuitError, match="outer is a link to a file outside its folder"):
            file_in(place, "outer")
        assert keep_inside(place / "new", place) == place / "new"
        for name in ("outer", "loop", "../other"):
            assert leads_outside(place / name, place)
            with pytest.raises(OutputError, match="a link leads it out"):
                keep_inside(place / name, place)


def test_a_new_file_takes_the_place_of_a_link_and_not_of_what_it_leads_to(
    tmp_path: Path, secret: Path
) -> None:
    (link := tmp_path / "link").symlink_to(secret)
    with open_new(link) as file:
        file.write(b"new")
    assert (link.read_text(), link.is_symlink(), secret.read_text()) == ("new", False, "mine")


WRITES = {
    "view": (
        ("view", "--no-model", "--no-open", "--force", "-q"),
        (f".circuit.html.{os.getpid()}.part", "circuit.html"),
    ),
    "export": (
        ("export", "--format", "dot", "--force"),
        (f".circuit.dot.{os.getpid()}.part", "circuit.dot"),
    ),
}


@pytest.mark.parametrize("command", WRITES)
def test_no_write_goes_through_a_link(command: str, received: Path, secret: Path) -> None:
    """Neither one under the name that is written, nor under that which a file has while it grows."""
    (name, *options), links = WRITES[command]
    (received / "circuit.dot").unlink()
    for link in links:
        (received / link).parent.mkdir(exist_ok=True)
        (received / link).symlink_to(secret)
    call([name, str(received), *options], debug=False)
    assert secret.read_text(encoding="utf-8") == "mine"


def test_no_file_of_a_run_grows_where_a_link_leads(tmp_path: Path, secret: Path) -> None:
    (tmp_path / ".search.safetensors.partial").symlink_to(secret)
    write(tmp_path, "search.safetensors", b"state")
    assert (tmp_path / "search.safetensors").read_bytes() == b"state"
    assert secret.read_text(encoding="utf-8") == "mine"


def test_a_report_goes_to_no_folder_that_a_link_leads_to(
    received: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (mine := tmp_path / "mine").mkdir()
    for place in (mine, tmp_path / "not there yet"):
        (received / "evaluation").symlink_to(place)
        for force in ((), ("--force",)):
            assert call(["evaluate", str(received), *force, "-q"], debug=False) == 2
            assert "a link leads it out of" in capsys.readouterr().err
        assert not place.exists() or not list(place.iterdir())
        (received / "evaluation").unlink()
    (alone := tmp_path / "evaluation").mkdir()
    assert (
        call(["evaluate", str(received), "--parts", "reference", "--out", str(alone), "-q"], debug=False)
        == 0
    )


def test_what_is_written_beside_first_is_beside(received: Path, tmp_path: Path) -> None:
    """``.circuitfind`` in a received folder may lead to the user's own, which holds ``new`` or ``ready``."""
    for name in ("new", "ready", "lock", "holder.json"):
        (mine := tmp_path / name / name).mkdir(parents=True)
        (mine / "circuit.json").write_text("mine", encoding="utf-8")
        (received / BESIDE).symlink_to(mine.parent)
        run = [
            "run",
            "ioi",
            "--model",
            "tiny",
            "--prompts",
            "2",
            "--edges",
            "40",
            "--format",
            "dot",
            "-q",
            "--force",
        ]
        assert call([*run, "--out", str(received)], debug=False) == 2
        assert (mine / "circuit.json").read_text(encoding="utf-8") == "mine"
        (received / BESIDE).unlink()
    (secret := tmp_path / "secret").write_text("mine", encoding="utf-8")
    for name in ("lock", "holder.json"):
        (received / BESIDE).mkdir()
        (received / BESIDE / name).symlink_to(secret)
        assert call([*run, "--out", str(received)], debug=False) == 2
        assert secret.read_text(encoding="utf-8") == "mine"
        shutil.rmtree(received / BESIDE)


def test_a_report_that_is_gone_on_with_reads_its_pictures_beside_it_alone(
    received: Path, tmp_path: Path
) -> None:
    evaluate = ["evaluate", str(received), "--parts", "curve", "-q"]
    assert call(evaluate, debug=False) == 0
    report = received / "evaluation/report.json"
    victim = Path(shutil.move(received / "evaluation/curve.svg", tmp_path / "curve.svg"))
    data = json.loads(report.read_text(encoding="utf-8"))
    data["files"]["../../curve.svg"] = data["files"].pop("curve.svg")
    for part in data["parts"]:
        part["pictures"] = [name.replace("curve.svg", "../../curve.svg") for name in part["pictures"]]
    report.write_text(json.dumps(data), encoding="utf-8")
    earlier = read_assessment(report.parent, Circuit.load(received))
    assert earlier is not None and [part.name for part in earlier.parts] == ["faithfulness"]
    assert victim.exists()


def test_a_sweep_goes_to_no_folder_that_a_link_leads_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, mine = tmp_path / "sweep", tmp_path / "mine"
    sweep = [
        "sweep",
        "ioi",
        "--model",
        "tiny",
        "--prompts",
        "2",
        "--edges",
        "20,40",
        "--format",
        "dot",
        "-q",
    ]
    assert call([*sweep, "--out", str(folder)], debug=False) == 0
    shutil.move(folder / "edges-40", mine)
    (folder / "edges-40").symlink_to(mine)
    before = {file.name: file.read_bytes() for file in mine.iterdir()}
    for option in ("--resume", "--force"):
        capsys.readouterr()
        assert call([*sweep, "--out", str(folder), option], debug=False) == 2
        assert "a link leads it out of" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in mine.iterdir()} == before


READS: dict[str, tuple[str, Callable[[Path], list[str]]]] = {
    "show": ("circuit.json", lambda run: ["show", str(run)]),
    "diff": ("circuit.json", lambda run: ["diff", str(run), str(run)]),
    "export": ("circuit.json", lambda run: ["export", str(run), "--force"]),
    "export of scores": (
        "scores.safetensors",
        lambda run: ["export", str(run), "--format", "eap-ig-json"],
    ),
    "reference": (
        "circuit.json",
        lambda run: ["evaluate", str(run / "../whole"), "--reference", str(run), "-q"],
    ),
    "known compare": (
        "scores.safetensors",
        lambda run: ["known", "compare", str(run), str(run / "circuit.json")],
    ),
    "known list": ("circuit.json", lambda run: ["known", "list", "--folder", str(run)]),
    "submit": (
        "scores.safetensors",
        lambda run: ["submit", "mib", f"a_b={run}", "--out", str(run.parent / "mib")],
    ),
    "resume": (
        "circuit.json",
        lambda run: [
            "run",
            "ioi",
            "--model",
            "tiny",
            "--threshold",
            "0.05",
            "--out",
            str(run),
            "--resume",
            "-q",
        ],
    ),
}


@pytest.mark.parametrize("command", READS)
def test_no_command_reads_where_a_link_leads(
    command: str, scored: Path, received: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, arguments = READS[command]
    shutil.copytree(scored, received.parent / "whole")
    lead_out(received / name)
    assert call(arguments(received), debug=False) == 2
    assert f"{name} is a link to a file outside its folder" in capsys.readouterr().err


def test_a_state_is_not_read_where_a_link_leads(
    scored: Path, received: Path, secret: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (received / "search.safetensors").symlink_to(secret)
    resume = [
        "run",
        "ioi",
        "--model",
        "tiny",
        "--threshold",
        "0.05",
        "--out",
        str(received),
        "--resume",
        "-q",
    ]
    assert call(resume, debug=False) == 2
    assert "search.safetensors is a link to a file outside its folder" in capsys.readouterr().err


def test_a_page_is_made_without_what_a_link_leads_to(received: Path) -> None:
    circuit = Circuit.load(received)
    assert RunFolder.of(circuit, received).scores is not None
    assert RunFolder.of(circuit, received).prompts()[1] == 2
    for name in ("scores.safetensors", "prompts.jsonl"):
        lead_out(received / name)
    assert RunFolder.of(circuit, received).scores is None
    assert RunFolder.of(circuit, received).prompts() == ([], 0)


def test_pytest_collects_no_circuit_that_a_link_leads_to_and_waits_for_no_pipe(
    scored: Path, received: Path
) -> None:
    assert circuit_files(received) == [received / "circuit.json"]
    (received / "theirs.json").symlink_to(scored / "circuit.json")
    os.mkfifo(received / "pipe.json")
    assert circuit_files(received) == [received / "circuit.json"]


def test_a_submission_is_checked_without_what_a_link_leads_to(received: Path, tmp_path: Path) -> None:
    assert (
        call(["submit", "mib", f"ioi_gpt2={received}", "--out", str(tmp_path / "mib")], debug=False) == 1
    )
    (file,) = (tmp_path / "mib/ioi_gpt2").iterdir()
    shutil.move(file, elsewhere := tmp_path / "elsewhere.json")
    file.symlink_to(elsewhere)
    assert f"ioi_gpt2: {file.name}: it is a link that leads out of the submission" in submission.check(
        tmp_path / "mib"
    )


def test_a_submission_is_packed_into_no_folder_that_a_link_or_a_name_leads_to(
    received: Path, tmp_path: Path
) -> None:
    (mine := tmp_path / "mine").mkdir()
    (mine / "notes.json").write_text("mine", encoding="utf-8")
    (tmp_path / "mib").mkdir()
    (tmp_path / "mib/ioi_gpt2").symlink_to(mine)
    pack = ["submit", "mib", "--out", str(tmp_path / "mib"), "--force"]
    assert call([*pack, f"ioi_gpt2={received}"], debug=False) == 2
    data = json.loads((received / "circuit.json").read_text(encoding="utf-8"))
    data["task"]["name"] = "../mine"
    (received / "circuit.json").write_text(json.dumps(data), encoding="utf-8")
    assert call([*pack, str(received)], debug=False) == 2
    assert [file.read_text(encoding="utf-8") for file in mine.iterdir()] == ["mine"]


@pytest.mark.parametrize("name", ["{folder}/../secret.jsonl", "../secret.jsonl", "link.jsonl"])
def test_a_task_in_yaml_reads_no_prompts_elsewhere(name: str, tmp_path: Path) -> None:
    (folder := tmp_path / "task").mkdir()
    (tmp_path / "secret.jsonl").write_text(json.dumps(PAIR), encoding="utf-8")
    (folder / "link.jsonl").symlink_to(tmp_path / "secret.jsonl")
    (folder / "task.yaml").write_text(
        f"name: t\nprompts_file: {name.format(folder=folder)}\n", encoding="utf-8"
    )
    assert call(["tasks", "check", str(folder / "task.yaml")], debug=False) == 1
    with pytest.raises(Exception, match="is not beside it, and is not read"):
        load_task(str(folder / "task.yaml"))
    shutil.copy(tmp_path / "secret.jsonl", folder / "mine.jsonl")
    (folder / "task.yaml").write_text("name: t\nprompts_file: mine.jsonl\n", encoding="utf-8")
    assert call(["tasks", "check", str(folder / "task.yaml")], debug=False) == 0
