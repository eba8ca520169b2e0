"""Stdout and stderr that are closed, full or read no more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="a system without /dev/full")
COMMAND = f"'{sys.executable}' -m circuitfind"
RUN = f"{COMMAND} run ioi --model tiny --prompts 3 --threshold 1 --format dot --out run"


def shell(line: str, folder: Path) -> tuple[int, str, str]:
    """The exit code of the shell's line, its stdout and stderr."""
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PYTHONPATH": root, "PATH": "/usr/bin:/bin", "HOME": str(folder)},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("arguments", ["methods", "--help", "--version", "run --help"])
def test_a_closed_stdout_is_told_in_one_line(arguments: str, tmp_path: Path) -> None:
    code, _, err = shell(f"{COMMAND} {arguments} >&-", tmp_path)
    assert code == 2 and err.startswith("error: stdout is closed") and err.count("\n") == 1


@pytest.mark.parametrize("arguments", ["methods", "--help", "--version", "tasks show ioi"])
def test_a_full_stdout_is_told_in_one_line(arguments: str, tmp_path: Path) -> None:
    code, _, err = shell(f"{COMMAND} {arguments} >/dev/full", tmp_path)
    assert code == 2 and err == "error: Cannot write to stdout: No space left on device.\n"


def test_a_closed_or_full_stderr_is_no_reason_to_fail(tmp_path: Path) -> None:
    for place in ("2>&-", "2>/dev/full"):
        code, out, _ = shell(f"{COMMAND} methods {place}", tmp_path)
        assert code == 0 and "acdc" in out
        code, out, _ = shell(f"{COMMAND} show nowhere {place}", tmp_path)
        assert (code, out) == (2, "")


def test_a_reader_that_goes_away_is_no_reason_for_a_message(tmp_path: Path) -> None:
    for arguments in ("methods", "--help"):
        code, out, err = shell(f"{COMMAND} {arguments} | head -1", tmp_path)
        assert code in (0, 2) and out.count("\n") == 1 and err == ""


@pytest.mark.parametrize("place", ["2>&-", "2>/dev/full", "2>&1 | head -1"])
@pytest.mark.slow
def test_a_run_goes_on_where_nobody_reads_its_progress(place: str, tmp_path: Path) -> None:
    shell(f"{RUN} {place}", tmp_path)
    assert {"circuit.json", "run.json", "report.md"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }


@pytest.mark.slow
def test_a_run_whose_summary_can_not_be_printed_is_there_all_the_same(tmp_path: Path) -> None:
    code, _, err = shell(f"{RUN} -q >/dev/full", tmp_path)
    assert code == 2 and err.endswith("error: Cannot write to stdout: No space left on device.\n")
    assert (tmp_path / "run" / "run.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kib", [1, 2])
def test_a_run_on_a_disk_that_gets_full_leaves_the_older_one_whole(kib: int, tmp_path: Path) -> None:
    assert shell(f"{RUN} -q", tmp_path)[0] == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    code, out, err = shell(f"ulimit -f {kib}; trap '' XFSZ; {RUN} -q --force", tmp_path)
    assert (code, out) == (2, "")
    *_, last = err.splitlines()
    assert last.startswith("error: Cannot write run/") and ".circuitfind" not in last
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
