"""A fixed set of commands leaves the bytes that it left before: circuits, scores, pictures, records, what is printed.

Every method, level, ablation, metric, selection and schedule, on the bundled model and on three small random families.
The bits of a result depend on the processor and on the libraries. Where these are others than those that hashes.json
was recorded with, these tests are skipped, and nothing is held. Two versions of circuitfind can be compared anywhere:
``python -m tests.golden_runs.record --out FOLDER`` with each, and ``diff -r``. Where a byte has to change, the same
with ``--write`` renews the hashes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from golden_runs.record import RUNS, Recording, read_hashes, record

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="each run is forked from one process"),
]


@pytest.fixture(scope="module")
def recording(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """What the runs left that are asked for here, and those that they need."""
    names = {
        item.callspec.params["name"] for item in request.session.items if "recording" in item.fixturenames
    }
    return record(names, tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="module")
def kept() -> Path:
    """Where the files of runs go that differ. They stay, until tests begin that ask for it again."""
    folder = Path(tempfile.gettempdir()) / "golden-runs-that-differ"
    shutil.rmtree(folder, ignore_errors=True)
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_a_run_leaves_the_same_bytes(name: str, recording: Recording, kept: Path) -> None:
    fingerprint, runs = read_hashes()
    if others := [key for key in fingerprint if fingerprint[key] != recording.fingerprint[key]]:
        pytest.skip(f"recorded with other {', '.join(others)}: results may differ in their last bits")
    expected, actual = runs[name], recording.hashes()[name]
    differing = sorted(path for path in expected | actual if expected.get(path) != actual.get(path))
    if differing:
        recording.write(name, kept)
    assert not differing, (
        f"`circuitfind {RUNS[name].command}` left other {', '.join(differing)}: see {kept / name}"
    )


def test_the_hashes_are_those_of_the_table() -> None:
    assert read_hashes()[1].keys() == RUNS.keys()
