"""Metrics that a task file defines: with every method as the built-in ones, and told apart from wrong ones."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from circuitfind.circuits.masks import readable
from circuitfind.cli.app import call
from circuitfind.errors import OutputError, TaskError, UsageError
from circuitfind.evaluation.performance import evaluate
from circuitfind.methods.attribution.eap import EAP, EAPIG
from circuitfind.methods.attribution.gim import GIM
from circuitfind.methods.baselines import HISP
from circuitfind.methods.exact import Exact
from circuitfind.methods.masks.probing import SubnetworkProbing
from circuitfind.methods.search.acdc import ACDC
from circuitfind.metrics.objective import OwnObjective, make_objective
from circuitfind.patching.problem import Problem
from circuitfind.pipeline import RunOptions, run
from circuitfind.progress import Silent
from circuitfind.prompts.batch import Batch
from circuitfind.prompts.files import load_task
from circuitfind.prompts.task_metric import METRICS, OwnMetric, check_metrics
from circuitfind.runs.plan import make_plan
from tests.attributions import Scorer, agrees, literal, same_bits, score
from tests.oracles.acdc import acdc as literal_acdc
from tests.oracles.attribution import attribution
from tests.oracles.exact import exact as literal_exact
from tests.oracles.metrics import objective as literal_objective
from tests.oracles.screened import Screened
from tests.random_models import FAMILIES, random_batch, random_transformer


def logit_diff(logits: torch.Tensor, answers: Any, wrong_answers: Any) -> torch.Tensor:
    rows = zip(logits, answers, wrong_answers, strict=True)
    return torch.stack([row[list(right)].mean() - row[list(wrong)].mean() for row, right, wrong in rows])


def best_margin(logits: torch.Tensor, answers: Any, wrong_answers: Any) -> torch.Tensor:
    """How far the right answer is ahead of the best of all other tokens. It writes to what it is given."""
    right = torch.stack([row[list(tokens)].amax() for row, tokens in zip(logits, answers, strict=True)])
    for i, tokens in enumerate(answers):
        logits[i, list(tokens)] = -math.inf
    return right - logits.amax(-1)


def agreement(
    logits: torch.Tensor, answers: Any, wrong_answers: Any, full: torch.Tensor | None = None
) -> torch.Tensor:
    """How likely the full model thinks what the circuit says."""
    assert full is not None
    return (full.softmax(-1) * logits.log_softmax(-1)).sum(-1)


FUNCTIONS = {"same-as-logit-diff": logit_diff, "best-margin": best_margin, "agreement": agreement}
every_family = pytest.mark.parametrize("family", FAMILIES)
every_own = pytest.mark.parametrize("name", ["best-margin", "agreement"])


def with_own(batch: Batch, **functions: Callable[..., Any]) -> Batch:
    given = functions or FUNCTIONS
    return replace(batch, metrics={name: OwnMetric(name, Path("own.py"), f) for name, f in given.items()})


# as the built-in ones


@pytest.mark.parametrize(
    ("method", "other"),
    [(EAP("logit-diff"), EAP("same-as-logit-diff")), (EAPIG("logit-diff"), EAPIG("same-as-logit-diff")),
     (GIM("logit-diff"), GIM("same-as-logit-diff")), (HISP("logit-diff"), HISP("same-as-logit-diff")),
     (Exact("logit-diff"), Exact("same-as-logit-diff"))],
)  # fmt: skip
@every_family
def test_one_that_equals_the_logit_difference_gives_the_same_scores(
    family: str, method: Scorer, other: Scorer
) -> None:
    model, batch = random_transformer(family, 3), with_own(random_batch(3))
    agrees(score(other, model, batch, 2), score(method, model, batch))


@pytest.mark.parametrize("objective", ["improve", "match"])
@pytest.mark.parametrize("schedule", ["sequential", "screened", "grouped"])
@every_family
def test_one_that_equals_the_logit_difference_is_decided_the_same_way(
    family: str, schedule: str, objective: str
) -> None:
    model, batch = random_transformer(family, 3), with_own(random_batch(3))
    first, second = (
        ACDC(0.05, metric, objective=objective, schedule=schedule).find(Problem(model, batch, 2))
        for metric in ("logit-diff", "same-as-logit-diff")
    )
    assert (
        torch.equal(first.kept, second.kept) and int(first.kept.sum()) < model.architecture.graph.n_edges
    )
    assert first.kept.any() or (schedule, objective) == (
        "grouped",
        "improve",
    )  # which may remove all at once
    assert torch.allclose(first.scores, second.scores, rtol=1e-8, atol=1e-8, equal_nan=True)


def test_learned_masks_move_as_with_the_logit_difference() -> None:
    model, batch = random_transformer("llama", 3), with_own(random_batch(3))
    first, second = (
        score(SubnetworkProbing(metric, steps=4), model, batch)
        for metric in ("logit-diff", "same-as-logit-diff")
    )
    assert torch.allclose(first, second, rtol=1e-8, atol=0, equal_nan=True)


@every_own
@every_family
def test_every_attribution_is_that_of_autograd_through_the_literal_run(family: str, name: str) -> None:
    model, batch = random_transformer(family, 3), random_batch(3)
    expected = attribution(literal(family, 3), batch, "eap-ig", name, "corrupted", 2)
    agrees(score(EAPIG(name, steps=2), model, with_own(batch), 2), expected)
    if name == "best-margin":  # agreement is highest in the clean run, as KL is lowest: no gradient there
        agrees(
            score(EAP(name), model, with_own(batch)),
            attribution(literal(family, 3), batch, "eap", name, "corrupted"),
        )


@every_own
@every_family
def test_every_edge_is_measured_and_decided_as_the_literal_search_does_it(family: str, name: str) -> None:
    model, batch, whole = random_transformer(family, 3), random_batch(3), literal(family, 3)
    agrees(score(Exact(name), model, with_own(batch)), literal_exact(whole, batch, name, "corrupted"))
    outcome = literal_acdc(whole, batch, 0.05, name, "corrupted")
    assert outcome.margin > 1e-8
    found = ACDC(0.05, name).find(Problem(model, with_own(batch), 2))
    graph = model.architecture.graph
    assert {edge for edge in graph.edges() if found.kept[graph.order(edge)]} == outcome.kept
    for edge, value in outcome.scores.items():
        assert float(found.scores[graph.order(edge)]) == pytest.approx(value, abs=1e-8)


def test_a_screened_search_by_it_is_the_literal_one() -> None:
    batch = random_batch(2)
    outcome = Screened(literal("gpt2", 2), batch, 0.05, "best-margin", "corrupted", False).search()
    assert outcome.margin > 1e-8
    found = ACDC(0.05, "best-margin", schedule="screened").find(
        Problem(random_transformer("gpt2", 2), with_own(batch), 8)
    )
    graph = outcome.literal.graph
    assert {edge for edge in graph.edges() if found.kept[graph.order(edge)]} == outcome.kept


@every_own
def test_the_objective_is_its_negative_and_the_slope_that_of_autograd(name: str) -> None:
    model, batch = random_transformer("gpt2", 1), with_own(random_batch(5))
    full, final = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    objective = make_objective(name, model, batch, full)
    assert isinstance(objective, OwnObjective)
    from circuitfind.models.transformer import unembed

    logits, reference = unembed(model, final), unembed(model, full)
    expected = [
        literal_objective(name, reference[i], logits[i], batch.answers[i], batch.wrong_answers[i])
        for i in range(3)
    ]
    assert objective(final.unsqueeze(0))[0].tolist() == pytest.approx(expected, abs=1e-10)
    step = 1e-6 * torch.randn(
        final.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    rise = (objective((final + step).unsqueeze(0)) - objective((final - step).unsqueeze(0)))[0]
    assert torch.allclose((objective.slope(final) * 2 * step).sum(-1), rise, rtol=1e-4, atol=1e-12)


def test_a_prompts_value_does_not_depend_on_what_is_computed_beside_it() -> None:
    model, batch = (
        random_transformer("gpt2", 1, dtype=torch.float32),
        with_own(random_batch(5, (5, 7, 4, 6))),
    )
    finals = torch.randn(9, 4, 16, generator=torch.Generator().manual_seed(1))
    objective = make_objective("agreement", model, batch, finals[0] + 0.5)
    together = objective(finals)
    for n in (1, 2, 5):
        assert torch.equal(objective(finals[:n]), together[:n])
    mixed = with_own(batch, mean=lambda logits, right, wrong: logits.mean(0)[:1].expand(len(logits)))
    value = make_objective("mean", model, mixed, finals[0])(finals)
    assert len(set(value.flatten().tolist())) == 36  # each the mean of itself


@pytest.mark.parametrize(
    "method", [EAP("best-margin"), EAPIG("agreement", steps=2), Exact("best-margin")]
)
def test_batch_size_and_threads_change_no_bit(method: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.attributions.random_batch", lambda *given: with_own(random_batch(*given)))
    for family, dtype in (("gpt2", torch.float32), ("llama", torch.float32)):
        same_bits(method, family, dtype)


def test_the_evaluation_has_it_beside_the_others() -> None:
    model, batch = random_transformer("gpt2", 1), with_own(random_batch(1, (5, 7, 4, 6, 5)))
    kept = readable(model.architecture.graph)
    kept[-1, 1:3] = False
    found = evaluate(model, batch, kept, "corrupted", 2)
    assert found.full.own == tuple(FUNCTIONS)
    for run_ in (found.full, found.circuit, found.ablated):
        assert run_.values["same-as-logit-diff"] == pytest.approx(run_.values["logit-diff"], abs=1e-10)
    by_metric: Any = found.to_dict()["faithfulness_by_metric"]
    assert by_metric["same-as-logit-diff"] == pytest.approx(by_metric["logit-diff"])
    whole = literal("gpt2", 1)
    assert found.full.values["best-margin"][0] != found.circuit.values["best-margin"][0]
    from tests.oracles.literal import run as literal_run

    logits, _ = literal_run(whole, batch.clean[0, :5], frozenset(whole.graph.edges()), {})
    expected = -literal_objective("best-margin", logits, logits, batch.answers[0], ())
    assert found.full.values["best-margin"][0] == pytest.approx(expected, abs=1e-10)


# what can be wrong with it


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (
            lambda logits, right, wrong: 1.0,
            "returned a float; it must be a tensor with one number for each prompt",
        ),
        (lambda logits, right, wrong: logits.mean(), r"returned the shape \[\] for 1 prompt"),
        (lambda logits, right, wrong: logits[:, :1], r"returned the shape \[1, 1\] for 1 prompt"),
        (
            lambda logits, right, wrong: logits[:, 0] * math.nan,
            "returned nan for a prompt whose logits are finite",
        ),
        (
            lambda logits, right, wrong: logits[:, 0].log() * 0 - math.inf,
            "returned -?(inf|nan) for a prompt",
        ),
        (lambda logits, right, wrong: logits.fill_(math.inf).mean(-1) * 0, "returned nan for a prompt"),
        (
            lambda logits, right, wrong: logits[:, 99],
            "metric 'wrong': IndexError: index 99 is out of bounds",
        ),
        (
            lambda logits, right, wrong: logits.argmax(-1).double(),
            "has no gradient. Write it in differentiable",
        ),
        (lambda logits, right, wrong: logits[:, 0].detach(), "has no gradient"),
        (
            lambda logits, right, wrong: (logits[:, 0] * 0).sqrt(),
            "has a gradient that is NaN or infinite",
        ),
    ],
)
def test_a_function_that_is_wrong_is_told_at_its_first_use(
    function: Callable[..., Any], problem: str
) -> None:
    model, batch = random_transformer("gpt2", 1), with_own(random_batch(1), wrong=function)
    with pytest.raises(TaskError, match=problem) as caught:
        score(EAP("wrong"), model, batch)
    assert str(caught.value).startswith("own.py") and "metric 'wrong'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_without_a_gradient_can_be_searched_by() -> None:
    model = random_transformer("gpt2", 1)
    batch = with_own(random_batch(1), hits=lambda logits, right, wrong: (logits.argmax(-1) > 3).double())
    found = ACDC(0.1, "hits").find(Problem(model, batch, 8))
    assert found.decided.sum() == model.architecture.graph.n_edges


def test_one_that_is_not_the_batchs_is_unknown() -> None:
    batch = with_own(random_batch(1))
    with pytest.raises(UsageError, match=r"No metric named 'best-margn'\. Did you mean 'best-margin'\?"):
        score(EAP("best-margn"), random_transformer("gpt2", 1), batch)


# in a task file

FILE = """
import torch
from circuitfind.prompts.pairs import Task
from circuitfind.prompts.files import load_task

