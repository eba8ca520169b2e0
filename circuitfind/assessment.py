"""How good a circuit is: everything that is judged of one, on one screen.

    circuit file -> model and prompts that it was found in -> runs -> what they say -> report.md, report.json, pictures

What is judged is in ``evaluation/``, a module a judgement (docs/evaluation.md defines them).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from circuitfind import __version__
from circuitfind.assessmentplan import AssessmentPlan
from circuitfind.batch import tokenise
from circuitfind.circuit import Circuit
from circuitfind.comparison import check_same_graph
from circuitfind.constants import with_constants
from circuitfind.errors import TaskError, UsageError
from circuitfind.evaluation.completeness import measure_completeness
from circuitfind.evaluation.curve import Curve, measure_curve
from circuitfind.evaluation.hypotheses import run_tests
from circuitfind.evaluation.minimality import measure_minimality
from circuitfind.evaluation.options import HypothesisOptions, KnockOuts, LeaveOneOut, RandomCircuits
from circuitfind.evaluation.performance import Evaluation
from circuitfind.evaluation.randoms import measure_against_random
from circuitfind.evaluation.reference import agree_with_circuit, read_scores
from circuitfind.evaluation.spread import measure_spread
from circuitfind.evaluation.trials import Kept, Trials
from circuitfind.export.curvechart import draw_curve
from circuitfind.findings import Ready, kept_of, task_block
from circuitfind.judged import evaluate_kept
from circuitfind.patching import ABLATIONS, find_ablation
from circuitfind.pipeline import make_ready
from circuitfind.progress import Progress
from circuitfind.prompts import PromptPair
from circuitfind.promptsets import other_prompts
from circuitfind.report import markdown_table
from circuitfind.roles import find_roles
from circuitfind.runfolder import json_file
from circuitfind.sittings import Clock, Noted
from circuitfind.taskfiles import load_task
from circuitfind.threads import Threads


@dataclass(frozen=True)
class Section:
    """One judgement: plain values for programs, lines for people, and rows where it is a table (the first its head)."""

    name: str
    title: str
    values: Mapping[str, Any]
    lines: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Assessment:
    """Everything that was judged of a circuit."""

    circuit: Circuit
    model: str
    metric: str
    evaluation: Evaluation
    sections: tuple[Section, ...]
    warnings: tuple[str, ...]
    seconds: Mapping[str, float]
    pictures: Mapping[str, bytes] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """report.json."""
        return {
            "format": "circuitfind.evaluation",
            "version": 1,
            "circuit": {
                "n_edges": len(self.circuit.edges),
                "edges_sha256": hashlib.sha256("\n".join(map(str, self.circuit.edges)).encode()).hexdigest(),
                **{block: dict(getattr(self.circuit, block)) for block in ("model", "task", "method")},
            },
            "model": self.model,
            "metric": self.metric,
            **{section.name: section.values for section in self.sections},
            "warnings": list(self.warnings),
            "timings": dict(self.seconds),
            "circuitfind": __version__,
        }


def assess(plan: AssessmentPlan, progress: Progress) -> Assessment:
    """Everything that is asked of the circuit. Raises CircuitfindError for whatever is wrong."""
    notes, clock = Noted(progress, plan.origin.cautions), Clock()
    ready = make_ready(plan.run, notes, clock)
    circuit = plan.origin.circuit
    check(circuit, ready, notes)
    notes.stage("evaluating the circuit")
    evaluation = evaluate_kept(circuit, ready)
    metric = plan.options.metric or ("kl" if evaluation.faithfulness("logit-diff") is None else "logit-diff")
    sections = [on_its_prompts(evaluation, metric)]
    for part in plan.parts:
        if part in ON_OTHER_RUNS:
            notes.stage(TITLES[part].lower())
            with clock.time(part):
                sections += ON_OTHER_RUNS[part](plan, ready, metric, notes)
    by_trials, curve = on_trials(plan, ready, metric, notes, clock)
    sections += by_trials
    pictures = {} if curve is None else draw_pictures(curve, circuit, ready)
    return Assessment(
        circuit, ready.model.name, metric, evaluation, tuple(sections), tuple(notes.warnings), clock.seconds, pictures
    )


def check(circuit: Circuit, ready: Ready, notes: Noted) -> None:
    """Raises CircuitError where the model has another shape; warns where it is not the one, or not on the prompts, that
    the circuit was found in."""
    check_same_graph(circuit.graph, ready.model.name, ready.graph)
    if circuit.model.get("sha256") not in (None, ready.model.sha256):
        notes.warn(f"{ready.model.name} has other weights than the model that the circuit was found in.")
    if circuit.task.get("tokenizer_sha256") not in (None, ready.tokenizer.sha256):
        notes.warn(f"{ready.model.name} has another tokenizer than the model that the circuit was found in.")
    if circuit.task.get("prompts_sha256") not in (None, task_block(ready)["prompts_sha256"]):
        notes.warn("the prompts are not those that the circuit was found on.")


def on_its_prompts(evaluation: Evaluation, metric: str) -> Section:
    """The circuit on the prompts that it was found on, as a mean and prompt by prompt."""
    spread = measure_spread(evaluation, metric)
    return Section(
        "faithfulness",
        "On the prompts that it was found on",
        {**evaluation.to_dict(), "spread": spread.to_dict()},
        (_interval_line(evaluation, metric), *spread.lines()),
    )


def _interval_line(evaluation: Evaluation, metric: str) -> str:
    value, interval = evaluation.faithfulness(metric), evaluation.interval(metric)
    if value is None or interval is None:
        return f"Faithfulness ({metric}): none; full and fully ablated model do not differ enough."
    said = f"{interval[0]:.3f} to {interval[1]:.3f}"
    return f"Faithfulness ({metric}) of the means: {value:.3f}; 95% of resampled prompts: {said}."


HEAD = ("", "faithfulness", "KL, nats", "logit diff", "accuracy", "full accuracy")


def _row(name: str, evaluation: Evaluation, metric: str) -> tuple[str, ...]:
    circuit = evaluation.circuit
    values = (evaluation.faithfulness(metric), circuit.mean("kl"), circuit.mean("logit-diff"))
    shown = ["-" if value is None else f"{value:.3f}" for value in values]
    return (name, *shown, f"{circuit.mean('accuracy'):.0%}", f"{evaluation.full.mean('accuracy'):.0%}")


def under_ablations(plan: AssessmentPlan, ready: Ready, metric: str, notes: Noted) -> list[Section]:
    """The same circuit where removed edges carry something else: how much the verdict depends on that choice."""
    rows: list[tuple[str, ...]] = [HEAD]
    values = {}
    for ablation in plan.options.ablations or ABLATIONS:
        if ablation == "optimal" and plan.origin.circuit.neurons is not None:
            notes.warn("optimal ablation is left out: its constants are of what nodes write, not of their neurons.")
            continue
        evaluation = evaluate_kept(plan.origin.circuit, with_constants(ready, ablation, notes, Clock()))
        values[ablation] = evaluation.to_dict()
        rows.append(_row(ablation, evaluation, metric))
    return [Section("ablations", TITLES["ablations"], values, rows=tuple(rows))]


def on_other_prompts(plan: AssessmentPlan, ready: Ready, metric: str, notes: Noted) -> list[Section]:
    """The circuit on prompts that it was not found on: others of the task, and those of other tasks."""
    rows: list[tuple[str, ...]] = [HEAD]
    own, values = plan.origin.task, {}
    if own is None:
        notes.warn(f"no other prompts of the task were made: its file was not opened. {plan.origin.suggestion}")
    tasks = {"the task, another seed": own, "the task, other templates": None if own is None else own.elsewhere}
    for name, task in {**tasks, **{name: load_task(name) for name in plan.options.also}}.items():
        if task is None:
            continue
        n_prompts = plan.options.n_held_out or len(ready.pairs)
        pairs = other_prompts(task, ready.tokenizer, ready.pairs, ready.options, n_prompts)
        if not pairs:
            notes.warn(f"{name}: there are no other prompts.")
            continue
        try:
            elsewhere = on_prompts(replace(ready, task=task), pairs)
        except (TaskError, UsageError) as error:
            notes.warn(f"{name} is left out: {error}")
            continue
        now = with_constants(elsewhere, ready.options.ablation, notes, Clock())
        evaluation = evaluate_kept(plan.origin.circuit, now)
        values[name] = {"n_prompts": len(pairs), **evaluation.to_dict()}
        rows.append(_row(f"{name}, {len(pairs)} prompts", evaluation, metric))
    return [Section("held_out", TITLES["held-out"], values, rows=tuple(rows))] if values else []


def on_prompts(ready: Ready, pairs: Sequence[PromptPair]) -> Ready:
    """The same with other prompts. Raises TaskError or UsageError for prompts that are none of this model, or longer
    than it can be run on, or without the roles that the circuit's edges tell apart."""
    batch = replace(tokenise(pairs, ready.tokenizer), metrics=ready.batch.metrics)
    if batch.n_pos > (most := ready.model.transformer.most_pos):
        raise TaskError(f"its prompts have up to {batch.n_pos} tokens; the model was made ready for {most}.")
    if ready.batch.roles is not None:
        batch = replace(batch, roles=find_roles(pairs, ready.tokenizer))
    elsewhere = replace(ready, pairs=pairs, batch=batch)
    if elsewhere.graph != ready.graph:
        raise TaskError("its prompts do not have the roles that the circuit's edges tell apart.")
    return elsewhere


