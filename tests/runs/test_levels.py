"""Whole runs at node level, and with the k and v inputs of a key/value head as one, as their user meets them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Node
from circuitfind.circuits.masks import readable
from circuitfind.errors import OutputError, UsageError
from circuitfind.methods.options import settle_method
from circuitfind.methods.saved_state import SoFar
from circuitfind.pipeline import RunOptions, RunResult, run
from circuitfind.runs import checkpoint
from circuitfind.runs.checkpoint import Keeper
from circuitfind.runs.sweep_plan import find_sizes
from circuitfind.sweep import sweep
from tests.runs.test_scoring import REPEATABLE

N_NODES = 6


def find(out: Path, **options: Any) -> RunResult:
    chosen: dict[str, Any] = {
        "task": "ioi",
        "model": "tiny",
        "n_prompts": 9,
        "level": "node",
        "formats": (),
    }
    return run(RunOptions(**chosen | options, out=out))


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in REPEATABLE if (folder / name).exists()}


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return find(tmp_path_factory.mktemp("runs") / "scored", nodes=N_NODES, bootstrap=20)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return find(tmp_path_factory.mktemp("runs") / "searched", threshold=0.1)


def nodes_of(circuit: Circuit) -> set[Node]:
    return {edge.sender for edge in circuit.edges} - {Node("input")}


@pytest.mark.parametrize("made", ["scored", "searched"])
def test_a_circuit_of_nodes_has_all_edges_among_them(made: str, request: pytest.FixtureRequest) -> None:
    circuit = request.getfixturevalue(made).circuit
    among = {*nodes_of(circuit), Node("input"), Node("logits")}
    expected = [
        edge for edge in circuit.graph.edges() if edge.sender in among and edge.receiver.node in among
    ]
    assert list(circuit.edges) == expected
    assert circuit.method["level"] == "node" and "kv" not in circuit.method


def test_a_number_of_nodes_is_that_of_heads_and_mlps_and_the_record_says_so(scored: RunResult) -> None:
    assert len(nodes_of(scored.circuit)) == N_NODES == scored.circuit.method["nodes"]
    record = json.loads((scored.folder / "run.json").read_text())
    assert record["selection"] == {
        "nominal": N_NODES,
        "kept": len(scored.circuit.edges),
        "units": "nodes",
    }
    assert record["method"]["level"] == "node"
    page = (scored.folder / "report.md").read_text()
    assert f"| nodes | {N_NODES} chosen, {len(scored.circuit.edges)} edges left after pruning |" in page
    assert (
        "## The strongest nodes" in page and "| node | score | confidence interval | inclusion |" in page
    )
    assert page.count("\n| `a") + page.count("\n| `m") + page.count("\n| `input` |") == N_NODES + 1


def test_scores_of_nodes_are_the_same_down_each_column(scored: RunResult) -> None:
    scores = load_file(scored.folder / "scores.safetensors")["scores"]
    edges = readable(scored.circuit.graph)
    assert torch.equal(scores.isnan(), ~edges)
    assert torch.equal(torch.where(edges, scores[-1], 0), scores.nan_to_num(0))
    assert scores[-1].unique().numel() == len(scored.circuit.graph.senders)


def test_the_consensus_is_a_circuit_of_nodes(scored: RunResult) -> None:
    consensus = Circuit.load(scored.folder / "consensus.json")
    among = {*nodes_of(consensus), Node("input"), Node("logits")}
    assert len(among) > 2 and consensus.method["level"] == "node"
    assert consensus.method["confidence"] == 0.95
    assert set(consensus.edges) == {
        edge for edge in consensus.graph.edges() if edge.sender in among and edge.receiver.node in among
    }


def test_neither_batch_size_nor_another_run_changes_a_byte(
    scored: RunResult, searched: RunResult, tmp_path: Path
) -> None:
    for size in (2, 9):
        again = find(tmp_path / f"scored-{size}", nodes=N_NODES, bootstrap=20, batch_size=size)
        assert files(again.folder) == files(scored.folder)
        again = find(tmp_path / f"searched-{size}", threshold=0.1, batch_size=size)
        assert files(again.folder) == files(searched.folder)


def test_a_search_over_nodes_counts_their_tests(searched: RunResult) -> None:
    record = json.loads((searched.folder / "run.json").read_text())
    assert record["search"]["tested"] == record["search"]["computed"] == 15
    assert 0 < len(nodes_of(searched.circuit)) < 15


def test_several_numbers_of_nodes_are_a_sweep_each_as_that_run_alone(
    scored: RunResult, tmp_path: Path
) -> None:
    of, sizes = find_sizes({"threshold": None, "edges": None, "fraction": None, "nodes": f"{N_NODES},2"})
    options = RunOptions(
        "ioi", "tiny", n_prompts=9, level="node", formats=(), bootstrap=20, out=tmp_path / "sweep"
    )
    swept = sweep(options, sizes, of=of)
    assert [row["nodes"] for row in swept.table["circuits"]] == [2, N_NODES]
    assert files(swept.folder / f"nodes-{N_NODES}") == files(scored.folder)
    assert "2 numbers of nodes" in (swept.folder / "sweep.md").read_text()


def test_a_sweep_of_searches_over_nodes_takes_nothing_over_and_changes_no_byte(
    searched: RunResult, tmp_path: Path
) -> None:
    options = RunOptions("ioi", "tiny", n_prompts=9, level="node", formats=(), out=tmp_path / "sweep")
    swept = sweep(options, (0.5, 0.1))
    assert files(swept.folder / "threshold-0.1") == files(searched.folder)


class Killed(BaseException):
    """Nothing of the program runs afterwards."""


def cut_off(out: Path, after: int, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    original, calls = Keeper.save, []

    def save(keeper: Keeper, so_far: SoFar) -> None:
        original(keeper, so_far)
        calls.append(so_far.told)
        if len(calls) > after:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoint, "SAVE_SECONDS", 0.0)
        patch.setattr(Keeper, "save", save)
        find(out, **options)


def test_a_search_over_nodes_that_is_cut_off_ends_with_the_same_bytes(
    searched: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    cut_off(folder, 4, monkeypatch, threshold=0.1)
    with pytest.raises(OutputError, match=r"level node \(now edge\)"):
        find(folder, threshold=0.1, resume=True, level="edge")
    resumed = find(folder, threshold=0.1, resume=True)
    assert files(resumed.folder) == files(searched.folder)


def test_a_search_over_edges_is_not_gone_on_with_over_nodes_or_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_off(tmp_path / "run", 3, monkeypatch, threshold=0.1, level="edge")
    with pytest.raises(OutputError, match=r"level edge \(now node\)"):
        find(tmp_path / "run", threshold=0.1, resume=True)
    with pytest.raises(OutputError, match=r"kv per-head \(now grouped\)"):
        find(tmp_path / "run", threshold=0.1, resume=True, level="edge", kv="grouped")


@pytest.mark.parametrize("options", [{"threshold": 0.2}, {"edges": 30}, {"method": "exact", "edges": 30}])
def test_without_grouped_queries_grouped_gives_the_same_edges_and_says_that(
    options: dict[str, Any], tmp_path: Path
) -> None:
    per_head = find(tmp_path / "per-head", level="edge", n_prompts=4, **options).circuit
    grouped = find(tmp_path / "grouped", level="edge", n_prompts=4, kv="grouped", **options).circuit
    assert "level" not in per_head.method and "kv" not in per_head.method
    assert grouped.method["kv"] == "grouped"
    assert grouped.edges == per_head.edges and grouped.metrics == per_head.metrics


@pytest.mark.parametrize(
    "options",
    [
        {"method": "exact"},
        {"method": "hisp"},
        {"method": "activation-magnitude"},
        {"method": "atp", "grad_drop": True},
        {"method": "ensemble", "of": ("eap-ig", "exact"), "combine": "rank-mean"},
        {"method": "relp"},
    ],
    ids=lambda options: options["method"],
)
def test_every_method_that_can_makes_a_circuit_of_so_many_nodes(
    options: dict[str, Any], tmp_path: Path
) -> None:
    found = find(tmp_path / "run", nodes=3, n_prompts=4, **options)
    assert len(nodes_of(found.circuit)) == 3
    assert found.circuit.method["level"] == "node"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"nodes": 5}, "--nodes counts heads and MLPs, and edges are decided on here. Add --level node."),
        (
            {"level": "node", "edges": 5},
            "--edges counts edges, and whole nodes are decided on here. Give --nodes",
        ),
        ({"level": "node", "nodes": 5, "edges": 5}, "--edges and --nodes each set the circuit's size"),
        (
            {"level": "node", "method": "eap"},
            "Give --nodes N, --fraction F or --threshold T, e.g. --nodes 20.",
        ),
        ({"level": "node", "nodes": 0}, "0 nodes are asked for"),
        (
            {"level": "node", "nodes": 5, "method": "acdc"},
            "--nodes needs a method that scores edges; acdc finds",
        ),
        ({"level": "node", "nodes": 5, "method": "ifr"}, "ifr can't do --level node: its shares"),
        (
            {"level": "node", "nodes": 5, "method": "ifr"},
            "\nMethods that can: acdc, eap, clean-corrupted, eap-ig,",
        ),
        (
            {"level": "node", "nodes": 5, "method": "edge-pruning"},
            "edge-pruning can't do --level node: it learns",
        ),
        (
            {"level": "node", "nodes": 5, "method": "ensemble", "of": ("eap", "random")},
            "random can't do --level node",
        ),
        (
            {"kv": "grouped", "edges": 5, "method": "hisp"},
            "hisp can't do --kv grouped: its edges have the scores",
        ),
        ({"kv": "grouped", "edges": 5, "select": "greedy"}, "--select greedy goes edge by edge"),
        ({"level": "node", "nodes": 5, "select": "greedy"}, "--select greedy goes edge by edge"),
        ({"level": "node", "kv": "grouped"}, "At node level all edges of a node go together"),
        ({"level": "node", "schedule": "screened"}, "--schedule screened saves tests of edges"),
    ],
)
def test_what_does_not_go_together_is_refused_with_what_does(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        settle_method(RunOptions("ioi", **options), "loss")
    assert said in str(refused.value)
    assert str(refused.value).count("\n") <= 1
