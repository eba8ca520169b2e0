"""The state of a search on disk: whole or the one before, true to the last bit, and never believed when damaged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors import safe_open

from circuitfind.circuits.graph import Graph
from circuitfind.errors import OutputError
from circuitfind.methods.outcome import Found, nothing_decided
from circuitfind.runs import checkpoint
from circuitfind.runs.checkpoint import (
    LONGEST_SECONDS,
    SAVE_SECONDS,
    Keeper,
    Spent,
    Worker,
    check_same,
    differences,
    encode_state,
    read_state,
)
from circuitfind.runs.folder import STATE_FILE

GRAPH = Graph(2, 2)
IDENTITY = {"task": "ioi", "threshold": 0.1, "model_sha256": "ab" * 32}
SPENT = Spent({"load": 1.5, "search": 20.0}, 10**9, 2)


def some_found(n_tests: int = 3) -> Found:
    """The first receivers' edges decided, with scores that no decimal spells."""
    found = nothing_decided(GRAPH)
    rows = slice(len(GRAPH.receivers) - 2, None)
    found.decided[rows] = ~found.scores[rows].isnan()
    found.scores[rows] += (
        torch.rand(found.scores[rows].shape, generator=torch.Generator().manual_seed(0)).double() / 3
    )
    found.kept[rows] = found.scores[rows] > 0.1
    return replace(found, n_tests=n_tests, n_evaluated=n_tests + 1)


def same(one: Found, other: Found) -> bool:
    bits = [(x.scores.view(torch.int64), x.kept, x.decided) for x in (one, other)]
    counts = [(x.n_tests, x.n_evaluated) for x in (one, other)]
    return all(map(torch.equal, *bits)) and counts[0] == counts[1]


def found_in(folder: Path) -> Found:
    found = Found.from_so_far(read_state(folder).so_far(), GRAPH)
    assert found is not None
    return found