def against_reference(plan: AssessmentPlan, ready: Ready, metric: str, notes: Noted) -> list[Section]:
    """What the circuit shares with another, and how well its scores tell that one's edges."""
    if plan.options.reference is None:
        return []
    circuit, scores = plan.origin.circuit, plan.origin.scores
    if circuit.neurons is not None:
        notes.warn(
            "the reference is left out: a circuit of neurons keeps no single edges. circuitfind diff compares two."
        )
        return []
    known = None if scores is None else read_scores(scores, circuit.graph)
    values = agree_with_circuit(circuit, Circuit.load(plan.options.reference), known).to_dict()
    lines = tuple(_agreement_line(what, values[what]) for what in ("edges", "nodes") if values[what] is not None)
    return [Section("reference", TITLES["reference"], values, lines)]


def _agreement_line(what: str, values: Mapping[str, Any]) -> str:
    named = {"precision": "precision", "recall": "recall", "jaccard": "Jaccard", "auc": "ROC AUC"}
    numbers = {**named, "average_precision": "average precision"}
    said = ", ".join(f"{name} {values[key]:.3f}" for key, name in numbers.items() if values[key] is not None)
    return f"{what.capitalize()}: {values['common']:,} of {values['reference']:,} found; {said}."


Judge = Callable[[AssessmentPlan, Ready, str, Noted], list[Section]]
ON_OTHER_RUNS: Mapping[str, Judge] = {
    "ablations": under_ablations,
    "held-out": on_other_prompts,
    "reference": against_reference,
}
TITLES = {
    "ablations": "Under every ablation",
    "held-out": "On other prompts",
    "reference": "Against the reference",
    "completeness": "Completeness",
    "minimality": "Minimality",
    "random": "Against random circuits",
    "hypotheses": "Hypothesis tests",
    "curve": "Faithfulness at every size",
}


