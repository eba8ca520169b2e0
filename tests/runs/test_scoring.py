"""A whole run of a method that scores edges, on tiny: from scores to a circuit, and how sure it is."""

from __future__ import annotations

import json
import math
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.selection import prune
from circuitfind.errors import ModelError, UsageError
from circuitfind.methods.attribution.eap import EAPIG
from circuitfind.methods.catalogue import CATALOGUE, DEFAULT_SCORES, MethodInfo
from circuitfind.methods.make import METHODS
from circuitfind.methods.masks import learned, pruning
from circuitfind.methods.options import OF_SCORES, settle_method
from circuitfind.methods.settings import RULES, check_setting
from circuitfind.pipeline import RunOptions, RunResult, run
from circuitfind.runs import prepare
from circuitfind.runs.plan import CHOICES
from circuitfind.sweep import sweep

REPEATABLE = (
    "circuit.json", "consensus.json", "scores.safetensors", "prompt_scores.safetensors", "bootstrap.safetensors",
    "circuit.dot", "prompts.jsonl",
)  # fmt: skip
N_EDGES, N_PROMPTS = 60, 9  # more than one block of 8, so that blocks of any size are ragged
SCORING = [info for info in CATALOGUE.values() if info.scores]
QUICK: dict[str, dict[str, Any]] = {
    "ensemble": {"of": ("eap-ig", "ifr")},
    "edge-pruning": {"steps": 20},
    "subnetwork-probing": {"steps": 20},
}
MAY_LEAD_NOWHERE = {"hisp", "activation-magnitude", "random", "edge-pruning", "subnetwork-probing"}
"""What these rank highest may be no path, after a few steps at any rate, and be pruned to nothing."""
every_scorer = pytest.mark.parametrize("info", SCORING, ids=lambda info: info.name)


def find(out: Path, **options: Any) -> RunResult:
    chosen: dict[str, Any] = {
        "task": "ioi",
        "model": "tiny",
        "n_prompts": N_PROMPTS,
        "edges": N_EDGES,
        "formats": (),
        "bootstrap": 20,
    }
    return run(RunOptions(**chosen | options, out=out))


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """The run that others are compared with."""
    return find(tmp_path_factory.mktemp("runs") / "first")


def test_where_a_number_of_edges_is_asked_for_the_method_is_one_that_scores(result: RunResult) -> None:
    method = result.circuit.method
    assert method["name"] == DEFAULT_SCORES
    assert (method["edges"], method["select"], method["metric"]) == (N_EDGES, "top", "kl")


def test_the_folder_holds_scores_of_prompts_and_what_a_bootstrap_makes_of_them(result: RunResult) -> None:
    assert {path.name for path in result.folder.iterdir()} == {*REPEATABLE, "report.md", "run.json"}
    record = json.loads((result.folder / "run.json").read_text())
    assert record["selection"] == {"nominal": N_EDGES, "kept": len(result.circuit.edges)}
    assert record["bootstrap"]["resamples"] == 20
    assert 0 < record["bootstrap"]["jaccard"] <= 1
    assert "search" not in record


def test_the_circuit_is_the_pruned_choice_of_the_largest_mean_scores(result: RunResult) -> None:
    graph = result.circuit.graph
    scores = load_file(result.folder / "scores.safetensors")["scores"]
    per_prompt = load_file(result.folder / "prompt_scores.safetensors")
    each = torch.ldexp(per_prompt["scores"].float(), per_prompt["exponent"]).double()
    places = [graph.order(edge) for edge in graph.edges()]
    errors = (each.mean(0) - torch.tensor([float(scores[place]) for place in places])).abs()
    assert bool((errors <= each.abs().mean(0) * 2**-10 + 1e-9).all())
    largest = sorted(places, key=lambda place: -abs(float(scores[place])))[:N_EDGES]
    chosen = torch.zeros(scores.shape, dtype=torch.bool)
    chosen[[row for row, _ in largest], [sender for _, sender in largest]] = True
    kept = prune(graph, chosen)
    assert {graph.order(edge) for edge in result.circuit.edges} == {
        (r, s) for r, s in kept.nonzero().tolist()
    }


def test_the_consensus_circuit_has_what_most_resamples_have(result: RunResult) -> None:
    consensus, graph = Circuit.load(result.folder / "consensus.json"), result.circuit.graph
    found = load_file(result.folder / "bootstrap.safetensors")
    inclusion = {edge: float(found["inclusion"][graph.order(edge)]) for edge in graph.edges()}
    assert consensus.edges
    assert all(inclusion[edge] >= consensus.method["consensus"] - 1e-6 for edge in consensus.edges)
    assert int(found["consensus"].sum()) == len(consensus.edges)
    assert consensus.method["confidence"] == 0.95 and "level" not in consensus.method
    assert consensus.metrics["full"] == result.circuit.metrics["full"]
    assert consensus.metrics["circuit"] != result.circuit.metrics["circuit"]
    assert all(found["lower"][graph.order(e)] <= found["upper"][graph.order(e)] for e in graph.edges())


