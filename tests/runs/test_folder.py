"""The folder of a run: nothing is overwritten unasked, and every file is whole or absent."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from circuitfind.errors import OutputError
from circuitfind.files.json_file import json_file
from circuitfind.runs.folder import (
    RUN_FILES,
    check_free,
    complete,
    default_folder,
    next_free,
    write,
    write_run,
)

FILES = {"circuit.json": "{}\n", "scores.safetensors": b"\x00\xff"}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


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
    assert contents(tmp_path / "a" / "run") == {
        "circuit.json": b"{}\n",
        "scores.safetensors": b"\x00\xff",
    }


def test_a_folder_that_holds_something_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for attempt in (
        lambda: check_free(tmp_path, force=False),
        lambda: write_run(tmp_path, FILES, force=False),
    ):
        with pytest.raises(OutputError, match=r"is not empty\. Give another --out, or --force"):
            attempt()
    assert contents(tmp_path) == {"notes.txt": b"mine"}


RECORD = json_file({"command": {"formats": ["svg"]}})


def a_run(folder: Path, **more: str) -> None:
    """A run's folder, its files as ``write_run`` leaves them."""
    files = {"circuit.json": "old", "circuit.png": "old", "report.md": "old"}
    write_run(folder, {**files, **more, "run.json": RECORD}, force=True)


def test_force_replaces_the_run_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    a_run(tmp_path)
    write_run(tmp_path, {"circuit.json": "new", "run.json": RECORD}, force=True)
    assert contents(tmp_path).keys() == {"notes.txt", "circuit.json", "run.json"}
    assert (tmp_path / "circuit.json").read_text() == "new" and (
        tmp_path / "notes.txt"
    ).read_text() == "mine"


def test_the_record_names_every_file_by_its_hash(tmp_path: Path) -> None:
    a_run(tmp_path)
    written = json.loads((tmp_path / "run.json").read_text())["files"]
    assert written == {
        name: sha256(b"old").hexdigest() for name in ("circuit.json", "circuit.png", "report.md")
    }


@pytest.mark.parametrize("name", sorted(RUN_FILES - {"run.json"}))
@pytest.mark.parametrize("has_run", [False, True])
def test_a_file_that_no_record_names_is_never_replaced_whatever_it_is_called(
    name: str, has_run: bool, tmp_path: Path
) -> None:
    if has_run:
        write_run(tmp_path, {"run.json": RECORD}, force=True)
    (tmp_path / name).write_text("mine")
    before = contents(tmp_path)
    for attempt in (
        lambda: check_free(tmp_path, True, [name]),
        lambda: write_run(tmp_path, {name: "new", "run.json": RECORD}, force=True),
    ):
        with pytest.raises(OutputError, match=rf"{re.escape(name)} is not as this command left it there"):
            attempt()
    assert contents(tmp_path) == before


def test_a_file_that_was_changed_since_it_was_written_is_never_replaced_or_removed(
    tmp_path: Path,
) -> None:
    a_run(tmp_path)
    (tmp_path / "report.md").write_text("old, and my notes")
    with pytest.raises(OutputError, match=r"report\.md is not as this command left it"):
        a_run(tmp_path)
    write_run(tmp_path, {"circuit.json": "new", "run.json": RECORD}, force=True)
    assert contents(tmp_path).keys() == {"circuit.json", "run.json", "report.md"}


def test_what_another_command_wrote_is_not_this_ones_to_replace(tmp_path: Path) -> None:
    a_run(tmp_path)
    before = contents(tmp_path)
    report = json_file({"format": "circuitfind.evaluation"})
    with pytest.raises(OutputError, match=r"report\.md is not as this command left it"):
        write_run(tmp_path, {"report.md": "how good", "report.json": report}, force=True)
    assert contents(tmp_path) == before


def test_a_run_from_before_records_named_files_can_be_replaced(tmp_path: Path) -> None:
    for name in ("circuit.json", "circuit.svg", "report.md"):
        (tmp_path / name).write_text("old")
    (tmp_path / "circuit.png").write_text("mine")  # the record has no such format
    (tmp_path / "run.json").write_text(RECORD)
    write_run(tmp_path, {"circuit.json": "new", "run.json": RECORD}, force=True)
    assert contents(tmp_path).keys() == {"circuit.json", "run.json", "circuit.png"}


