"""What was read from a file reaches no terminal as a command: of a text, of all commands, and of consoles."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitfind.circuits.circuit import Circuit
from circuitfind.cli.app import call
from circuitfind.cli.terminal import Printed, TerminalProgress, behind, make_console, printing
from circuitfind.export.formats.notebook import circuit_to_line
from circuitfind.files.printable import encodable, printable

OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
TITLE, RED, C1, TURN = "\x1b]0;owned\x07", "\x1b[31m", "\x9b31m", "\u202eevil\u2069"
HOSTILE = f"{TITLE}{RED}[red]{C1}{TURN}:smile:\x7f\r\x08"


class Terminal(io.StringIO):
    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ioi\n::set-output name=a::b", "ioi\n\\u003a:set-output name=a::b"),
        (" \t ::error::x", " \t \\u003a:error::x"),
        ("\n\n ::stop-commands::x", "\n\n \\u003a:stop-commands::x"),
        ("a ##[error]x", "a \\u0023#[error]x"),
        ("std::vector, a::b, ::", "std::vector, a::b, ::"),
    ],
)
def test_no_line_is_a_command_to_a_ci_system(text: str, shown: str) -> None:
    stream = io.StringIO()
    print(text, file=Printed(stream))
    assert stream.getvalue() == shown + "\n"
    assert json.loads(printable(json.dumps([text]))) == [text]


@given(st.text() | st.text(st.sampled_from("#[:\n\t a")))
def test_nothing_that_a_terminal_obeys_is_left_and_all_else_is_as_it_was(text: str) -> None:
    shown = printable(text)
    assert not OBEYED.search(shown)
    assert not any(line.lstrip().startswith("::") or "##[" in line for line in shown.split("\n"))
    plain = re.sub(r"\\u003a(?=:)", ":", re.sub(r"\\u0023(?=#\[)", "#", shown))
    if "\\u00" not in text:
        assert plain == "".join(f"\\u{ord(x):04x}" if OBEYED.match(x) else x for x in text)
    assert printable(shown) == shown


@given(st.text(st.characters(codec="utf-8")))
def test_a_json_document_stays_the_same_document(text: str) -> None:
    assert json.loads(printable(json.dumps({text: [text]}, ensure_ascii=False))) == {text: [text]}


@given(st.text(), st.sampled_from(["ascii", "latin-1", "utf-8", "cp437"]))
def test_what_an_encoding_lacks_is_spelled_out(text: str, encoding: str) -> None:
    shown = encodable(text, encoding)
    assert shown.encode(encoding).decode(encoding) == shown
    assert json.loads(f'"{encodable("é漢😀", encoding)}"') == "é漢😀"


def test_a_console_prints_its_own_codes_and_texts_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.table import Table
    from rich.text import Text

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    table = Table()
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    for shown in (HOSTILE, Text(HOSTILE, style="bold red"), table):
        make_console(stream).print(shown)
    codes = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    assert "\x1b[1;31m" in stream.getvalue()
    assert "\x1b[31m[red]" not in stream.getvalue()
    assert not OBEYED.search(codes)
    assert codes.count("\\u001b]0;owned\\u001b[31m[red]") == 4  # the table has it twice; rich drops BEL
    assert codes.count(":smile:") >= 2
    assert "\U0001f604" not in codes


def test_progress_on_a_terminal_and_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        with printing(), TerminalProgress() as progress:
            progress.stage(f"loading {HOSTILE}")
            progress.update(1, 2, HOSTILE)
            progress.warn(HOSTILE)
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", stream.getvalue())
        assert "warning: \\u001b]0;owned" in plain
        assert "\x1b[31m" not in stream.getvalue()
        assert not OBEYED.search(plain)


def test_streams_are_as_before_afterwards_and_one_that_was_closed_stays_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", None)
    with printing():
        print(RED)
        assert isinstance(sys.stdout, Printed)
        assert behind(sys.stdout) is stream
    assert (sys.stdout, sys.stderr) == (stream, None)
    assert stream.getvalue() == "\\u001b[31m\n"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run whose names are full of escape sequences, and such prompts."""
    folder = tmp_path_factory.mktemp("hostile")
    arguments = ["--model", "tiny", "--prompts", "2", "--threshold", "0.05", "--format", "dot", "-q"]
    assert call(["run", "ioi", *arguments, "--out", str(folder / "run")], debug=False) == 0
    file = folder / "run/circuit.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    data["method"] |= {"name": HOSTILE}
    data["task"] |= {"name": HOSTILE}
    data["model"] |= {"name": HOSTILE, "architecture": HOSTILE}
    file.write_text(json.dumps(data), encoding="utf-8")
    pair = {"clean": HOSTILE, "corrupted": HOSTILE + "x", "answers": [HOSTILE], "wrong_answers": [RED]}
    (folder / "prompts.jsonl").write_text(json.dumps(pair) + "\n", encoding="utf-8")
    (folder / "other.jsonl").write_text(json.dumps({HOSTILE: 1}) + "\n", encoding="utf-8")
    (folder / "bad.json").write_text(json.dumps({**data, "edges": {HOSTILE: 1.0}}), encoding="utf-8")
    task = {"name": "t", "title": HOSTILE, "paper": HOSTILE, "prompts": [pair]}
    (folder / "task.yaml").write_text(json.dumps(task), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "tasks show prompts.jsonl",
        "tasks show prompts.jsonl --json",
        "tasks show task.yaml",
        "tasks show prompts.jsonl --model tiny",
        "tasks check prompts.jsonl --model tiny",
        "tasks check other.jsonl",
        "check run",
        "check run --task ioi --model tiny",
        "check run --json",
        "evaluate run",
        "view run --no-open --force",
        "show run",
        "show run --json",
        "show bad.json",
        "diff run run",
        "diff run run --json",
        "known show run/circuit.json",
        "known show run/circuit.json --json",
        "known compare run run",
        "known list --folder run",
        "export run --format dot --out -",
        "export run --format tikz --out -",
        "export run --format mermaid --out -",
        "export run --format html --out -",
        "submit mib run --out mib",
        "import bad.json --force",
        "run task.yaml --model tiny",
        f"run {RED}",
        f"run ioi --model {RED}",
        f"{RED}",
    ],
)
def test_no_command_prints_what_a_terminal_obeys(
    command: str,
    hostile: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = Path(shutil.copytree(hostile, tmp_path / "here"))
    monkeypatch.chdir(folder)
    arguments = command.split(" ")
    call(arguments, debug=False)
    printed = capfd.readouterr()
    assert printed.out + printed.err
    assert "fault in circuitfind" not in printed.err
    for text in (printed.out, printed.err):
        assert not OBEYED.search(text), text


def test_markup_and_emoji_in_a_prompt_are_printed_as_they_are(
    hostile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["tasks", "show", str(hostile / "prompts.jsonl")], debug=False) == 0
    assert "[red]" in (said := capsys.readouterr().out) and ":smile:" in said
    assert call(["show", str(hostile / "run")], debug=False) == 0
    assert "[red]" in (said := capsys.readouterr().out) and ":smile:" in said


@pytest.mark.parametrize("format", ["graphml", "gexf", "dot"])
def test_a_file_for_a_program_is_spelled_out_on_a_terminal_alone(
    format: str, hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: Any
) -> None:
    export = ["export", str(hostile / "run"), "--format", format, "--out"]
    assert call([*export, str(tmp_path / "file")], debug=False) == 0
    capfdbinary.readouterr()
    assert call([*export, "-"], debug=False) == 0
    assert capfdbinary.readouterr().out == (tmp_path / "file").read_bytes()
    monkeypatch.setattr(sys, "stdout", stream := Terminal())
    assert call([*export, "-"], debug=False) == 0
    assert stream.getvalue() and not OBEYED.search(stream.getvalue())


def test_ipython_gets_a_line_without_them(hostile: Path) -> None:
    assert not OBEYED.search(circuit_to_line(Circuit.load(hostile / "run")))


def test_an_ascii_terminal_gets_other_letters_spelled_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = {"clean": "é 漢 😀", "corrupted": "e 漢 😀", "answers": ["a"], "wrong_answers": ["b"]}
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps(pair), encoding="utf-8")
    stream: Any = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert call(["tasks", "show", str(file)], debug=False) == 0
    stream.flush()
    assert b"\\u00e9 \\u6f22 \\ud83d\\ude00" in stream.buffer.getvalue()
