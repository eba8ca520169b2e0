"""``circuitfind run --level neuron`` as its user meets it: what it finds, what it leaves behind, what it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from circuitfind.circuits.bases import by_node
from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Graph
from circuitfind.cli.app import call
from circuitfind.errors import UsageError
from circuitfind.methods.catalogue import CATALOGUE
from circuitfind.methods.make import make_neuron_method
from circuitfind.methods.neuron_options import REASONS
from circuitfind.methods.options import settle_method
from circuitfind.pipeline import RunOptions, RunResult, run
from tests.cli.test_app import python

REPEATABLE = ("circuit.json", "circuit.dot", "scores.safetensors", "prompts.jsonl")
ABLE = [info.name for info in CATALOGUE.values() if "neuron" in info.levels]
N_NEURONS = 576


def find(out: Path, **options: Any) -> RunResult:
    chosen: dict[str, Any] = {
        "task": "ioi",
        "model": "tiny",
        "n_prompts": 9,
        "level": "neuron",
        "formats": (),
    }
    size: dict[str, Any] = {} if options.get("method") == "acdc" else {"neurons": 40}
    return run(RunOptions(**chosen | size | options, out=out))


@pytest.mark.parametrize("method", ABLE)
def test_every_method_leaves_a_circuit_that_is_read_back(method: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"threshold": 0.2} if method == "acdc" else {"metric": "loss"}
    result = find(tmp_path / "run", method=method, n_prompts=4, **given)
    circuit, record = result.circuit, json.loads((tmp_path / "run/run.json").read_text())
    assert Circuit.load(tmp_path / "run") == circuit and circuit.neurons is not None
    assert (
        circuit.method["level"] == "neuron"
        and circuit.model["d_mlp"] == 128
        and circuit.model["d_head"] == 16
    )
    with safe_open(tmp_path / "run/scores.safetensors", "pt") as file:
        scores = file.get_tensor("scores")
    assert scores.shape == (N_NEURONS,) and scores.isfinite().all()
    for neuron, score in circuit.neurons.items():
        assert float(scores[circuit.all_neurons.place(neuron)]) == pytest.approx(score, rel=1e-6)
    assert set(circuit.nodes[1:-1]) == set(by_node(circuit.neurons))
    if method == "acdc":
        assert record["search"]["tested"] == N_NEURONS <= record["search"]["computed"]
        assert 0 < len(circuit.neurons) < N_NEURONS and all(
            score >= 0.2 for score in circuit.neurons.values()
        )
    else:
        assert record["selection"] == {"nominal": 40, "kept": 40} and len(circuit.neurons) == 40
        least = min(map(abs, circuit.neurons.values()))
        assert int((scores.abs() > least * (1 + 1e-6)).sum()) < 40


@pytest.mark.parametrize("given", [{"method": "eap-ig"}, {"method": "acdc", "threshold": 0.2}])
def test_neither_threads_nor_batch_size_change_a_byte(given: dict[str, Any], tmp_path: Path) -> None:
    expected, before = find(tmp_path / "first", **given), torch.get_num_threads()
    try:
        for n_threads, batch_size in ((2, 1), (1, 4)):
            torch.set_num_threads(n_threads)
            again = find(tmp_path / f"again{n_threads}", batch_size=batch_size, **given)
            for name in REPEATABLE:
                assert (again.folder / name).read_bytes() == (expected.folder / name).read_bytes(), name
    finally:
        torch.set_num_threads(before)


def test_a_bootstrap_leaves_its_files_and_its_consensus(tmp_path: Path) -> None:
    result = find(tmp_path / "run", bootstrap=20, ablation="mean")
    consensus = Circuit.load(tmp_path / "run/consensus.json")
    assert consensus.neurons is not None and result.circuit.neurons is not None
    assert 0 < len(consensus.neurons) <= N_NEURONS and consensus.method["consensus"] == 0.9
    with safe_open(tmp_path / "run/bootstrap.safetensors", "pt") as file:
        inclusion, lower, upper = (file.get_tensor(name) for name in ("inclusion", "lower", "upper"))
        kept = file.get_tensor("consensus")
    assert inclusion.shape == (N_NEURONS,) and (lower <= upper).all()
    assert torch.equal(kept.bool(), inclusion >= 0.9) and int(kept.sum()) == len(consensus.neurons)
    report = (tmp_path / "run/report.md").read_text()
    assert "| neuron | score | confidence interval | inclusion |" in report
    assert f"consensus circuit | {len(consensus.neurons)} neurons" in report


def test_the_report_names_the_strongest_neurons_and_how_many_each_node_keeps(tmp_path: Path) -> None:
    result = find(tmp_path / "run", method="eap", metric="logit-diff")
    neurons, report = result.circuit.neurons, (tmp_path / "run/report.md").read_text()
    assert neurons is not None
    assert report.startswith("# ioi in tiny: a circuit of 40 neurons\n")
    strongest = max(neurons, key=lambda neuron: abs(neurons[neuron]))
    assert f"## The strongest neurons\n\n| neuron | score |\n| --- | --- |\n| `{strongest}` |" in report
    for node, scores in by_node(neurons).items():
        assert f"| `{node}` | {len(scores)} of {16 if node.kind == 'head' else 128} |" in report
    assert "40 of 576 (6.94%)" in report and "40 chosen; none is pruned" in report


def test_with_every_neuron_the_circuit_is_the_full_model(tmp_path: Path) -> None:
    metrics = find(tmp_path / "run", neurons=N_NEURONS).circuit.metrics
    assert metrics["circuit"] == metrics["full"] and metrics["faithfulness"] == 1
    assert metrics["ablated"] != metrics["full"]


def test_what_the_command_prints(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    given = ["run", "ioi", "--model", "tiny", "--level", "neuron", "--neurons", "30", "--prompts", "4"]
    assert call([*given, "--out", str(tmp_path / "a"), "--format", "dot"], debug=False) == 0
    printed = capsys.readouterr().out
    assert "ioi in tiny, eap-ig: a circuit of 30 neurons" in printed and "30 of 576 (5.21%)" in printed
    assert call([*given, "--out", str(tmp_path / "b"), "--format", "dot", "--json"], debug=False) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["n_neurons"] == 30 and document["selection"] == {"nominal": 30, "kept": 30}


# what is refused


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--neurons 5", "--neurons 5 asks for single neurons. Give --level neuron with it."),
        ("--level neurons --neurons 5", "Did you mean 'neuron'?"),
        ("--level neuron --edges 5", "--edges 5 counts edges"),
        ("--level neuron --method eap", "--neurons N, --fraction F or --threshold T"),
        ("--level neuron --neurons 0", "--neurons is 0"),
        ("--level neuron --neurons 577", "--neurons is 577; the model has 576"),
        ("--level neuron --neurons 5 --threshold 1", "each set the circuit's size"),
        ("--level neuron --neurons 5 --select greedy", "--select greedy follows edges"),
        ("--level neuron --method acdc --neurons 5", "acdc finds its own number. Give --threshold"),
        ("--level neuron --schedule grouped", "--schedule grouped goes through the edges"),
        ("--level neuron --fraction 0.1,0.2", "give one size a run"),
        ("--level neuron --threshold 0.1,0.2", "give one size a run"),
        ("--level neuron --neurons 5 --method eap --metric kl", "zero: every score would be"),
        ("--level neuron --neurons 5 --method eap --steps 3", "eap has no --steps"),
    ],
)
def test_what_does_not_go_together_is_refused_in_two_lines(
    arguments: str, says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = ["run", "ioi", "--model", "tiny", *arguments.split(), "--out", str(tmp_path / "out")]
    assert call(given, debug=False) == 2
    written = capsys.readouterr()
    assert says in written.err and written.out == "" and not (tmp_path / "out").exists()
    assert len([line for line in written.err.splitlines() if not line.startswith("loading")]) <= 2


@pytest.mark.parametrize("method", [name for name in CATALOGUE if name not in ABLE])
def test_a_method_that_finds_no_neurons_is_refused_with_its_reason_and_those_that_do(method: str) -> None:
    with pytest.raises(UsageError) as error:
        settle_method(
            RunOptions("ioi", method=method, level="neuron", neurons=5, of=("eap", "relp")), "loss"
        )
    assert REASONS[method] in str(error.value)
    assert str(error.value).endswith(f"Methods that do: {', '.join(ABLE)}.")


def test_every_method_that_the_catalogue_says_finds_neurons_can_be_made() -> None:
    for name in ABLE:
        size: dict[str, Any] = {"threshold": 0.1} if name == "acdc" else {"neurons": 5}
        given = RunOptions("ioi", method=name, level="neuron", metric="loss", **size)
        made = make_neuron_method(settle_method(given, "loss")[0], Graph(2, 2))
        assert made.name == name and made.to_dict()["level"] == "neuron"


def test_nothing_heavy_is_imported_to_refuse() -> None:
    arguments = ["run", "ioi", "--model", "tiny", "--level", "neuron", "--neurons", "577"]
    code = "import sys; from circuitfind.cli.app import call; "
    code += f"call({arguments!r}, debug=False); print('torch' in sys.modules)"
    assert python(code).splitlines()[-1] == "False"
    assert "torch" in sys.modules  # what is looked for has this name