def n_tests_in(folder: Path) -> float:
    return read_state(folder).numbers["n_tests"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder with a state in it."""
    (tmp_path / STATE_FILE).write_bytes(
        encode_state(some_found().to_so_far(), IDENTITY, SPENT, Worker.this())
    )
    return tmp_path


# the file


def test_a_state_survives_its_file_to_the_last_bit(folder: Path) -> None:
    state = read_state(folder)
    assert same(found_in(folder), some_found())
    assert (state.identity, state.spent, state.worker) == (IDENTITY, SPENT, Worker.this())


def test_a_state_is_a_safetensors_file_that_any_reader_opens(folder: Path) -> None:
    with safe_open(folder / STATE_FILE, "pt") as file:
        assert set(file.keys()) == {"kept", "scores", "decided"}
        assert json.loads(file.metadata()["state"])["identity"] == IDENTITY


def test_a_state_cut_off_anywhere_is_told_as_such(folder: Path) -> None:
    whole = (folder / STATE_FILE).read_bytes()
    for length in (0, 5, 8, 100, len(whole) // 2, len(whole) - 1):
        (folder / STATE_FILE).write_bytes(whole[:length])
        with pytest.raises(OutputError, match=r"truncated or damaged.*\n.*--force instead of --resume"):
            read_state(folder)


def test_one_wrong_bit_anywhere_is_told(folder: Path) -> None:
    whole = (folder / STATE_FILE).read_bytes()
    for place in range(0, len(whole), 97):
        data = bytearray(whole)
        data[place] ^= 4
        (folder / STATE_FILE).write_bytes(data)
        try:
            assert same(found_in(folder), some_found()), place  # a space in the head may have become a $
        except OutputError as error:
            assert "damaged" in str(error)


def test_a_state_of_another_version_names_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "VERSION", 3)
    with pytest.raises(OutputError, match=r"is of version 2; this circuitfind reads 3"):
        read_state(folder)


def test_reading_a_state_takes_no_torch(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from circuitfind.runs.checkpoint import read_state;"
        f"print(read_state(Path({str(folder)!r})).numbers['n_tests'], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "3 False\n"


# whose it is


def test_what_differs_is_named_and_a_hash_by_its_beginning() -> None:
    now = {"task": "ioi", "threshold": 0.2, "model_sha256": "cd" * 32, "seed": 1}
    assert differences(IDENTITY, now) == [
        "threshold 0.1 (now 0.2)",
        "model_sha256 abababababab... (now cdcdcdcdcdcd...)",
    ]
    with pytest.raises(
        OutputError, match=r"runs/a is a run of something else: threshold 0\.1 \(now 0\.2\), model"
    ):
        check_same(Path("runs/a"), IDENTITY, now)
    check_same(Path("runs/a"), IDENTITY, {"task": "ioi"})


def test_another_process_is_at_work_as_long_as_it_lives() -> None:
    assert not Worker.this().is_another_at_work()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        worker = replace(Worker.this(), pid=child.pid, began=psutil.Process(child.pid).create_time())
        assert worker.is_another_at_work()
        assert not replace(worker, began=1.0).is_another_at_work()  # an older process of the same number
        assert not replace(worker, host="elsewhere").is_another_at_work()
        child.kill()
    assert not worker.is_another_at_work()


# keeping it


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(checkpoint, "time", clock)
    return clock


def keep(folder: Path, is_new: bool = False, force: bool = False) -> tuple[Keeper, list[str]]:
    """A keeper at the start of its search, and what it warns of."""
    warnings: list[str] = []
    keeper = Keeper(folder, is_new, force)
    keeper.start(IDENTITY, lambda: SPENT, warnings.append)
    return keeper, warnings


def test_a_search_that_ends_soon_leaves_nothing(tmp_path: Path, clock: Clock) -> None:
    keeper, _ = keep(tmp_path / "run")
    clock.now += SAVE_SECONDS / 2
    keeper.save(some_found().to_so_far())
    keeper.finish()
    assert list(tmp_path.iterdir()) == [] and not keeper.can_resume


def test_a_state_is_at_most_a_minute_old(tmp_path: Path, clock: Clock) -> None:
    keeper, _ = keep(tmp_path / "run")
    for n_tests in range(200):
        clock.now += 1.0
        keeper.save(some_found(n_tests).to_so_far())
        if clock.now > SAVE_SECONDS:
            assert n_tests - n_tests_in(tmp_path / "run") <= SAVE_SECONDS <= 60
    keeper.finish()
    assert n_tests_in(tmp_path / "run") == 199


def test_a_state_that_takes_long_to_save_is_saved_less_often_but_every_minute(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, saved = checkpoint.write, []

    def slow(folder: Path, name: str, content: bytes) -> Path:
        saved.append(clock.now)
        clock.now += seconds
        return original(folder, name, content)

    monkeypatch.setattr(checkpoint, "write", slow)
    for seconds, expected in ((0.1, SAVE_SECONDS), (2.0, 40.0), (30.0, LONGEST_SECONDS)):
        keeper, _ = keep(tmp_path / str(seconds))
        saved.clear()
        while len(saved) < 3:
            clock.now += 0.5
            keeper.save(some_found().to_so_far())
        assert saved[2] - saved[1] == pytest.approx(seconds + expected, abs=1.0)


def test_a_failed_run_leaves_what_it_rescues_and_nothing_to_go_on_with(folder: Path) -> None:
    keeper = Keeper(folder, state=read_state(folder))
    keeper.start(IDENTITY, lambda: SPENT, print)
    assert keeper.can_resume
    assert keeper.rescue("scores.safetensors", b"scores") == folder / "scores.safetensors"
    keeper.finish()
    assert not keeper.can_resume and [path.name for path in folder.iterdir()] == ["scores.safetensors"]


def test_what_is_kept_does_not_change_with_the_search(tmp_path: Path, clock: Clock) -> None:
    keeper, _ = keep(tmp_path / "run")
    found = some_found()
    keeper.save(found.to_so_far())
    found.kept[:], found.scores[:] = True, 9.0
    keeper.save_now()
    assert same(found_in(tmp_path / "run"), some_found())


def test_a_search_that_goes_on_says_at_once_whose_it_is(folder: Path) -> None:
    left = replace(read_state(folder), worker=Worker("elsewhere", 1, 1.0))
    keeper = Keeper(folder, state=left)
    start = keeper.start(IDENTITY, lambda: replace(SPENT, sittings=3), print)
    assert start is not None
    found = Found.from_so_far(start, GRAPH)
    assert found is not None and same(found, some_found())
    assert read_state(folder).worker == Worker.this() and read_state(folder).spent.sittings == 3


def test_a_search_of_something_else_does_not_go_on_and_changes_nothing(folder: Path) -> None:
    before = (folder / STATE_FILE).read_bytes()
    with pytest.raises(OutputError, match=r"threshold 0\.1 \(now 0\.2\)"):
        Keeper(folder, state=read_state(folder)).start(
            IDENTITY | {"threshold": 0.2}, lambda: SPENT, print
        )
    assert (folder / STATE_FILE).read_bytes() == before


def test_a_new_folder_is_another_where_a_run_of_the_same_second_took_its_name(tmp_path: Path) -> None:
    first, second = (keep(tmp_path / "run", is_new=True)[0] for _ in range(2))
    for keeper in (first, second):
        keeper.save(some_found().to_so_far())
        keeper.save_now()
    assert [first.folder.name, second.folder.name] == ["run", "run-2"]
    assert first.can_resume and second.can_resume


def test_a_full_disk_is_told_once_and_the_last_state_stays(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper, warnings = keep(tmp_path)

    def save(n_tests: int) -> None:
        clock.now += 2 * SAVE_SECONDS
        keeper.save(some_found(n_tests).to_so_far())

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    save(1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        save(2)
        save(3)
    assert (
        len(warnings) == 1
        and "can't be saved" in warnings[0]
        and "No space left on device" in warnings[0]
    )
    assert n_tests_in(tmp_path) == 1 and [path.name for path in tmp_path.iterdir()] == [STATE_FILE]
    save(4)
    assert n_tests_in(tmp_path) == 4 and len(warnings) == 1


def test_a_lost_folder_is_told_and_not_made_again(tmp_path: Path, clock: Clock) -> None:
    keeper, warnings = keep(tmp_path / "run")
    clock.now += 2 * SAVE_SECONDS
    keeper.save(some_found().to_so_far())
    (tmp_path / "run" / STATE_FILE).unlink()
    (tmp_path / "run").rmdir()
    clock.now += 2 * SAVE_SECONDS
    keeper.save(some_found().to_so_far())
    assert (
        len(warnings) == 1
        and "No such file or directory" in warnings[0]
        and str(tmp_path / "run") in warnings[0]
    )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_filled_meanwhile_is_left_alone(tmp_path: Path, clock: Clock) -> None:
    keeper, warnings = keep(tmp_path / "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    clock.now += 2 * SAVE_SECONDS
    keeper.save(some_found().to_so_far())
    assert len(warnings) == 1 and "is not empty" in warnings[0]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("moment", ["flush", "replace"])
def test_a_kill_while_the_state_is_written_leaves_the_one_before(
    moment: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Nothing of the program runs afterwards."""

    def kill(*_: object) -> None:
        raise Killed

    keeper, _ = keep(folder, force=True)
    keeper.save(some_found(9).to_so_far())
    with monkeypatch.context() as patch:
        patch.setattr(*((os, "fsync") if moment == "flush" else (Path, "replace")), kill)
        with pytest.raises(Killed):
            keeper.save_now()
    assert n_tests_in(folder) == 3
