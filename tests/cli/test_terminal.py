"""What progress looks like on a terminal, in a log, and with --quiet."""

from __future__ import annotations

import io
import re

import pytest

from circuitfind.cli import terminal
from circuitfind.cli.terminal import LIFE_SECONDS, TerminalProgress


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(terminal, "time", clock)
    return clock


def written(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> io.StringIO:
    monkeypatch.setattr("sys.stderr", stream)
    return stream


def test_a_log_holds_one_line_a_stage(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    stream = written(monkeypatch, io.StringIO())
    with TerminalProgress() as progress:
        progress.stage("loading tiny")
        progress.update(1, 2, "half of it")
        progress.stage("drawing")
    assert stream.getvalue() == "loading tiny\ndrawing\n"


def test_a_long_stage_shows_in_a_log_that_it_lives(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    stream = written(monkeypatch, io.StringIO())
    with TerminalProgress() as progress:
        progress.stage("acdc")
        for done in range(100):
            clock.now += LIFE_SECONDS / 10
            progress.update(done, 200, f"{done} tests")
    lines = stream.getvalue().splitlines()
    assert lines[:3] == ["acdc", "  4% done, 9 tests", "  10% done, 19 tests"] and len(lines) == 11


def test_a_total_of_nothing_is_no_fault(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    stream = written(monkeypatch, io.StringIO())
    with TerminalProgress() as progress:
        clock.now = LIFE_SECONDS
        progress.update(1000, 0)
    assert stream.getvalue() == "  1,000 done\n"


def test_a_warning_is_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = written(monkeypatch, io.StringIO())
    with TerminalProgress() as progress:
        progress.warn("the model [/b] fails")
    assert stream.getvalue() == "warning: the model [/b] fails\n"


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_quiet_silences_all_but_warnings(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    written(monkeypatch, stream)
    with TerminalProgress(quiet=True) as progress:
        progress.stage("loading")
        clock.now += 2 * LIFE_SECONDS
        progress.update(1, 2)
        progress.warn("beware")
    assert stream.getvalue() == "warning: beware\n"


def test_a_terminal_keeps_every_line_and_draws_a_bar_with_the_time_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    stream = written(monkeypatch, Terminal())
    with TerminalProgress() as progress:
        progress.stage("accuracy 100% [bold]")
        progress.update(1, 4, "7 edges kept")
        progress.warn("beware")
        bar = progress._bar
        assert bar is not None
        bar.refresh()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "accuracy 100% [bold]\n" in plain and "warning: beware\n" in plain
    assert re.search(r"25% +7 edges kept", plain)