@pytest.mark.parametrize(
    "options", [{"batch_size": 3}, {"batch_size": 9}, {}], ids=["threes", "all", "again"]
)
def test_the_same_question_gives_the_same_bytes(
    options: dict[str, Any], result: RunResult, tmp_path: Path
) -> None:
    again = find(tmp_path / "again", **options)
    for name in REPEATABLE:
        assert (again.folder / name).read_bytes() == (result.folder / name).read_bytes(), name


@every_scorer
def test_every_method_makes_a_circuit_of_the_size_asked_for(info: MethodInfo, tmp_path: Path) -> None:
    found = find(
        tmp_path / "run", method=info.name, bootstrap=None, n_prompts=4, **QUICK.get(info.name, {})
    )
    record = json.loads((found.folder / "run.json").read_text())
    assert record["selection"]["nominal"] == N_EDGES
    assert info.name in MAY_LEAD_NOWHERE or found.circuit.edges
    assert len(found.circuit.edges) <= N_EDGES
    assert found.circuit.method["name"] == info.name
    assert found.circuit.method["ablation"] == "corrupted"
    if "kl" in info.degenerate:
        assert found.circuit.method["metric"] == "logit-diff"
        assert any("logit-diff instead" in warning for warning in found.warnings)


def test_a_threshold_keeps_what_scores_at_least_as_much_and_a_sweep_scores_once(tmp_path: Path) -> None:
    options = RunOptions("ioi", "tiny", "eap-ig", n_prompts=4, out=tmp_path / "sweep", formats=())
    swept = sweep(options, (0.5, 0.05))
    for row in swept.table["circuits"]:
        alone = run(RunOptions("ioi", "tiny", "eap-ig", row["threshold"], n_prompts=4, formats=(),
                               out=tmp_path / row["folder"]))  # fmt: skip
        scores = load_file(alone.folder / "scores.safetensors")["scores"]
        assert row["selection"]["nominal"] == int((scores.abs() >= row["threshold"]).sum())
        for name in ("circuit.json", "scores.safetensors"):
            assert (swept.folder / row["folder"] / name).read_bytes() == (
                alone.folder / name
            ).read_bytes()
    assert "before pruning" in (swept.folder / "sweep.md").read_text()


def test_more_edges_than_there_are_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="263 edges are asked for; the model's graph has 262"):
        find(tmp_path / "run", edges=263)
    assert not (tmp_path / "run").exists()


def test_the_report_says_how_sure_it_is(result: RunResult) -> None:
    report = (result.folder / "report.md").read_text()
    assert "## How sure it is" in report
    assert "confidence interval" in report
    assert f"{N_EDGES} chosen, {len(result.circuit.edges)} left after pruning" in report


@pytest.mark.parametrize("info", CATALOGUE.values(), ids=lambda info: info.name)
def test_what_the_catalogue_says_of_a_method_is_true_of_it(info: MethodInfo) -> None:
    method, of_all = METHODS[info.name], {"threshold", "metric", "ablation", "seed"}
    defaults = {field.name: field.default for field in fields(method)}
    assert method.name == info.name
    assert (info.levels, info.kv) >= (("edge",), ("per-head",))
    of_all |= {"level", "kv"}
    if info.name == "ensemble":
        assert set(defaults) - of_all == set(info.takes)
        return
    assert defaults.keys() - of_all == set(info.takes) - {"start_from"} | set(info.settings)
    assert {name: defaults[name] for name in info.settings} == info.settings
    assert ("metric" in defaults) is info.has_metric
    assert getattr(method, "per_prompt", info.scores) is info.per_prompt
    for metric in info.degenerate:
        with pytest.raises(UsageError, match=metric):
            method(metric=metric)


def test_every_method_is_in_the_catalogue() -> None:
    assert set(METHODS) == set(CATALOGUE) == set(CHOICES["method"])


def test_options_of_scores_are_options_of_a_run() -> None:
    options = {field.name for field in fields(RunOptions)}
    assert set(OF_SCORES) <= options
    assert {option for info in CATALOGUE.values() for option in info.takes} <= options


