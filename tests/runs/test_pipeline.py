"""A whole run on tiny: the folder it leaves, and that its bytes depend on nothing but what was asked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from circuitfind.circuits.circuit import Circuit
from circuitfind.errors import ModelError, OutputError, UsageError
from circuitfind.methods.make import METHODS
from circuitfind.methods.search.acdc import DEFAULT_THRESHOLD
from circuitfind.models.loading.catalogue import CATALOGUE
from circuitfind.patching.ablation import ABLATIONS
from circuitfind.pipeline import RunOptions, RunResult, run
from circuitfind.prompts.files import read_prompts
from circuitfind.prompts.task_metric import METRICS
from circuitfind.runs.plan import CHOICES
from circuitfind.runs.prepare import DTYPES, find_device

REPEATABLE = ("circuit.json", "circuit.dot", "prompts.jsonl", "scores.safetensors")
N_PROMPTS, THRESHOLD = 9, 0.1  # more than one block of 8, so that blocks of any size are ragged


def find(out: Path, **options: Any) -> RunResult:
    chosen = {
        "task": "ioi",
        "model": "tiny",
        "n_prompts": N_PROMPTS,
        "threshold": THRESHOLD,
        "formats": (),
    }
    return run(RunOptions(**chosen | options, out=out))


def repeatable(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in REPEATABLE}


def edges(result: RunResult) -> dict[str, float]:
    return {str(edge): score for edge, score in result.circuit.edges.items()}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """The run that others are compared with."""
    return find(tmp_path_factory.mktemp("runs") / "first", formats=("svg",))


# the run folder of the contract


def test_a_run_leaves_the_files_of_the_contract_and_no_others(result: RunResult) -> None:
    names = {path.name for path in result.folder.iterdir()}
    assert names == {*REPEATABLE, "circuit.svg", "report.md", "run.json"}


def test_the_circuit_file_has_the_keys_of_the_contract_in_order(result: RunResult) -> None:
    data = json.loads((result.folder / "circuit.json").read_text())
    assert list(data) == ["format", "version", "model", "task", "method", "graph", "edges", "metrics"]
    assert list(data["model"]) == [
        "name", "architecture", "n_layers", "n_heads", "d_model", "parallel_attn_mlp", "sha256",
    ]  # fmt: skip
    assert {"name", "n_prompts", "seed", "prompts_sha256", "bos", "tokenizer_sha256"} == data[
        "task"
    ].keys()
    options = {"threshold", "metric", "ablation", "objective", "schedule"}
    assert options | {"name", "order", "dtype"} == data["method"].keys()
    assert data["graph"] == {"n_edges": 262, "n_nodes": 17}
    assert {"full", "circuit", "ablated", "faithfulness"} <= data["metrics"].keys()


def test_the_circuit_is_read_back_as_it_was(result: RunResult) -> None:
    assert Circuit.load(result.folder) == result.circuit


def test_every_kept_edge_has_its_score_in_the_matrix_and_no_score_is_missing(result: RunResult) -> None:
    with safe_open(result.folder / "scores.safetensors", "pt") as file:
        scores, names = file.get_tensor("scores"), file.metadata()
    senders, receivers = json.loads(names["senders"]), json.loads(names["receivers"])
    assert scores.dtype == torch.float32 and scores.shape == (len(receivers), len(senders))
    assert int(scores.isfinite().sum()) == 262
    for edge, score in edges(result).items():
        sender, _, receiver = edge.partition("->")
        assert float(scores[receivers.index(receiver), senders.index(sender)]) == pytest.approx(
            score, rel=1e-6
        )
        assert score >= THRESHOLD


def test_the_record_holds_what_is_needed_to_repeat_the_run(result: RunResult) -> None:
    record = json.loads((result.folder / "run.json").read_text())
    assert record["command"]["task"] == "ioi" and record["command"]["threshold"] == THRESHOLD
    assert record["command"]["metric"] == "kl" and record["command"]["seed"] == 0
    assert record["bos"] is False and len(record["model_sha256"]) == 64
    assert {"torch", "transformer_lens", "circuitfind", "python"} <= record["versions"].keys()
    assert {"load", "task", "search", "evaluation", "drawing"} == record["timings"].keys()


def test_the_prompts_file_is_what_the_circuit_says_it_is(result: RunResult) -> None:
    import hashlib

    text = (result.folder / "prompts.jsonl").read_bytes()
    assert len(text.splitlines()) == N_PROMPTS == result.circuit.task["n_prompts"]
    assert hashlib.sha256(text).hexdigest() == result.circuit.task["prompts_sha256"]


def test_a_test_at_the_threshold_itself_is_reported_as_undecidable(
    result: RunResult, tmp_path: Path
) -> None:
    with safe_open(result.folder / "scores.safetensors", "pt") as file:
        first = float(file.get_tensor("scores")[-1, -1])  # of the first test, which nothing comes before
    near = find(tmp_path / "near", threshold=first + 1e-7)
    search = json.loads((near.folder / "run.json").read_text())["search"]
    assert (search["n_undecidable"], search["undecidable"]) == (1, ["m2->logits"])
    assert any("1 of the tests came out within 1e-06" in warning for warning in near.warnings)
    assert "1 undecidable" in (near.folder / "report.md").read_text()
    decided = json.loads((result.folder / "run.json").read_text())["search"]
    assert (decided["n_undecidable"], decided["undecidable"], decided["taken_over"]) == (0, [], 0)


# the same bytes


@pytest.mark.parametrize(("n_threads", "batch_size"), [(1, None), (2, 1), (1, 3), (2, 3), (2, 8)])
def test_neither_threads_nor_batch_size_change_a_byte(
    n_threads: int, batch_size: int | None, result: RunResult, tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        again = find(tmp_path / "again", batch_size=batch_size)
    finally:
        torch.set_num_threads(before)
    assert repeatable(again.folder) == repeatable(result.folder)


@pytest.fixture(scope="module")
def another_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same run in a process of its own, whose strings hash otherwise."""
    folder = tmp_path_factory.mktemp("runs") / "other"
    command = [
        sys.executable,
        "-m",
        "circuitfind.cli.app",
        "run",
        "ioi",
        "--model",
        "tiny",
        "--format",
        "dot",
        "--quiet",
    ]
    command += ["--prompts", str(N_PROMPTS), "--threshold", str(THRESHOLD), "--out", str(folder)]
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PYTHONHASHSEED": seed})
    return folder