def on_trials(
    plan: AssessmentPlan, ready: Ready, metric: str, notes: Noted, clock: Clock
) -> tuple[list[Section], Curve | None]:
    """The judgements that take many runs of nearly the same circuit."""
    parts = [part for part in plan.parts if part not in ON_OTHER_RUNS]
    if not parts:
        return [], None
    if plan.origin.circuit.neurons is not None:
        notes.warn(f"{', '.join(parts)}: not for circuits of neurons. Left out.")
        return [], None
    kept = kept_of(plan.origin.circuit)
    sections: list[Section] = []
    curve = None
    with Threads(ready.model.transformer.device) as threads:
        ablation, size = find_ablation(ready.options.ablation), ready.work.batch_size
        trials = Trials(ready.model.transformer, ready.batch, ablation, size, threads)
        for part in parts:
            notes.stage(TITLES[part].lower())
            with clock.time(part):
                if part == "curve":
                    curve = find_curve(plan, trials, metric, notes)
                else:
                    sections.append(by_trials(part, trials, kept, metric, plan, notes))
    if curve is not None:
        sections.append(Section("curve", TITLES["curve"], curve.to_dict(), (curve_line(curve),)))
    return sections, curve


def by_trials(part: str, trials: Trials, kept: Kept, metric: str, plan: AssessmentPlan, notes: Noted) -> Section:
    """One of them."""
    seed = plan.options.seed
    found: Any
    if part == "completeness":
        options = KnockOuts(plan.options.n_knock_outs, plan.options.n_steps, plan.options.n_candidates, seed)
        found = measure_completeness(trials, kept, metric, options, notes)
    elif part == "minimality":
        found = measure_minimality(trials, kept, metric, LeaveOneOut(plan.options.most, seed=seed), notes)
    elif part == "random":
        found = measure_against_random(trials, kept, metric, RandomCircuits(plan.options.n_random, seed), notes)
    else:
        tests = HypothesisOptions(n_random=plan.options.n_random, most=plan.options.most, seed=seed)
        found = run_tests(trials, kept, metric, tests, notes)
    return Section(part, TITLES[part], found.to_dict(), tuple(found.lines()))


