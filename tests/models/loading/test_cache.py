"""Folders made once: whole or not at all, whoever else is at it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from circuitfind.errors import ModelError
from circuitfind.models.loading.cache import cache_dir, make_once
from circuitfind.progress import Silent


def write(folder: Path) -> None:
    (folder / "file").write_text("content")


def fail(folder: Path) -> None:
    write(folder)
    raise ModelError("half way")


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIRCUITFIND_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.setenv("CIRCUITFIND_CACHE", "")
    assert cache_dir().name == "circuitfind"


def test_a_folder_is_made_once(tmp_path: Path) -> None:
    made = make_once(tmp_path / "deep" / "model", write, Silent())
    assert (made / "file").read_text() == "content"
    assert make_once(made, fail, Silent()) == made


def test_a_folder_that_failed_half_way_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="half way"):
        make_once(tmp_path / "model", fail, Silent())
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_what_a_killed_process_left_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / "model.part").mkdir()
    (tmp_path / "model.part" / "stale").touch()
    made = make_once(tmp_path / "model", write, Silent())
    assert [path.name for path in made.iterdir()] == ["file"]


def test_two_at_once_make_it_once(tmp_path: Path) -> None:
    made: list[Path] = []

    def slowly(folder: Path) -> None:
        made.append(folder)
        time.sleep(0.2)
        write(folder)

    threads = [
        threading.Thread(target=make_once, args=(tmp_path / "model", slowly, Silent())) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert (tmp_path / "model" / "file").read_text() == "content"


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="Set CIRCUITFIND_CACHE"):
        make_once(tmp_path / "file" / "model", write, Silent())
