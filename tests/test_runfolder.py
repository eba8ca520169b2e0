"""The folder of a run: nothing is overwritten unasked, and every file is whole or absent."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path

import pytest

from circuitfind.errors import OutputError
from circuitfind.runfolder import (
    RUN_FILES,
    check_free,
    default_folder,
    json_file,
    next_free,
    write,
    write_run,
)

FILES = {"circuit.json": "{}\n", "scores.safetensors": b"\x00\xff"}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_that_names_no_folder_goes_below_results() -> None:
    folder = default_folder("ioi", "openai-community/gpt2", "acdc", 3, datetime(2026, 1, 2, 3, 4, 5))
    assert folder == Path("results/ioi/openai-community--gpt2/acdc/20260102-030405-3")


def test_two_runs_of_the_same_second_get_folders_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for expected in ("run", "run-2", "run-3"):
        assert next_free(folder) == tmp_path / expected
        (tmp_path / expected).mkdir()


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()], ids=["absent", "empty"])
def test_a_free_folder_passes_and_is_left_as_it_was(make, tmp_path: Path) -> None:
    make(tmp_path / "run")
    before = sorted(tmp_path.rglob("*"))
    check_free(tmp_path / "run", force=False)
    check_free(tmp_path / "a" / "b" / "run", force=False)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_is_written_with_the_folders_above_it(tmp_path: Path) -> None:
    write_run(tmp_path / "a" / "run", FILES, force=False)
    assert contents(tmp_path / "a" / "run") == {"circuit.json": b"{}\n", "scores.safetensors": b"\x00\xff"}


def test_a_folder_that_holds_something_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for attempt in (lambda: check_free(tmp_path, force=False), lambda: write_run(tmp_path, FILES, force=False)):
        with pytest.raises(OutputError, match=r"is not empty\. Give another --out, or --force"):
            attempt()
    assert contents(tmp_path) == {"notes.txt": b"mine"}


def test_force_replaces_the_run_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    write_run(tmp_path, {"circuit.json": "old", "circuit.png": b"old", "run.json": "old"}, force=True)
    write_run(tmp_path, {"circuit.json": "new"}, force=True)
    assert contents(tmp_path) == {"notes.txt": b"mine", "circuit.json": b"new"}


def test_every_file_that_a_run_leaves_is_known_to_force() -> None:
    assert {"circuit.json", "scores.safetensors", "run.json", "prompts.jsonl", "report.md", "circuit.dot"} <= RUN_FILES
    assert {"circuit.svg", "circuit.png", "circuit.pdf"} <= RUN_FILES


@pytest.mark.parametrize("place", ["file", "file/run", "file/a/b/run"])
@pytest.mark.parametrize("force", [False, True])
def test_a_file_in_the_way_is_told_before_and_while_writing(place: str, force: bool, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for attempt in (lambda: check_free(tmp_path / place, force), lambda: write_run(tmp_path / place, FILES, force)):
        with pytest.raises(OutputError, match=r"Cannot write to .*file.*Give another --out\.") as caught:
            attempt()
        assert str(caught.value).count("\n") == 0
    assert (tmp_path / "file").read_text() == "mine"


def test_a_name_too_long_for_the_disk_is_an_error_of_the_output(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="Give another --out"):
        write_run(tmp_path / ("x" * 5000), FILES, force=False)


def test_a_file_is_whole_or_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "report.md", "old")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OutputError, match=r"Cannot write .*report\.md: No space left on device\. Free some space"):
        write(tmp_path, "report.md", "a new report")
    assert contents(tmp_path) == {"report.md": b"old"}


def test_a_written_file_leaves_nothing_beside_it(tmp_path: Path) -> None:
    assert write(tmp_path, "a.txt", "größer") == tmp_path / "a.txt"
    assert contents(tmp_path) == {"a.txt": "größer".encode()}


def test_a_folder_that_became_a_file_is_an_error_of_the_output(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(OutputError, match="Not a directory"):
        write(tmp_path / "run", "report.md", "x")


def test_half_a_character_is_written_as_json_spells_it(tmp_path: Path) -> None:
    """The name of a model's folder need not be text."""
    path = write(tmp_path, "run.json", json_file({"model": "caf\udce9"}))
    assert json.loads(path.read_text(encoding="utf-8")) == {"model": "caf\udce9"}


def test_a_record_is_json_for_people_and_never_holds_nan() -> None:
    assert json_file({"b": 1, "a": "ö"}) == '{\n  "b": 1,\n  "a": "ö"\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        json_file({"a": float("nan")})