def test_a_method_that_is_named_keeps_the_metric_that_is_asked_for() -> None:
    options, said = settle_method(RunOptions("ioi", method="eap", edges=3, metric="loss"), "kl")
    assert (options.metric, said) == ("loss", ())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"method": "ensemble"},
            "An ensemble needs two methods or more. Name them, e.g. --of eap-ig,relp.",
        ),
        ({"method": "ensemble", "of": ("eap", "eap")}, "--of is eap,eap; name each method once"),
        ({"method": "ensemble", "of": ("eap", "acdc")}, "acdc can't be part of another method"),
        ({"method": "ensemble", "of": ("eap", "epa")}, "No method named 'epa'. Did you mean 'eap'?"),
        (
            {"method": "ensemble", "of": ("eap", "ifr"), "metric": "kl"},
            "eap takes its gradient in the clean run",
        ),
        (
            {"method": "ensemble", "of": ("eap", "random"), "bootstrap": 9},
            "no scores of single prompts here",
        ),
        (
            {"method": "edge-pruning", "start_from": "edge-pruning"},
            "edge-pruning can't be part of another method",
        ),
        (
            {"method": "eap", "start_from": "eap-ig"},
            "eap has no --start-from; it is for subnetwork-probing, edge-pr",
        ),
        (
            {"method": "ensemble", "of": ("clean-corrupted", "ifr"), "steps": 3},
            "ensemble has no --steps; it is for",
        ),
        ({"method": "ifr", "metric": "loss"}, "ifr has no --metric: its scores depend on none"),
        ({"method": "random", "bootstrap": 9}, "random has no scores of single prompts here"),
        (
            {"method": "gim", "settings": (("temprature", "3"),)},
            "No setting named 'temprature'. Did you mean 'temper",
        ),
        (
            {"method": "gim", "settings": (("temperature", "hot"),)},
            "--set temperature=hot: it must be a number",
        ),
        ({"method": "atp", "settings": (("qk_fix", "1"),)}, "--set qk_fix=1: it must be true or false"),
        (
            {"method": "eap", "settings": (("steps", "1"),)},
            "eap has no settings. Leave out --set steps=1",
        ),
    ],
)
def test_options_that_make_no_sense_together_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        settle_method(RunOptions("ioi", edges=9, **options), "loss")
    assert said in str(refused.value)


def test_one_prompt_is_too_few_for_a_bootstrap_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "load_model", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(
        UsageError, match=r"^A bootstrap needs two prompts or more, not 1: raise --prompts"
    ):
        find(tmp_path / "run", n_prompts=1)
    assert not (tmp_path / "run").exists()


def test_masks_are_learned_from_many_prompts_and_few_are_warned_of(tmp_path: Path) -> None:
    def told(folder: str, **options: Any) -> tuple[int, list[str]]:
        found = find(tmp_path / folder, bootstrap=None, **options)
        record = json.loads((found.folder / "run.json").read_text())
        return found.circuit.task["n_prompts"], [w for w in record["warnings"] if "by heart" in w]

    learned = {"method": "subnetwork-probing", "steps": 2}
    assert told("many", n_prompts=None, **learned) == (64, [])
    assert told("enough", n_prompts=32, **learned) == (32, [])
    n_prompts, warnings = told("few", n_prompts=31, **learned)
    assert n_prompts == 31 and len(warnings) == 1
    assert (
        warnings[0].startswith("subnetwork-probing may learn 31 prompts by heart")
        and "--prompts 64" in warnings[0]
    )
    assert told("scored", n_prompts=None) == (16, [])


def test_settings_take_the_types_they_have() -> None:
    given = (("learning-rate", "0.5"), ("node_sparsity", "0.25"), ("prompts_per_step", "4"))
    options, _ = settle_method(RunOptions("ioi", method="edge-pruning", edges=9, settings=given), "kl")
    assert options.settings == (("learning_rate", 0.5), ("node_sparsity", 0.25), ("prompts_per_step", 4))


def test_a_setting_out_of_range_is_refused_before_the_model_is_looked_for() -> None:
    for method, setting in (
        ("edge-pruning", ("sparsity", "2.0")),
        ("ifr", ("inputs", "k")),
        ("gim", ("temperature", "nan")),
    ):
        with pytest.raises(UsageError, match=re.escape(f"--set {'='.join(setting)}: it must be")):
            settle_method(RunOptions("ioi", "none", method, edges=9, settings=(setting,)), "kl")


def test_every_setting_that_is_a_number_or_a_word_has_a_rule() -> None:
    defaults = {name: value for info in CATALOGUE.values() for name, value in info.settings.items()}
    assert set(RULES) == {name for name, value in defaults.items() if not isinstance(value, bool)}
    for name, value in defaults.items():
        check_setting(name, value)


def test_a_setting_reaches_the_method_and_its_record(tmp_path: Path) -> None:
    found = find(
        tmp_path / "run", method="gim", settings=(("temperature", "4"),), bootstrap=None, n_prompts=4
    )
    assert found.circuit.method["temperature"] == 4.0