IOI = load_task("ioi")

def ahead(logits, answers, wrong_answers):
    return torch.stack([row[right[0]] - row[wrong[0]] for row, right, wrong in zip(logits, answers, wrong_answers)])

TASK = Task("mine", "Mine", "", "ahead", IOI.example, IOI.make, metrics={})
"""


def write(folder: Path, metrics: str = '{"ahead": ahead}', extra: str = "") -> str:
    path = folder / "mine.py"
    path.write_text(FILE.replace("metrics={}", f"metrics={metrics}") + extra)
    return str(path)


@pytest.mark.parametrize(
    ("metrics", "problem"),
    [
        ([best_margin], "metrics is a list; it must be a dict from names to functions."),
        ({"kl": best_margin}, "the metric 'kl' has the name of a built-in one. Give it another."),
        (
            {"accuracy": best_margin},
            "the metric 'accuracy' has the name of a built-in one. Give it another.",
        ),
        (
            {"two words": best_margin},
            "a metric's name is 'two words'; it must be letters, digits, '-', '_' and '.'.",
        ),
        ({3: best_margin}, "a metric's name is 3; it must be letters, digits, '-', '_' and '.'."),
        ({"ahead": 3}, "the metric 'ahead' is a int; it must be a function."),
        (
            {"ahead": lambda logits: logits},
            "the metric 'ahead' can't be called with (logits, answers, wrong_answers).",
        ),
    ],
)
def test_metrics_that_are_none_are_refused_before_they_are_called(metrics: object, problem: str) -> None:
    with pytest.raises(TaskError) as caught:
        check_metrics(Path("mine.py"), metrics)
    assert str(caught.value).startswith(f"mine.py: {problem}")


def test_they_are_checked_when_the_task_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"mine\.py: the metric 'kl' has the name of a built-in one"):
        load_task(write(tmp_path, '{"kl": ahead}'))


def find(out: Path, task: str, **options: Any) -> Any:
    chosen = {"model": "tiny", "n_prompts": 3, "threshold": 0.2, "formats": ()}
    return run(RunOptions(task, **chosen | options, out=out))


def test_a_run_by_it_names_it_in_every_file_and_finds_what_the_logit_difference_finds(
    tmp_path: Path,
) -> None:
    task = write(tmp_path)
    found, other = find(tmp_path / "run", task), find(tmp_path / "other", task, metric="logit-diff")
    assert found.circuit.edges.keys() == other.circuit.edges.keys() and found.circuit.edges
    circuit = json.loads((tmp_path / "run" / "circuit.json").read_text())
    assert circuit["method"]["metric"] == "ahead"
    assert circuit["metrics"]["full"]["ahead"] == pytest.approx(circuit["metrics"]["full"]["logit-diff"])
    assert circuit["metrics"]["faithfulness_by_metric"]["ahead"] == pytest.approx(
        found.evaluation.faithfulness("ahead")
    )
    assert len(circuit["task"]["file_sha256"]) == 64
    assert json.loads((tmp_path / "run" / "run.json").read_text())["command"]["metric"] == "ahead"
    assert "| ahead |" in (tmp_path / "run" / "report.md").read_text()


def test_a_run_is_not_resumed_when_the_file_has_changed(tmp_path: Path) -> None:
    find(tmp_path / "run", write(tmp_path))
    assert make_plan(
        RunOptions(write(tmp_path), "tiny", threshold=0.2, out=tmp_path / "run", resume=True), Silent()
    )
    changed = write(tmp_path, extra="\n# another one")
    with pytest.raises(
        OutputError, match=r"is a run of something else: task_file_sha256 \w{12}\.\.\. \(now \w{12}"
    ):
        make_plan(RunOptions(changed, "tiny", threshold=0.2, out=tmp_path / "run", resume=True), Silent())


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"metric": "ahed"}, "No metric named 'ahed'. Did you mean 'ahead'? Metrics: ahead, kl, logit-diff, loss,"),
        ({"threshold": None}, "ahead is the task's own metric: give acdc a --threshold in its unit."),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_options_is_told_before_a_model_is_looked_for(
    tmp_path: Path, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UsageError) as caught:
        make_plan(RunOptions(write(tmp_path), "no-such-model", **{"threshold": 0.2} | options), Silent())
    assert str(caught.value).startswith(problem)


def test_the_command_line_shows_a_tasks_own_metrics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["tasks", "show", write(tmp_path)], debug=False) == 0
    assert "own metrics: ahead\n" in capsys.readouterr().out
    assert METRICS == ("kl", "logit-diff", "prob-diff", "loss")