def test_another_process_with_another_order_of_hashes_changes_no_byte(
    result: RunResult, another_process: Path
) -> None:
    assert repeatable(another_process) == repeatable(result.folder)


def test_the_estimate_of_memory_is_above_the_peak_and_at_most_half_as_much_again(
    another_process: Path,
) -> None:
    record = json.loads((another_process / "run.json").read_text())
    assert (
        record["peak_memory_bytes"]
        <= record["estimated_memory_bytes"]
        <= 1.5 * record["peak_memory_bytes"]
    )


def test_less_memory_changes_no_byte(result: RunResult, tmp_path: Path) -> None:
    tight = json.loads((result.folder / "run.json").read_text())["estimated_memory_bytes"] - 1
    again = find(tmp_path / "again", memory=tight)
    record = json.loads((again.folder / "run.json").read_text())
    assert record["estimated_memory_bytes"] <= tight and record["bytes_in_flight"] <= 8 << 20
    assert repeatable(again.folder) == repeatable(result.folder)


def test_another_seed_makes_other_prompts(result: RunResult, tmp_path: Path) -> None:
    other = find(tmp_path / "other", seed=1)
    assert (other.folder / "prompts.jsonl").read_bytes() != (result.folder / "prompts.jsonl").read_bytes()


# the same circuit, however the prompts come in

AS_PYTHON = """
from circuitfind.prompts.pairs import PromptPair, Task

PAIRS = [PromptPair(**pair) for pair in {pairs}]
TASK = Task("mine", "My own", "", "kl", PAIRS[0], lambda tokenizer, n_prompts, seed: PAIRS[:n_prompts])
"""


def as_file(kind: str, prompts: Path, folder: Path) -> Path:
    """The prompts of a .jsonl file as a file of this kind."""
    path = folder / f"mine.{kind}"
    pairs = [pair.to_dict() for pair in read_prompts(prompts)]
    if kind == "csv":
        columns = list(pairs[0])
        texts = [
            [text if isinstance(text, str) else json.dumps(text) for text in pair.values()]
            for pair in pairs
        ]
        rows = [",".join('"' + text.replace('"', '""') + '"' for text in row) for row in texts]
        path.write_text("\n".join([",".join(columns), *rows]))
    elif kind == "py":
        frozen = [
            {key: tuple(x) if isinstance(x, list) else x for key, x in pair.items()} for pair in pairs
        ]
        path.write_text(AS_PYTHON.format(pairs=frozen))
    else:
        shutil.copy(prompts, path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "py"])