def test_learned_masks_take_the_size_for_their_target_and_may_start_from_scores(tmp_path: Path) -> None:
    found = find(
        tmp_path / "run", method="edge-pruning", start_from="eap-ig", steps=3, bootstrap=None, n_prompts=4
    )
    method = found.circuit.method
    assert method["sparsity"] == pytest.approx(1 - N_EDGES / 262)
    assert (method["steps"], method["start_from"]["name"]) == (3, "eap-ig")
    assert method["start_from"]["steps"] == EAPIG().steps  # --steps are those of the masks


def test_several_numbers_of_edges_are_a_sweep_that_scores_once(tmp_path: Path) -> None:
    options = RunOptions("ioi", "tiny", "eap-ig", n_prompts=4, out=tmp_path / "sweep", formats=("svg",))
    swept = sweep(options, (100, 20), of="edges")
    assert [row["edges"] for row in swept.table["circuits"]] == [20, 100]
    assert [row["folder"] for row in swept.table["circuits"]] == ["edges-20", "edges-100"]
    assert "edges" not in swept.table["method"]
    page = (swept.folder / "sweep.md").read_text()
    assert "2 numbers of edges" in page and "| asked for |" in page and "| before pruning |" in page
    for n_edges in (20, 100):
        alone = run(RunOptions("ioi", "tiny", "eap-ig", edges=n_edges, n_prompts=4, formats=(),
                               out=tmp_path / str(n_edges)))  # fmt: skip
        for name in ("circuit.json", "scores.safetensors", "prompt_scores.safetensors"):
            assert (swept.folder / f"edges-{n_edges}" / name).read_bytes() == (
                alone.folder / name
            ).read_bytes()


def test_learned_masks_are_trained_anew_for_every_target(tmp_path: Path) -> None:
    options = RunOptions(
        "ioi", "tiny", "edge-pruning", n_prompts=4, out=tmp_path / "sweep", formats=(), steps=3
    )
    swept = sweep(options, (20, 100), of="edges")
    sparsities = [
        Circuit.load(swept.folder / row["folder"]).method["sparsity"] for row in swept.table["circuits"]
    ]
    assert sparsities == pytest.approx([1 - 20 / 262, 1 - 100 / 262])


@pytest.mark.parametrize("ablation", ["mean", "mean-positional"])
def test_a_mean_ablation_takes_its_means_over_other_prompts_of_the_task(
    ablation: str, tmp_path: Path
) -> None:
    found = find(tmp_path / "run", ablation=ablation, bootstrap=None)
    reference = [
        json.loads(line)["clean"] for line in (found.folder / "reference.jsonl").read_text().splitlines()
    ]
    own = {
        json.loads(line)["clean"] for line in (found.folder / "prompts.jsonl").read_text().splitlines()
    }
    assert len(reference) == found.circuit.method["means"]["n_prompts"] == 64
    assert own.isdisjoint(reference)
    assert found.circuit.method["ablation"] == ablation
    again = find(tmp_path / "again", ablation=ablation, bootstrap=None, batch_size=3)
    for name in ("circuit.json", "scores.safetensors", "reference.jsonl"):
        assert (again.folder / name).read_bytes() == (found.folder / name).read_bytes(), name


def test_a_search_under_mean_ablation_keeps_its_means_in_the_record(tmp_path: Path) -> None:
    options = RunOptions(
        "ioi", "tiny", threshold=0.5, n_prompts=4, ablation="mean", formats=(), out=tmp_path / "run"
    )
    found = run(options)
    assert found.circuit.method["means"]["n_prompts"] == 64
    assert found.circuit.method["name"] == "acdc"


def test_a_task_without_other_prompts_takes_the_means_over_its_own_and_says_so(tmp_path: Path) -> None:
    source = find(tmp_path / "source", bootstrap=None, n_prompts=3)
    task = str(source.folder / "prompts.jsonl")
    found = find(tmp_path / "run", task=task, n_prompts=None, ablation="mean", bootstrap=None)
    assert any("the task has no others" in warning for warning in found.warnings)
    assert found.circuit.method["means"]["n_prompts"] == 3


def test_masks_that_diverge_end_the_run_and_leave_the_last_sound_scores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sound: list[torch.Tensor] = []
    update = pruning._Pruning.update

    def spoil(masks: Any, step: int, gradient: torch.Tensor) -> None:
        if step == 2:
            sound.append(learned._scores(masks, torch.float32))
            gradient = gradient * math.nan
        update(masks, step, gradient)

    monkeypatch.setattr(pruning._Pruning, "update", spoil)
    with pytest.raises(
        ModelError, match=r"diverged at step 3 of 5[\s\S]*last sound step are in"
    ) as ended:
        find(tmp_path / "run", method="edge-pruning", steps=5, bootstrap=None, n_prompts=4)
    assert str(tmp_path / "run" / "scores.safetensors") in str(ended.value)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"scores.safetensors"}
    left = load_file(tmp_path / "run" / "scores.safetensors")["scores"]
    assert torch.equal(left.nan_to_num(), sound[0][0].nan_to_num())
