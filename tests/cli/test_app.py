"""The command line as a whole: help, exit codes, and what becomes of an error that nobody expected."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer.main

from circuitfind.cli import tasks
from circuitfind.cli.app import app, call, explain, main
from circuitfind.errors import UsageError

COMMANDS = {
    (): "circuitfind",
    ("run",): "run",
    ("sweep",): "sweep",
    ("evaluate",): "evaluate",
    ("check",): "check",
    ("diff",): "diff",
    ("export",): "export",
    ("import",): "import",
    ("submit",): "submit",
    ("submit", "mib"): "mib",
    ("show",): "show",
    ("view",): "view",
    ("bench",): "bench",
    ("bench", "truth"): "truth",
    ("tasks",): "tasks",
    ("tasks", "list"): "list",
    ("tasks", "show"): "show",
    ("tasks", "check"): "check",
    ("methods",): "methods",
    ("models",): "models",
    ("models", "list"): "list",
    ("models", "pull"): "pull",
    ("known",): "known",
    ("known", "list"): "list",
    ("known", "show"): "show",
    ("known", "compare"): "compare",
}


def python(code: str) -> str:
    """What a fresh Python prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def command(path: tuple[str, ...]) -> Any:
    """The parser of the command that these words name."""
    found: Any = typer.main.get_command(app)
    for name in path:
        found = found.commands[name]
    return found


def all_commands(group: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    below = getattr(group, "commands", {})
    return [
        path,
        *(found for name, inner in below.items() for found in all_commands(inner, (*path, name))),
    ]


def test_the_commands_tested_here_are_all_there_are() -> None:
    assert set(all_commands(command(()))) == set(COMMANDS)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_help_shows_an_example_on_one_line_that_its_parser_takes(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert call([*path, "--help"], debug=False) == 0
    line = next(
        line.strip()
        for line in capsys.readouterr().out.splitlines()
        if line.strip().startswith("Example: ")
    )
    words = shlex.split(line.removeprefix("Example: "))[1:]
    named = next(words[:n] for n in (2, 1) if tuple(words[:n]) in COMMANDS)
    assert tuple(named[: len(path)]) == path
    command(tuple(named)).make_context("circuitfind", words[len(named) :])


def test_no_help_needs_torch() -> None:
    calls = "; ".join(f"call({[*path, '--help']!r}, False)" for path in COMMANDS)
    heavy = "sorted({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    printed = python(f"import sys; from circuitfind.cli.app import call; {calls}; print({heavy})")
    assert printed.splitlines()[-1] == "[]"


@pytest.mark.parametrize("arguments", [[], ["run"], ["export"]])
def test_a_command_without_arguments_shows_its_help(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(arguments, debug=False) == 2
    written = capsys.readouterr()
    assert (
        written.out == ""
        and "Usage: circuitfind" in written.err
        and "Example: circuitfind" in written.err
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "ioi", "--bogus"], "No such option: --bogus"),
        (["run", "--seed", "3"], "Missing argument 'TASK'"),
        (["run", "ioi", "--seed", "many"], "'--seed'"),
        (["rum"], "Did you mean 'run'?"),
    ],
)
def test_what_the_parser_refuses_is_told_in_two_lines(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(arguments, debug=False) == 2
    written = capsys.readouterr()
    assert written.out == "" and says in written.err and len(written.err.splitlines()) == 2


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["--version"], debug=False) == 0
    assert capsys.readouterr().out.startswith("circuitfind 0.")


def test_the_module_is_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "circuitfind", "run", "--no-such-option"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert (
        "error: No such option: --no-such-option" in done.stderr
        and "circuitfind run --help" in done.stderr
    )


# an error that nobody expected


def broken(*_: object) -> None:
    raise ZeroDivisionError("what now")


def test_a_fault_is_two_lines_that_say_how_to_see_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tasks, "builtin_tasks", broken)
    assert call(["tasks", "list"], debug=False) == 2
    written = capsys.readouterr().err
    assert written.startswith("error: ZeroDivisionError: what now\n") and "--debug shows where" in written
    assert len(written.splitlines()) == 2


@pytest.mark.parametrize("arguments", [["--debug", "tasks", "list"], ["tasks", "list", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tasks, "builtin_tasks", broken)
    with pytest.raises(SystemExit) as left:
        main(arguments)
    written = capsys.readouterr().err
    assert left.value.code == 2 and "Traceback" in written and "in broken" in written


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (UsageError("--prompts is 0."), "--prompts is 0."),
        (MemoryError(), "Out of memory\nLower --prompts"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"),
            "Out of memory: Default",
        ),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"), "Out of memory: CUDA"),
        (OSError(28, "No space left on device", "circuit.json"), "No space left on device: circuit.json"),
        (RuntimeError("shapes\nand more"), "RuntimeError: shapes\nThis is a fault in circuitfind"),
    ],
)
def test_an_error_is_told_in_one_or_two_lines(error: Exception, says: str) -> None:
    said = explain(error)
    assert said.startswith(says) and len(said.splitlines()) <= 2


# leaving early


def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "circuitfind", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise there")
def test_ctrl_c_during_a_run_is_one_line_and_130_within_two_seconds(tmp_path: Path) -> None:
    process = start("run", "ioi", "--model", "tiny", "--out", str(tmp_path / "run"))
    assert process.stderr is not None
    assert process.stderr.readline() == "loading tiny\n"
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.splitlines()[-1]) == (130, "", "Interrupted.")
    assert "Traceback" not in err and time.monotonic() - begun < 2
    assert not (tmp_path / "run").exists()


STUCK = """
import threading, time
from concurrent.futures import ThreadPoolExecutor
from circuitfind.cli.interrupt import leaving_soon
with leaving_soon(), ThreadPoolExecutor(2) as pool:
    busy = pool.submit(time.sleep, 30)
    print("busy", flush=True)
    busy.result()
"""


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise there")
def test_ctrl_c_does_not_wait_for_a_thread_that_goes_on() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "busy\n"
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    err = process.communicate(timeout=20)[1]
    assert (process.returncode, err) == (130, "Interrupted.\n") and time.monotonic() - begun < 2


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise there")
def test_ctrl_c_during_the_first_imports_is_no_traceback() -> None:
    code = (
        "import signal, sys\n"
        "from circuitfind.cli.interrupt import leaving_at_once\n"
        "with leaving_at_once():\n    signal.raise_signal(signal.SIGINT)\n    print('still here')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")


@pytest.mark.skipif(os.name == "nt", reason="pipes close otherwise there")
def test_a_reader_that_goes_away_is_no_reason_for_a_message() -> None:
    with start("tasks", "list") as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait(timeout=60) == 2