def test_a_users_file_gives_the_circuit_of_the_task_with_the_same_prompts(
    kind: str, result: RunResult, tmp_path: Path
) -> None:
    file = as_file(kind, result.folder / "prompts.jsonl", tmp_path)
    mine = find(tmp_path / "run", task=str(file))
    assert edges(mine) == edges(result) and mine.circuit.metrics == result.circuit.metrics
    assert mine.circuit.task == {**result.circuit.task, "name": "mine"}


def test_a_copy_of_the_models_folder_is_the_same_model(result: RunResult, tmp_path: Path) -> None:
    copy = shutil.copytree(
        CATALOGUE["tiny"].source.place, tmp_path / "mine", ignore=lambda *_: ["train.py"]
    )
    mine = find(tmp_path / "run", model=str(copy))
    assert edges(mine) == edges(result)
    assert mine.circuit.model == {**result.circuit.model, "name": "mine"}


# the other ways to ask


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_finds_a_circuit_and_says_which_it_was(metric: str, tmp_path: Path) -> None:
    found = find(tmp_path / "run", metric=metric, threshold=None, n_prompts=4).circuit
    assert 0 < len(found.edges) < 262
    assert (found.method["metric"], found.method["threshold"]) == (metric, DEFAULT_THRESHOLD[metric])


def test_zero_ablation_is_another_question(result: RunResult, tmp_path: Path) -> None:
    zero = find(tmp_path / "run", ablation="zero")
    assert zero.circuit.method["ablation"] == "zero" and edges(zero) != edges(result)


def test_float64_stores_its_scores_as_such_and_finds_nearly_the_same(
    result: RunResult, tmp_path: Path
) -> None:
    double = find(tmp_path / "run", dtype="float64")
    with safe_open(double.folder / "scores.safetensors", "pt") as file:
        assert file.get_tensor("scores").dtype == torch.float64
    assert double.circuit.method["dtype"] == "float64"
    assert edges(double) == pytest.approx(edges(result), rel=1e-3)


def test_bos_is_recorded(tmp_path: Path) -> None:
    folder = find(tmp_path / "run", bos=True, n_prompts=2).folder
    assert json.loads((folder / "circuit.json").read_text())["task"]["bos"] is True
    assert json.loads((folder / "run.json").read_text())["bos"] is True


def test_a_run_that_names_no_folder_goes_under_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = (
        run(RunOptions("ioi", "tiny", n_prompts=2, threshold=1.0, formats=())) for _ in range(2)
    )
    assert first.folder != second.folder and first.folder.parent == Path("results/ioi/tiny/acdc")
    assert first.folder.name.endswith("-0") or first.folder.name.endswith("-0-2")


# what goes wrong


def test_nothing_is_left_behind_by_a_run_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from circuitfind.runs import prepare

    def fails(*_: object) -> None:
        raise ModelError("no")

    monkeypatch.setattr(prepare, "load_model", fails)
    with pytest.raises(ModelError):
        find(tmp_path / "a" / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_filled_while_the_run_went_on_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from circuitfind.runs import evaluate as module

    def evaluate(*arguments: Any) -> Any:
        (tmp_path / "run" / "circuit.json").write_text("another's")  # the folder is there, for the lock
        return original(*arguments)

    original = module.evaluate
    monkeypatch.setattr(module, "evaluate", evaluate)
    with pytest.raises(OutputError, match="is not empty"):
        find(tmp_path / "run", n_prompts=2)
    assert (tmp_path / "run" / "circuit.json").read_text() == "another's"


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == "cpu"
    with pytest.raises(UsageError, match="no cuda:1 that PyTorch can use"):
        find_device("cuda:1")


def test_the_words_that_are_known_without_torch_are_those_that_the_library_knows() -> None:
    known = {"method": METHODS, "metric": METRICS, "ablation": ABLATIONS, "dtype": DTYPES}
    assert {kind: set(words) for kind, words in known.items()} == {
        kind: set(CHOICES[kind]) for kind in known
    }
    for objective in CHOICES["objective"]:
        METHODS["acdc"](0.1, objective=objective)