def find_curve(plan: AssessmentPlan, trials: Trials, metric: str, notes: Noted) -> Curve | None:
    """CPR and CMD, where there are scores of all edges."""
    if plan.origin.scores is None:
        return None
    scores = torch.from_numpy(read_scores(plan.origin.scores, trials.graph))
    try:
        return measure_curve(trials, scores, metric, progress=notes)
    except UsageError as error:
        notes.warn(f"no curve over sizes: {error}")
        return None


def curve_line(curve: Curve) -> str:
    """Both areas, side by side."""
    areas = ["-" if area is None or math.isnan(area) else f"{area:.3f}" for area in (curve.cpr, curve.cmd)]
    return f"CPR {areas[0]} (more is better; above 1 is over-recovery), CMD {areas[1]} (0 is best), {curve.metric}."


def draw_pictures(curve: Curve, circuit: Circuit, ready: Ready) -> dict[str, bytes]:
    """The curve as SVG and PNG."""
    title = f"{circuit.task.get('name')} in {ready.model.name}, {circuit.method.get('name')}"
    return {f"curve.{format}": draw_curve(curve, title, format) for format in ("svg", "png")}


def make_files(assessment: Assessment) -> dict[str, str | bytes]:
    """The files of the evaluation, by name."""
    return {
        **assessment.pictures,
        "report.md": page(assessment),
        "report.json": json_file(assessment.to_dict()),
    }


def page(assessment: Assessment) -> str:
    """report.md."""
    circuit = assessment.circuit
    sections = [f"# How good is it? {circuit.task.get('name')} in {assessment.model}: {circuit.size}"]
    sections += [f"> **Warning:** {warning}" for warning in assessment.warnings]
    for section in assessment.sections:
        sections.append(f"## {section.title}")
        if section.rows:
            sections.append(markdown_table(section.rows[0], section.rows[1:]))
        if section.name == "curve" and "curve.svg" in assessment.pictures:
            sections.append("![Faithfulness at every size](curve.svg)")
        sections += ["\n".join(f"- {line}" for line in section.lines)] if section.lines else []
    seconds = ", ".join(f"{part} {took:.1f} s" for part, took in assessment.seconds.items())
    sections += ["## What it took", f"{seconds}. Definitions: docs/evaluation.md; every number: `report.json`."]
    return "\n\n".join(sections) + "\n"
