"""From a file of another tool to a circuit and its folder, and from a circuit's folder to such files."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from exchange.made import FIXTURES, circuit_of, draw_edges, same
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitfind.circuits.bases import Neuron
from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Graph
from circuitfind.circuits.scores_file import scores_file
from circuitfind.circuits.size import Selection
from circuitfind.errors import CircuitError, CircuitfindError, UsageError
from circuitfind.exchange import content, writers
from circuitfind.exchange.edges import ScoredEdges, of_circuit
from circuitfind.exchange.importing import ImportOptions, import_circuit
from circuitfind.exchange.readers import read_circuit
from circuitfind.export import Subject
from circuitfind.progress import Silent
from circuitfind.review.opening import AS_STORED
from circuitfind.review.origin import find_origin

THEIRS = FIXTURES / "eap-ig-2x2.json"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder as a run leaves it."""
    return save_run(draw_edges(Graph(2, 3)), tmp_path / "run")


def save_run(edges: ScoredEdges, folder: Path) -> Path:
    folder.mkdir()
    (folder / "circuit.json").write_text(circuit_of(edges).to_json())
    scores = torch.from_numpy(edges.scores)
    (folder / "scores.safetensors").write_bytes(scores_file(edges.graph, scores, torch.float32))
    return folder


def save(folder: Path, files: dict[str, str | bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def test_a_run_exported_and_imported_has_its_edges_and_all_scores(run, tmp_path):
    for format in ("eap-ig-json", "eap-ig-pt"):
        subject = Subject.load(run)
        assert "outside" not in writers.lost(format, subject.circuit, subject.folder)
        file = save(
            tmp_path, {"out." + format[7:]: writers.write(format, subject.circuit, subject.folder)}
        ) / ("out." + format[7:])
        imported = import_circuit(ImportOptions(file))
        assert imported.circuit.edges == subject.circuit.edges and imported.notes == ()
        back = save(tmp_path / format, imported.files)
        assert same(of_circuit(Circuit.load(back), back), of_circuit(subject.circuit, run))


def test_an_imported_folder_is_taken_for_one_of_a_run(tmp_path):
    imported = import_circuit(ImportOptions(THEIRS, model="tiny", task="ioi"))
    origin = find_origin(save(tmp_path / "a", imported.files), AS_STORED, Silent())
    assert (origin.options.model, origin.options.task) == ("tiny", "ioi")
    assert origin.scores is not None and origin.task is not None


def test_edges_are_chosen_by_size_and_pruned_as_a_run_does(tmp_path):
    scores = read_circuit(THEIRS)[1].edges.scores
    chosen = import_circuit(ImportOptions(THEIRS, selection=Selection(edges=20))).circuit
    assert 0 < len(chosen.edges) <= 20 and chosen.method["edges"] == 20
    largest = np.sort(np.abs(scores[np.isfinite(scores)]))[-20:]
    assert min(map(abs, chosen.edges.values())) >= largest[0]
    nodes = import_circuit(
        ImportOptions(FIXTURES / "eap-ig-nodes.pt", selection=Selection(nodes=2))
    ).circuit
    assert nodes.method["level"] == "node"
    with pytest.raises(UsageError, match="--edges needs scores of edges"):
        import_circuit(ImportOptions(FIXTURES / "eap-ig-nodes.pt", selection=Selection(edges=2)))
    with pytest.raises(UsageError, match="--nodes needs scores of nodes"):
        import_circuit(ImportOptions(THEIRS, selection=Selection(nodes=2)))


def test_scores_alone_ask_how_many_edges_to_keep(tmp_path):
    data = json.loads(THEIRS.read_text())
    for said in data["edges"].values():
        said["in_graph"] = False
    file = save(tmp_path, {"scores.json": json.dumps(data)}) / "scores.json"
    with pytest.raises(UsageError, match="marks no edge as kept"):
        import_circuit(ImportOptions(file))
    assert import_circuit(ImportOptions(file, selection=Selection(fraction=1.0))).circuit.edges


def test_a_circuit_without_a_folder_has_no_scores_to_choose_from(run, tmp_path):
    lone = Subject(Circuit.load(run))
    assert "they are 0" in writers.lost("eap-ig-json", lone.circuit, lone.folder)
    file = (
        save(tmp_path, {"lone.json": writers.write("eap-ig-json", lone.circuit, lone.folder)})
        / "lone.json"
    )
    imported = import_circuit(ImportOptions(file))
    assert imported.circuit.edges == lone.circuit.edges and "scores.safetensors" not in imported.files
    assert imported.notes == ("the scores of the other edges are not known",)
    with pytest.raises(UsageError, match="has not the scores of all edges"):
        import_circuit(ImportOptions(file, selection=Selection(edges=3)))


def test_scores_of_another_circuit_beside_it_are_not_taken(run):
    other = draw_edges(Graph(2, 3), seed=1)
    (run / "scores.safetensors").write_bytes(
        scores_file(other.graph, torch.from_numpy(other.scores), torch.float32)
    )
    assert not of_circuit(Circuit.load(run), run).is_complete


def test_what_a_format_can_not_hold_is_said(run):
    subject = Subject.load(run)
    said = {name: writers.lost(name, subject.circuit, subject.folder) for name in writers.WRITERS}
    assert all(text.startswith("what the circuit was found with") for text in said.values())
    assert "all scores" in said["edge-pruning"] and "which edges are kept" in said["autocircuit"]
    exact = Circuit(subject.circuit.graph, {Edge.parse("input->logits"): 0.1}, subject.circuit.model)
    assert "beyond float32" in writers.lost("eap-ig-pt", exact)
    assert "beyond float32" not in said["eap-ig-pt"]
    assert "beyond float32" not in writers.lost("eap-ig-json", exact)


def test_neurons_and_positions_are_refused_with_the_reason():
    model = {"n_layers": 1, "n_heads": 1, "parallel_attn_mlp": False, "d_head": 2, "d_mlp": 2}
    neurons = Circuit(Graph(1, 1), {}, model, neurons={Neuron.parse("m0.n1"): 1.0})
    roles = Circuit(Graph(1, 1, roles=("S", "END")), {Edge.parse("input->m0@S"): 1.0}, model)
    for format in writers.WRITERS:
        with pytest.raises(CircuitError, match="is of neurons"):
            writers.write(format, neurons)
        with pytest.raises(CircuitError, match=r"by position \(S, END\)"):
            writers.write(format, roles)


class Evil:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return exec, ("raise SystemExit('a pickle was run')",)


def torch_saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for part in range(3):
            archive.writestr(f"archive/data/{part}", bytes(1000))
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("x.pkl", pickle.dumps([Evil()]), "is a pickle: reading one runs whatever program it holds"),
        ("x.pt", torch_saved({"cfg": Evil()}), "more than tensors and plain values"),
        ("x.pt", torch_saved({"cfg": 1})[:-200], "is damaged"),
        ("x.pt", b"PK\x03\x04 nothing", "is damaged"),
        (
            "x.pt",
            torch_saved({"weights": torch.zeros(2)}),
            "in no format that is known. Formats: eap-ig-json, eap-ig-pt",
        ),
        ("x.json", b'{"cfg": {"n_layers": 1', "is not whole JSON"),
        (
            "x.json",
            b'{"cfg": {}, "edges": {"input->m0": {}, "input->m0": {}}}',
            "'input->m0' stands in it twice",
        ),
        ("x.json", b"[" * 100_000, "nested too deeply"),
        ("x.json", b'{"format": "circuitfind.circuit"}', "circuitfind's own already"),
        ("x.txt", b"\xff\xfe\x00", "neither text nor a file that torch.save writes"),
        ("x.txt", b"hello", "in no format that is known"),
        ("x.txt", b"", "in no format that is known"),
    ],
)
def test_a_file_that_is_none_is_refused_and_nothing_in_it_is_run(name, data, says, tmp_path):
    file = save(tmp_path, {name: data}) / name
    with pytest.raises(CircuitError, match=says) as caught:
        read_circuit(file)
    assert len(str(caught.value).splitlines()) <= 2


