"""Files are written whole or not at all."""

from __future__ import annotations

import os
import stat

import pytest

import circuitfind.export
from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Graph
from circuitfind.errors import OutputError, UsageError
from circuitfind.export import FORMATS, Subject, circuit_to_dot, export_subject


@pytest.fixture
def circuit(grow) -> Circuit:
    return grow(Graph(3, 4), 12)


def test_the_dot_file_holds_what_circuit_to_dot_says(circuit, tmp_path):
    export_subject(Subject(circuit), "dot", tmp_path / "circuit.dot")
    assert (tmp_path / "circuit.dot").read_bytes() == circuit_to_dot(circuit).encode()


def test_every_format_is_written(circuit, tmp_path):
    for format in FORMATS:
        export_subject(Subject(circuit), format, tmp_path / f"circuit.{FORMATS[format].suffix}")
    assert {file.name for file in tmp_path.iterdir()} == {
        f"circuit.{format.suffix}" for format in FORMATS.values()
    }


def test_a_write_that_fails_leaves_the_old_file_and_no_other(circuit, tmp_path, monkeypatch):
    (tmp_path / "circuit.dot").write_text("old", encoding="utf-8")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(
        OutputError, match=r"circuit\.dot: No space left on device\. Give another place with --out\."
    ):
        export_subject(Subject(circuit), "dot", tmp_path / "circuit.dot")
    assert [(file.name, file.read_text(encoding="utf-8")) for file in tmp_path.iterdir()] == [
        ("circuit.dot", "old")
    ]


def test_a_folder_that_is_not_there_is_an_output_error(circuit, tmp_path):
    with pytest.raises(OutputError, match=r"No such file or directory"):
        export_subject(Subject(circuit), "dot", tmp_path / "nowhere" / "circuit.dot")


def test_an_unknown_format_suggests_the_nearest(circuit, tmp_path):
    with pytest.raises(UsageError, match=r"No export format named 'sgv'\. Did you mean 'svg'\?"):
        export_subject(Subject(circuit), "sgv", tmp_path / "circuit.sgv")


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_a_file_has_the_permissions_of_any_new_file(circuit, tmp_path):
    (tmp_path / "plain").touch()
    export_subject(Subject(circuit), "dot", tmp_path / "circuit.dot")
    modes = {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert len(modes) == 1


def test_what_the_package_names_is_there():
    assert all(hasattr(circuitfind.export, name) for name in circuitfind.export.__all__)