@pytest.mark.parametrize("names", [["../other.txt"], ["/etc/hosts"], ["notes.txt"], ["sub/x"], 3, None])
def test_a_record_that_names_other_files_removes_none_of_them(names: object, tmp_path: Path) -> None:
    (folder := tmp_path / "run").mkdir()
    for path in (tmp_path / "other.txt", folder / "notes.txt"):
        path.write_text("mine")
    mine = sha256(b"mine").hexdigest()
    files = dict.fromkeys(names, mine) if isinstance(names, list) else names
    (folder / "run.json").write_text(json_file({"command": {}, "files": files}))
    write_run(folder, {"circuit.json": "new", "run.json": RECORD}, force=True)
    assert (tmp_path / "other.txt").read_text() == (folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("link", ["hard", "soft", "none"])
def test_an_input_of_the_command_is_never_written_over(link: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine.jsonl"
    a_run(tmp_path / "run", **{"prompts.jsonl": "48 rows"})
    if link == "none":
        mine = tmp_path / "run" / "prompts.jsonl"
    elif link == "hard":
        mine.hardlink_to(tmp_path / "run" / "prompts.jsonl")
    else:
        mine.symlink_to(tmp_path / "run" / "prompts.jsonl")
    with pytest.raises(OutputError, match=r"prompts\.jsonl is what this command reads"):
        check_free(tmp_path / "run", True, RUN_FILES, inputs=[mine])
    with pytest.raises(OutputError, match=r"circuit\.json is what this command reads"):
        check_free(tmp_path / "run", True, RUN_FILES, inputs=[tmp_path / "run"])


def full_disk(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """No room is left when so many files have been written."""
    n_left, original = after, os.fsync

    def fsync(descriptor: int) -> None:
        nonlocal n_left
        if n_left == 0:
            raise OSError(28, "No space left on device")
        n_left -= 1
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("after", range(4))
def test_a_full_disk_leaves_the_older_run_whole(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    a_run(tmp_path)
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        full_disk(patch, after)
        with pytest.raises(OutputError, match="No space left on device"):
            write_run(
                tmp_path,
                {"circuit.json": "new", "run.json": RECORD},
                force=True,
                more=lambda place: {"circuit.html": b"new"},
            )
    assert contents(tmp_path) == before
    with monkeypatch.context() as patch:
        full_disk(patch, after % 2)
        with pytest.raises(OutputError, match="No space left on device"):
            write_run(tmp_path / "fresh", {"circuit.json": "new", "run.json": RECORD}, force=False)
    assert not (tmp_path / "fresh").exists()


class Killed(BaseException):
    """Nothing of the program runs afterwards, as far as a test can have it."""


@pytest.mark.parametrize("after", range(12))
def test_a_kill_at_any_moment_leaves_the_older_run_or_a_newer_one_that_is_ended_later(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_run(tmp_path)
    (tmp_path / "search.safetensors").write_bytes(b"")
    before, n_left = contents(tmp_path), after

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **named: Any) -> Any:
            nonlocal n_left
            if n_left == 0:
                raise Killed
            n_left -= 1
            return original(*arguments, **named)

        return step

    with monkeypatch.context() as patch:
        for name in ("replace", "rename", "unlink", "rmdir", "mkdir"):
            patch.setattr(Path, name, counted(getattr(Path, name)))
        patch.setattr(
            "circuitfind.runs.folder.discard", lambda folder, is_new: None
        )  # nothing runs after a kill
        with contextlib.suppress(Killed):
            write_run(tmp_path, {"circuit.json": "new", "run.json": RECORD}, force=True)
    began = (tmp_path / ".circuitfind" / "ready").is_dir()
    if not began and "circuit.png" in contents(tmp_path):
        assert {
            name: data for name, data in contents(tmp_path).items() if not name.startswith(".")
        } == before
    complete(tmp_path)
    if (tmp_path / "circuit.json").read_text() == "new":
        assert contents(tmp_path).keys() == {"circuit.json", "run.json"}
    write_run(tmp_path, {"circuit.json": "newer", "run.json": RECORD}, force=True)
    assert contents(tmp_path).keys() == {"circuit.json", "run.json"}


def test_a_link_to_nothing_is_told_before_anything_is_found(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    for place in (tmp_path / "out", tmp_path / "out" / "run"):
        with pytest.raises(OutputError, match=r"out is a link to nothing\. Give another --out\."):
            check_free(place, force=False)


def test_a_nul_in_a_name_is_an_error_of_the_output() -> None:
    with pytest.raises(OutputError, match="null"):
        check_free(Path("a\0b"), force=False)


def test_every_file_that_a_run_leaves_is_known_to_force() -> None:
    assert {
        "circuit.json",
        "scores.safetensors",
        "run.json",
        "prompts.jsonl",
        "report.md",
        "circuit.dot",
    } <= RUN_FILES
    assert {"circuit.svg", "circuit.png", "circuit.pdf"} <= RUN_FILES


@pytest.mark.parametrize("place", ["file", "file/run", "file/a/b/run"])
@pytest.mark.parametrize("force", [False, True])
def test_a_file_in_the_way_is_told_before_and_while_writing(
    place: str, force: bool, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    for attempt in (
        lambda: check_free(tmp_path / place, force),
        lambda: write_run(tmp_path / place, FILES, force),
    ):
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
    with pytest.raises(
        OutputError, match=r"Cannot write .*report\.md: No space left on device\. Free some space"
    ):
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