def test_places_and_sizes_are_looked_at_before_they_are_read(tmp_path, monkeypatch):
    with pytest.raises(CircuitError, match="is a folder"):
        read_circuit(tmp_path)
    with pytest.raises(CircuitError, match="No such file"):
        read_circuit(tmp_path / "none.json")
    file = save(tmp_path, {"bomb.pt": bomb()}) / "bomb.pt"
    monkeypatch.setattr(content, "MOST_BYTES", 2000)
    with pytest.raises(CircuitError, match="unpacks to 3,000 bytes"):
        read_circuit(file)
    monkeypatch.setattr(content, "MOST_BYTES", 10)
    with pytest.raises(CircuitError, match="no file of a circuit has so many"):
        read_circuit(file)


def test_a_format_that_is_said_must_be_the_files(tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'eap-ig-pt'"):
        read_circuit(THEIRS, "eap-ig-p")
    with pytest.raises(CircuitError, match=r"graph as tensors \(eap-ig-pt\). It looks like eap-ig-json"):
        read_circuit(THEIRS, "eap-ig-pt")
    with pytest.raises(UsageError, match="Leave --shape out"):
        read_circuit(THEIRS, None, Graph(3, 3))


@given(st.integers(0, 3500), st.binary(min_size=1, max_size=3))
@settings(max_examples=60)
def test_a_damaged_file_is_an_error_of_ours_or_read(tmp_path_factory, place, noise):
    data = (FIXTURES / "eap-ig-2x2.pt").read_bytes()
    file = tmp_path_factory.mktemp("noise") / "x.pt"
    file.write_bytes(data[:place] + noise + data[place + len(noise) :])
    with contextlib.suppress(CircuitfindError):
        read_circuit(file)


def test_a_zip_file_of_a_version_that_there_is_not_is_damaged(tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data.pkl", b"x")
    data = bytearray(file.getvalue())
    data[data.index(b"PK\x01\x02") + 6] = 200  # the version that is needed to read it
    (tmp_path / "x.pt").write_bytes(data)
    with pytest.raises(CircuitError, match=r"x\.pt is damaged: it is no whole file of torch\.save"):
        content.read_content(tmp_path / "x.pt")
