"""A submission to MIB: packed from runs, and everything wrong with one is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from exchange.made import circuit_of, draw_edges
from exchange.test_importing import save_run

from circuitfind.circuits.graph import Graph
from circuitfind.errors import CircuitError, UsageError
from circuitfind.evaluation.reference import edges_of
from circuitfind.exchange import mib
from circuitfind.exchange.eapig import write_json
from circuitfind.exchange.mib import BUDGETS, MibModel, folder_name, most_edges, name_problems
from circuitfind.exchange.readers import read_circuit
from circuitfind.exchange.submission import check, pack

GRAPH = Graph(3, 4)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return save_run(draw_edges(GRAPH), tmp_path / "run")


@pytest.fixture(autouse=True)
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """MIB's models, so small that a file of each takes no time."""
    small: Mapping[str, MibModel] = {
        name: MibModel(said.graph and GRAPH, said.tasks, said.names) for name, said in mib.MODELS.items()
    }
    monkeypatch.setattr(mib, "MODELS", small)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("by_budget", [False, True])
@pytest.mark.parametrize("suffix", ["json", "pt"])
def test_what_is_packed_is_right(by_budget, suffix, run, tmp_path):
    for name in ("ioi_gpt2", "mcqa_qwen2.5"):
        folder, files = pack(run, name, by_budget, suffix)
        write(tmp_path / "out" / folder, files)
    assert check(tmp_path / "out") == []


def test_nine_circuits_are_the_largest_scores_of_each_budget_after_pruning(run, tmp_path):
    edges = draw_edges(GRAPH)
    size = np.abs(edges.scores[np.isfinite(edges.scores)])
    files = write(tmp_path / "x", pack(run, "ioi_gpt2", by_budget=True)[1])
    for budget in BUDGETS:
        n = most_edges(GRAPH, budget)
        kept = read_circuit(files / f"{budget:g}.json")[1].edges.kept
        assert n == int(budget * GRAPH.n_edges) and kept.sum() <= n
        if kept.any():
            assert np.abs(edges.scores[kept]).min() >= np.sort(size)[-n]
    assert kept.sum() > 0


def test_folders_have_mibs_names():
    assert folder_name("ioi", "openai-community/gpt2") == "ioi_gpt2"
    assert folder_name("arc_easy", "meta-llama/Llama-3.1-8B") == "arc-easy_llama3"
    assert folder_name("ioi", "tiny") == "ioi_tiny"
    with pytest.raises(UsageError, match="ioi_gpt2=RUN"):
        folder_name("ioi", None)
    assert name_problems("arc-easy_gemma2") == []
    assert name_problems("mcqa_gpt2") == ["MIB has gpt2 on ioi, not on mcqa"]
    assert "no model of MIB's" in name_problems("gpt2_ioi")[0]
    assert "no task of MIB's" in name_problems("greater-than_gpt2")[0]


def test_a_run_without_all_scores_is_refused(run, tmp_path):
    (run / "scores.safetensors").unlink()
    with pytest.raises(CircuitError, match="has not the scores of all edges"):
        pack(run, "ioi_gpt2")
    nodes = save_run(draw_edges(GRAPH, by_node=True), tmp_path / "nodes")
    (nodes / "circuit.json").write_text(
        circuit_of(draw_edges(GRAPH, by_node=True), level="node").to_json()
    )
    with pytest.raises(CircuitError, match="scores of nodes"):
        pack(nodes, "ioi_gpt2")
    with pytest.raises(UsageError, match="no name of a folder"):
        pack(save_run(draw_edges(GRAPH), tmp_path / "other"), "../x")


def test_everything_wrong_is_told(run, tmp_path):
    out = tmp_path / "out"
    whole = pack(run, "x")[1]["importances.json"]
    lacking = json.loads(whole)
    del lacking["edges"]["input->a0.h0<q>"]
    unknown = json.loads(whole)
    unknown["edges"]["a9.h0->logits"] = {"score": 1.0, "in_graph": False}
    zero = json.loads(whole)
    for said in zero["edges"].values():
        said["score"] = 0.0
    too_many = pack(run, "x", by_budget=True)[1]
    too_many["0.01.json"] = write_json(replace(draw_edges(GRAPH), kept=edges_of(GRAPH)))
    write(out / "ioi_gpt2", {"importances.json": json.dumps(lacking).encode()})
    write(out / "ioi_qwen2.5", {"importances.json": json.dumps(unknown).encode()})
    write(out / "ioi_gemma2", {"importances.json": json.dumps(zero).encode()})
    write(out / "ioi_llama3", too_many)
    write(out / "mcqa_llama3", {"a.json": whole, "b.json": whole})
    write(out / "mcqa_gemma2", {"importances.pt": b"\x80pickle"})
    write(out / "ioi_tiny", {"importances.json": whole})
    write(out / "arc-easy_gemma2", {"x.json": write_json(draw_edges(Graph(1, 1)))})
    problems = {problem.partition(":")[0]: problem for problem in check(out)}
    for name, says in {
        "ioi_gpt2": "261 of 262 edges have a score",
        "ioi_qwen2.5": "'a9.h0->logits' cannot exist",
        "ioi_gemma2": "every score is 0",
        "ioi_llama3": "0.01.json: it has 262 edges; a circuit of 50.0% may have 131",
        "mcqa_llama3": "it has 2 files",
        "mcqa_gemma2": "importances.pt is a pickle",
        "ioi_tiny": "'tiny' is no model of MIB's",
        "arc-easy_gemma2": "of 1 layers of 1 heads in sequential blocks; the model has 3 layers",
    }.items():
        assert says in problems[name]


def test_a_submission_needs_two_models_and_two_tasks(run, tmp_path):
    write(tmp_path / "out" / "ioi_gpt2", pack(run, "ioi_gpt2")[1])
    assert check(tmp_path / "out") == [
        "the whole: 1 of MIB's models and 1 of its tasks; it takes 2 or more of each"
    ]
    with pytest.raises(UsageError, match="There is no folder"):
        check(tmp_path / "none")
