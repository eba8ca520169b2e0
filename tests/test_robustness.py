"""Files that are wrong in every way: each command does its work, or says in a line or two what is wrong."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from benchmarks import robustness
from benchmarks.robustness import KINDS, Kind, changes, failures, judge, make_runs, paths
from circuitfind.circuits.graph import Graph
from circuitfind.cli.app import call

GONE_ON_WITH = "{}.json, of a sweep gone on with"
RUNS_THE_MODEL = ("circuit.json, run again", "run.json", *map(GONE_ON_WITH.format, ("run", "circuit")))
SAMPLE, MANY = 6, 60
"""Inputs of a kind: all of them, some 40,000, take python -m benchmarks.robustness an hour or two."""
MOST_FOR_A_MILLION = 20.0
"""Seconds of a processor that others use too."""
WITHOUT_THE_MODEL = [kind for kind in KINDS if kind.name not in RUNS_THE_MODEL]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small runs, whose files are changed."""
    return make_runs(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("kind", WITHOUT_THE_MODEL, ids=lambda kind: kind.name)
def test_some_wrong_files_of_every_kind_are_read_or_refused_in_a_line(kind: Kind, runs: Path) -> None:
    n_inputs, found = failures(kind, runs, SAMPLE)
    assert n_inputs == SAMPLE
    assert found == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_many_wrong_files_of_every_kind_are_read_or_refused_in_a_line(kind: Kind, runs: Path) -> None:
    n_inputs, found = failures(kind, runs, MANY)
    assert n_inputs >= 50
    assert found == []


def test_changes_reach_every_value_and_leave_the_first_alone() -> None:
    value = {"a": [1, {"b": "x"}], "c": None}
    assert [".".join(map(str, path)) for path in paths(value)] == ["", "a", "a.0", "a.1", "a.1.b", "c"]
    made = dict(changes(value))
    assert made["a.1.b: 0"] == {"a": [1, {"b": 0}], "c": None}
    assert made["a.0: missing"] == {"a": [{"b": "x"}], "c": None}
    assert value == {"a": [1, {"b": "x"}], "c": None}


@pytest.mark.parametrize(
    ("code", "said", "seconds", "fails"),
    [
        (0, "warning: something", 0.1, False),
        (2, "error: what was wrong\nwhat to do\n", 0.1, False),
        (2, "", 0.1, True),
        (
            2,
            "error: TypeError: x\nThis is a fault in circuitfind; --debug shows where. Please report it.\n",
            0.1,
            True,
        ),
        (2, "error: one\ntwo\nthree\n", 0.1, True),
        (2, f"error: it is '{'x' * 1000}'\n", 0.1, True),
        (3, "error: x\n", 0.1, True),
        (2, "error: x\n", 9.0, True),
    ],
)
def test_what_a_command_did_is_judged(code: int, said: str, seconds: float, fails: bool) -> None:
    assert (judge(code, said, seconds) is not None) == fails


def test_a_command_that_fails_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: list[str], debug: bool) -> int:
        raise RecursionError("too deep")

    monkeypatch.setattr(robustness, "call", fail)
    assert "RecursionError: too deep" in str(robustness.try_out(("show", "x")))


# what a file may cost: 5 seconds and 1 GB, to the refusal or to the answer


def test_an_acdc_list_with_a_hundred_thousand_spaces_is_refused_at_once(tmp_path: Path) -> None:
    entry = "(('blocks.1.hook_k_input', [:, :, 0], 'blocks.0.attn.hook_result', [:, :, 1])"
    (tmp_path / "x.txt").write_text(f"[{entry}, 0.5),\n{entry[:-1]}{' ' * 100_000}")
    assert (
        robustness.try_out(
            ("import", str(tmp_path / "x.txt"), "--shape", "2x2", "--out", str(tmp_path / "o"))
        )
        is None
    )


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A circuit of a million edges."""
    graph = Graph(32, 26)
    edges = {
        str(edge): number % 1009 / 1009 - 0.5
        for number, edge in enumerate(islice(graph.edges(), 1_000_000))
    }
    model = {"n_layers": 32, "n_heads": 26, "parallel_attn_mlp": False}
    blocks = {
        "model": model,
        "task": {},
        "method": {},
        "graph": graph.to_dict(),
        "edges": edges,
        "metrics": {},
    }
    file = tmp_path_factory.mktemp("large") / "circuit.json"
    file.write_text(json.dumps({"format": "circuitfind.circuit", "version": 1, **blocks}))
    return file


# The peak is VmHWM, which belongs to the program itself; ru_maxrss begins at the size of the process that started it.
MEASURED_CALL = """
import re, resource, sys
from pathlib import Path
from circuitfind.cli.app import call
code = call(sys.argv[1:], False)
peak = re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]
print(resource.getrusage(resource.RUSAGE_SELF).ru_utime, peak, file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("show", "FILE"),
        ("diff", "FILE", "FILE"),
        ("export", "FILE", "--format", "dot", "--out", "-"),
        ("export", "FILE", "--format", "graphml", "--out", "-"),
        ("view", "FILE", "--no-model", "--no-open", "--force", "--out", "PAGE"),
    ],
    ids=lambda command: " ".join(command[:4]),
)
def test_a_circuit_of_a_million_edges_is_shown_in_seconds_and_within_a_gigabyte(
    command: tuple[str, ...], large: Path
) -> None:
    told = {"FILE": str(large), "PAGE": str(large.with_name("page.html"))}
    words = [sys.executable, "-c", MEASURED_CALL, *(told.get(word, word) for word in command)]
    done = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    seconds, kilobytes = map(float, done.stderr.split()[-2:])
    assert done.returncode == 0
    assert seconds < MOST_FOR_A_MILLION and kilobytes < 1 << 20


def test_check_says_on_stderr_why_it_could_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "circuit.json"
    for text in (
        "{}",
        json.dumps({"format": "circuitfind.circuit", "version": 1, "tolerances": {"kl": "x"}}),
    ):
        file.write_text(text)
        assert call(["check", str(file), "--quiet"], False) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith(f"error: {file}") and printed.err.count("\n") == 1
        assert "could not run" in printed.out


def test_an_empty_circuit_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "run",
        "ioi",
        "--model",
        "tiny",
        "--prompts",
        "2",
        "--format",
        "dot",
        "--quiet",
        "--threshold",
        "1e9",
    ]
    for more in ([], ["--level", "neuron"]):
        assert call([*command, "--out", str(tmp_path / "run"), "--force", *more], False) == 0
        assert "the circuit is empty" in capsys.readouterr().err


def test_text_that_a_terminal_has_not_is_spelled_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "circuit.json"
    model = {"n_layers": 1, "n_heads": 1, "parallel_attn_mlp": False, "name": "größe \u202e"}
    blocks = {
        "model": model,
        "task": {"name": "任务"},
        "method": {},
        "graph": {"n_edges": 8},
        "edges": {},
        "metrics": {},
    }
    file.write_text(
        json.dumps({"format": "circuitfind.circuit", "version": 1, **blocks}), encoding="utf-8"
    )
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2))
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    for command in (["show", str(file)], ["show", str(file), "--json"], ["diff", str(file), str(file)]):
        assert call(command, False) == 0
    err.flush()
    assert err.buffer.getvalue() == b""  # type: ignore[attr-defined]
