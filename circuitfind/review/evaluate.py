"""How good a circuit is: everything that is judged of one, on one screen.

    circuit file -> model and prompts that it was found in -> runs -> what they say -> report.md,
    report.json, pictures

What is judged is in ``evaluation/``, a module a judgement (docs/evaluation.md defines them).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from math import fsum
from typing import Any

import torch

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.compare import check_same_graph
from circuitfind.circuits.intervals import promise
from circuitfind.circuits.masks import kept_of
from circuitfind.circuits.units import Units
from circuitfind.errors import TaskError, UsageError
from circuitfind.evaluation import completeness, hypotheses, minimality, randoms
from circuitfind.evaluation.completeness import measure_completeness
from circuitfind.evaluation.curve import Curve, measure_curve
from circuitfind.evaluation.hypotheses import run_tests
from circuitfind.evaluation.minimality import measure_minimality
from circuitfind.evaluation.options import HypothesisOptions, KnockOuts, LeaveOneOut, RandomCircuits
from circuitfind.evaluation.performance import LEVEL, Evaluation
from circuitfind.evaluation.randoms import measure_against_random
from circuitfind.evaluation.reference import agree_with_circuit, read_scores
from circuitfind.evaluation.spread import measure_spread
from circuitfind.evaluation.trials import Trials
from circuitfind.evaluation.work import CURVE, EVALUATION, LEARNING, MEANS, total
from circuitfind.export.formats.curvechart import draw_curve
from circuitfind.files.json_file import json_file
from circuitfind.methods.catalogue import CATALOGUE
from circuitfind.models.workers import Threads
from circuitfind.patching.ablation import ABLATIONS, OF_MEANS, find_ablation
from circuitfind.progress import Progress
from circuitfind.prompts.batch import tokenise
from circuitfind.prompts.files import load_task
from circuitfind.prompts.pairs import PromptPair
from circuitfind.prompts.roles import find_roles
from circuitfind.review.evaluate_plan import OWN, PARTS, AssessmentPlan
from circuitfind.review.parts import (
    Assessment,
    Part,
    Section,
    check_same,
    is_complete,
    unfinished_place,
)
from circuitfind.review.stored import evaluate_kept
from circuitfind.runs.clock import Clock, Noted
from circuitfind.runs.folder import write_run
from circuitfind.runs.prepare import REFERENCE_PROMPTS, make_ready, with_constants
from circuitfind.runs.prompt_sets import other_prompts
from circuitfind.runs.report import markdown_table, parts_of
from circuitfind.runs.result import Ready, task_block
from circuitfind.runs.time_left import Course, slices
from circuitfind.runs.warnings import recovery_warning


def assess(
    plan: AssessmentPlan, progress: Progress, save: Callable[[Assessment], None] = lambda so_far: None
) -> Assessment:
    """Everything that is asked of the circuit. ``save`` gets what there is after each part.

    Raises CircuitfindError for whatever is wrong.
    """
    if plan.earlier is not None and not plan.waiting:
        return plan.earlier
    notes, clock = Noted(progress, plan.origin.cautions), Clock()
    ready = make_ready(plan.run, notes, clock)
    check(plan.origin.circuit, ready, notes)
    plan = for_neurons(plan, notes)
    task = task_block(ready)
    asked = {
        **plan.asked,
        "model": ready.model.sha256,
        "tokenizer": ready.tokenizer.sha256,
        "prompts": task["prompts_sha256"],
        "bos": task["bos"],
    }
    if plan.earlier is not None:
        check_same(plan.earlier, asked, plan.folder)
    so_far = begun(plan, ready, asked, notes, clock)
    course = Course(progress, guess_seconds(plan, ready, clock.seconds["task"]))
    with Judge(plan, ready) as judge:
        for name in plan.waiting:
            course.begin(name, TITLES[name].lower())
            so_far = with_part(so_far, judge.do(name, so_far.metric, course))
            save(so_far)
    return so_far


def begun(
    plan: AssessmentPlan, ready: Ready, asked: Mapping[str, Any], notes: Noted, clock: Clock
) -> Assessment:
    """What there is before the first part that is waiting."""
    parts, metric = ((), "") if plan.earlier is None else (plan.earlier.parts, plan.earlier.metric)
    return Assessment(
        plan.origin.circuit,
        ready.model.name,
        metric,
        asked,
        parts,
        tuple(notes.warnings),
        clock.seconds,
        plan.waiting,
    )


def with_part(so_far: Assessment, part: Part) -> Assessment:
    """The same with one part more, in the order of all parts. The first says by which metric the
    others judge.
    """
    metric = part.sections[0].values["spread"]["metric"] if part.name == OWN else so_far.metric
    parts = sorted((*so_far.parts, part), key=lambda part: ORDER.index(part.name))
    missing = tuple(name for name in so_far.missing if name != part.name)
    return replace(so_far, metric=metric, parts=tuple(parts), missing=missing)


def for_neurons(plan: AssessmentPlan, notes: Noted) -> AssessmentPlan:
    """The same, where the circuit is one of neurons without the parts that take single edges away."""
    left_out = [part for part in plan.parts if part not in ON_OTHER_RUNS]
    if plan.origin.circuit.neurons is None or not left_out:
        return plan
    notes.warn(f"{', '.join(left_out)}: not for circuits of neurons. Left out.")
    return replace(plan, parts=tuple(part for part in plan.parts if part in ON_OTHER_RUNS))


def check(circuit: Circuit, ready: Ready, notes: Noted) -> None:
    """Raises CircuitError where the model has another shape; warns where it is not the one, or not
    on the prompts, that the circuit was found in."""
    check_same_graph(circuit.graph, ready.model.name, ready.graph)
    if circuit.model.get("sha256") not in (None, ready.model.sha256):
        notes.warn(f"{ready.model.name} has other weights than the model that the circuit was found in.")
    if circuit.task.get("tokenizer_sha256") not in (None, ready.tokenizer.sha256):
        notes.warn(
            f"{ready.model.name} has another tokenizer than the model that the circuit was found in."
        )
    if circuit.task.get("prompts_sha256") not in (None, task_block(ready)["prompts_sha256"]):
        notes.warn("the prompts are not those that the circuit was found on.")


def on_its_prompts(plan: AssessmentPlan, ready: Ready, metric: str, notes: Progress) -> list[Section]:
    """The circuit on the prompts that it was found on, as a mean and prompt by prompt."""
    evaluation = evaluate_kept(plan.origin.circuit, ready)
    metric = plan.options.metric or (
        "kl" if evaluation.faithfulness("logit-diff") is None else "logit-diff"
    )
    if warning := recovery_warning(evaluation, *_found_by(plan.origin.circuit)):
        notes.warn(warning)
    spread = measure_spread(evaluation, metric)
    values = {**evaluation.to_dict(), "spread": spread.to_dict()}
    return [Section(OWN, TITLES[OWN], values, (_interval_line(evaluation, metric), *spread.lines()))]


def _found_by(circuit: Circuit) -> tuple[bool, str, str]:
    """Whether a search found it, what it is made of, and the metric it was found by, as far as it is said."""
    info = CATALOGUE.get(str(circuit.method.get("name")))
    return (
        info is not None and not info.scores,
        parts_of(circuit),
        str(circuit.method.get("metric") or ""),
    )


def _interval_line(evaluation: Evaluation, metric: str) -> str:
    value, interval = evaluation.faithfulness(metric), evaluation.interval(metric)
    if value is None:
        return f"Faithfulness ({metric}): none; full and fully ablated model do not differ enough."
    said = "no interval"
    if interval is not None:
        said = f"{promise(LEVEL, evaluation.n_prompts)}: {interval[0]:.3f} to {interval[1]:.3f}"
    return f"Faithfulness ({metric}) of the means: {value:.3f} ({said})."


MOST_LEARNED = 30_000_000
"""Of larger models, in weights, the constants of optimal ablation are not learned unasked."""
LEFT_OUT = (
    f"Optimal ablation is left out by default of models of more than {MOST_LEARNED:,} weights, since learning"
    " its constants takes minutes: `--ablations all` has it."
)
HEAD = ("", "faithfulness", "KL, nats", "logit diff", "accuracy", "full accuracy")


def _row(name: str, evaluation: Evaluation, metric: str) -> tuple[str, ...]:
    circuit = evaluation.circuit
    values = (evaluation.faithfulness(metric), circuit.mean("kl"), circuit.mean("logit-diff"))
    shown = ["-" if value is None else f"{value:.3f}" for value in values]
    return (name, *shown, f"{circuit.mean('accuracy'):.0%}", f"{evaluation.full.mean('accuracy'):.0%}")


def under_ablations(plan: AssessmentPlan, ready: Ready, metric: str, notes: Noted) -> list[Section]:
    """The same circuit where removed edges carry something else: how much the verdict depends on
    that choice.
    """
    rows: list[tuple[str, ...]] = [HEAD]
    values = {}
    ablations = ablations_of(plan, ready)
    steps = slices(notes, [cost_of_ablation(ablation, ready) for ablation in ablations])
    for ablation, step in zip(ablations, steps, strict=True):
        if ablation == "optimal" and plan.origin.circuit.neurons is not None:
            notes.warn(
                "optimal ablation is left out: its constants are of what nodes write, not of their neurons."
            )
            continue
        evaluation = evaluate_kept(
            plan.origin.circuit, with_constants(ready, ablation, Noted(step), Clock())
        )
        step.update(1, 1)
        values[ablation] = evaluation.to_dict()
        rows.append(_row(ablation, evaluation, metric))
    lines = () if plan.options.ablations or "optimal" in ablations else (LEFT_OUT,)
    return [Section("ablations", TITLES["ablations"], values, lines, rows=tuple(rows))]


def ablations_of(plan: AssessmentPlan, ready: Ready) -> tuple[str, ...]:
    """Those that were asked for; by default every one, but optimal ablation of a large model, which
    takes longer than all the rest, only where the circuit was found under it."""
    if plan.options.ablations:
        return plan.options.ablations
    learns = ready.work.stored.n_numbers <= MOST_LEARNED or ready.options.ablation == "optimal"
    return ABLATIONS if learns else tuple(ablation for ablation in ABLATIONS if ablation != "optimal")


def on_other_prompts(plan: AssessmentPlan, ready: Ready, metric: str, notes: Noted) -> list[Section]:
    """The circuit on prompts that it was not found on: others of the task, and those of other tasks."""
    rows: list[tuple[str, ...]] = [HEAD]
    own, values = plan.origin.task, {}
    if own is None:
        notes.warn(
            f"no other prompts of the task were made: its file was not opened. {plan.origin.suggestion}"
        )
    tasks = {
        "the task, another seed": own,
        "the task, other templates": None if own is None else own.elsewhere,
    }
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
    """The same with other prompts. Raises TaskError or UsageError for prompts that are none of this
    model, or longer than it can be run on, or without the roles that the circuit's edges tell
    apart."""
    batch = replace(tokenise(pairs, ready.tokenizer), metrics=ready.batch.metrics)
    if batch.n_pos > (most := ready.model.transformer.most_pos):
        raise TaskError(
            f"its prompts have up to {batch.n_pos} tokens; the model was made ready for {most}."
        )
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
            "the reference is left out: a circuit of neurons keeps no single edges. circuitfind diff compares"
            " two."
        )
        return []
    known = None if scores is None else read_scores(scores, circuit.graph)
    values = agree_with_circuit(circuit, Circuit.load(plan.options.reference), known).to_dict()
    lines = tuple(
        _agreement_line(what, values[what]) for what in ("edges", "nodes") if values[what] is not None
    )
    return [Section("reference", TITLES["reference"], values, lines)]


def _agreement_line(what: str, values: Mapping[str, Any]) -> str:
    named = {"precision": "precision", "recall": "recall", "jaccard": "Jaccard", "auc": "ROC AUC"}
    numbers = {**named, "average_precision": "average precision"}
    said = ", ".join(
        f"{name} {values[key]:.3f}" for key, name in numbers.items() if values[key] is not None
    )
    return f"{what.capitalize()}: {values['common']:,} of {values['reference']:,} found; {said}."


OnOtherRuns = Callable[[AssessmentPlan, Ready, str, Noted], list[Section]]
ON_OTHER_RUNS: Mapping[str, OnOtherRuns] = {
    OWN: on_its_prompts,
    "ablations": under_ablations,
    "held-out": on_other_prompts,
    "reference": against_reference,
}
ORDER = (OWN, *PARTS)
TITLES = {
    OWN: "On the prompts that it was found on",
    "ablations": "Under every ablation",
    "held-out": "On other prompts",
    "reference": "Against the reference",
    "completeness": "Completeness",
    "minimality": "Minimality",
    "random": "Against random circuits",
    "hypotheses": "Hypothesis tests",
    "curve": "Faithfulness at every size",
}


class Judge:
    """Judges the parts of a circuit one by one. Use as a context: those that take many runs of
    nearly the same circuit share their trials and the threads, from the first of them on."""

    def __init__(self, plan: AssessmentPlan, ready: Ready) -> None:
        self._plan, self._ready = plan, ready
        self._stack = ExitStack()

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def do(self, name: str, metric: str, progress: Progress) -> Part:
        """One part."""
        notes, clock = Noted(progress), Clock()
        pictures: dict[str, bytes] = {}
        with clock.time(name):
            if name in ON_OTHER_RUNS:
                sections = ON_OTHER_RUNS[name](self._plan, self._ready, metric, notes)
            elif name == "curve":
                curve = find_curve(self._plan, self._ready, self._trials, metric, notes)
                sections = [] if curve is None else [curve_section(curve)]
                pictures = (
                    {} if curve is None else draw_pictures(curve, self._plan.origin.circuit, self._ready)
                )
            else:
                sections = [by_trials(name, self._trials, metric, self._plan, notes)]
        return Part(name, tuple(sections), tuple(notes.warnings), clock.seconds[name], pictures)

    @cached_property
    def _trials(self) -> Trials:
        model, ablation = self._ready.model.transformer, find_ablation(self._ready.options.ablation)
        threads = self._stack.enter_context(Threads(model.device))
        return Trials(model, self._ready.batch, ablation, self._ready.work.batch_size, threads)


def options_of(
    part: str, plan: AssessmentPlan
) -> KnockOuts | LeaveOneOut | RandomCircuits | HypothesisOptions:
    """What is asked of a part that takes many runs."""
    asked = plan.options
    if part == "completeness":
        return KnockOuts(asked.n_knock_outs, asked.n_steps, asked.n_candidates, asked.seed)
    if part == "minimality":
        return LeaveOneOut(asked.most, seed=asked.seed)
    if part == "random":
        return RandomCircuits(asked.n_random, asked.seed)
    return HypothesisOptions(n_random=asked.n_random, most=asked.most, seed=asked.seed)


def by_trials(part: str, trials: Trials, metric: str, plan: AssessmentPlan, notes: Noted) -> Section:
    """One of those."""
    options, kept = options_of(part, plan), kept_of(plan.origin.circuit)
    found: Any
    if isinstance(options, KnockOuts):
        found = measure_completeness(trials, kept, metric, options, notes)
    elif isinstance(options, LeaveOneOut):
        found = measure_minimality(trials, kept, metric, options, notes)
    elif isinstance(options, RandomCircuits):
        found = measure_against_random(trials, kept, metric, options, notes)
    else:
        found = run_tests(trials, kept, metric, options, notes)
    return Section(part, TITLES[part], found.to_dict(), tuple(found.lines()))


def guess_seconds(plan: AssessmentPlan, ready: Ready, forward: float) -> dict[str, float]:
    """How long each part that is waiting may take; ``forward``: the seconds of a bare forward pass
    of the prompts.
    """
    return {part: forward * cost_of(part, plan, ready) for part in plan.waiting}


def cost_of(part: str, plan: AssessmentPlan, ready: Ready) -> float:
    """What a part costs, in forward passes of the prompts (``evaluation/work.py``)."""
    n_own = len(ready.pairs)
    if part == OWN:
        return EVALUATION
    if part == "ablations":
        return fsum(cost_of_ablation(ablation, ready) for ablation in ablations_of(plan, ready))
    if part == "held-out":
        return EVALUATION * (2 + len(plan.options.also)) * (plan.options.n_held_out or n_own) / n_own
    if part == "reference":
        return 0.0
    if part == "curve":
        return 0.0 if plan.origin.scores is None else CURVE
    graph, kept, options = ready.graph, kept_of(plan.origin.circuit), options_of(part, plan)
    if isinstance(options, KnockOuts):
        return total(completeness.phases(graph, kept, options))
    if isinstance(options, LeaveOneOut):
        return total(minimality.phases(graph, kept, options))
    if isinstance(options, RandomCircuits):
        return total(randoms.phases(options))
    return total(hypotheses.phases(graph, kept, options, "minimality" in plan.waiting))


def cost_of_ablation(ablation: str, ready: Ready) -> float:
    """What an evaluation under this ablation costs, the means or constants included."""
    means = MEANS * REFERENCE_PROMPTS / len(ready.pairs) if ablation in OF_MEANS else 0.0
    learning = LEARNING / len(ready.pairs) if ablation == "optimal" else 0.0
    return EVALUATION + means + learning


def find_curve(
    plan: AssessmentPlan, ready: Ready, trials: Trials, metric: str, notes: Noted
) -> Curve | None:
    """CPR and CMD, where there are scores of all edges."""
    if plan.origin.scores is None:
        return None
    scores = torch.from_numpy(read_scores(plan.origin.scores, trials.graph))
    units = Units.of_record(
        trials.graph, ready.model.transformer.architecture.n_kv_heads, plan.origin.circuit.method
    )
    try:
        return measure_curve(trials, scores, metric, progress=notes, units=units)
    except UsageError as error:
        notes.warn(f"no curve over sizes: {error}")
        return None


def curve_line(curve: Curve) -> str:
    """Both areas, side by side."""
    areas = [
        "-" if area is None or math.isnan(area) else f"{area:.3f}" for area in (curve.cpr, curve.cmd)
    ]
    of = f"{curve.metric}, shares of {curve.units}"
    return f"CPR {areas[0]} (more is better; above 1 is over-recovery), CMD {areas[1]} (0 is best), {of}."


def curve_section(curve: Curve) -> Section:
    """What the curve says."""
    return Section("curve", TITLES["curve"], curve.to_dict(), (curve_line(curve),))


def draw_pictures(curve: Curve, circuit: Circuit, ready: Ready) -> dict[str, bytes]:
    """The curve as SVG and PNG."""
    title = f"{circuit.task.get('name')} in {ready.model.name}, {circuit.method.get('name')}"
    return {f"curve.{format}": draw_curve(curve, title, format) for format in ("svg", "png")}


def write_report(assessment: Assessment, plan: AssessmentPlan) -> None:
    """What there is so far takes the place of what there was after the part before; of a complete
    older report when all is done.
    """
    beside = unfinished_place(plan.folder)
    if assessment.missing and is_complete(plan.folder):
        beside.mkdir(parents=True, exist_ok=True)
        write_run(beside, make_files(assessment), force=True)
        return
    is_first = plan.earlier is None and len(assessment.parts) == 1
    write_run(
        plan.folder, make_files(assessment), plan.options.force or plan.options.resume or not is_first
    )
    shutil.rmtree(beside, ignore_errors=True)


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
    if assessment.missing:
        sections.append(
            f"## Not done yet\n\n{', '.join(assessment.missing)}: `circuitfind evaluate ... --resume`"
        )
    seconds = ", ".join(f"{part} {took:.1f} s" for part, took in assessment.timings.items())
    sections += [
        "## What it took",
        f"{seconds}. Definitions: docs/evaluation.md; every number: `report.json`.",
    ]
    return "\n\n".join(sections) + "\n"
