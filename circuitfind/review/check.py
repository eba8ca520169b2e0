"""A known circuit's discovery, or its evaluation alone, run again and compared with what is stored."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.compare import Comparison, check_same_graph, compare
from circuitfind.errors import CircuitfindError
from circuitfind.evaluation.performance import Evaluation
from circuitfind.options import RunOptions
from circuitfind.pipeline import find_circuit, make_keeper, make_plan
from circuitfind.progress import Progress, Silent
from circuitfind.review.opening import AS_STORED, Named
from circuitfind.review.origin import Origin, evaluation_options, find_origin, search_options
from circuitfind.review.stored import evaluate_kept
from circuitfind.review.tolerances import (
    Finding,
    Status,
    Tolerances,
    Verdict,
    at_least,
    falls_by,
    rises_by,
    stays,
)
from circuitfind.runs.clock import Clock, Noted
from circuitfind.runs.plan import Plan
from circuitfind.runs.prepare import make_ready
from circuitfind.runs.result import Ready, make_circuit, make_consensus, task_block
from circuitfind.runs.session import Session
from circuitfind.runs.warnings import task_warning

NAMED = 5
"""How many edges are named for a person."""


@dataclass(frozen=True)
class CheckOptions:
    """``named``: what the user named in place of the circuit's own; ``tolerances``: over those of
    the circuit's file."""

    named: Named = AS_STORED
    evaluate_only: bool = False
    tolerances: Mapping[str, float] = field(default_factory=dict)
    device: str = "auto"


def check(path: Path, options: CheckOptions, progress: Progress | None = None) -> Verdict:
    """The verdict on one circuit. What keeps it from being run is its reason; nothing is raised for it."""
    start = time.perf_counter()
    try:
        verdict = _check(path, options, progress or Silent())
    except CircuitfindError as error:
        verdict = Verdict(path, "could not run", reason=str(error).replace("\n", " "))
    return replace(verdict, seconds=round(time.perf_counter() - start, 3))


def _check(path: Path, options: CheckOptions, progress: Progress) -> Verdict:
    origin = find_origin(path, options.named, progress)
    tolerances = Tolerances().with_values(origin.circuit.tolerances).with_values(options.tolerances)
    notes, clock = Noted(progress, origin.cautions), Clock()
    with tempfile.TemporaryDirectory(prefix="circuitfind-") as folder:
        plan = make_plan(what_to_run(origin, options, Path(folder)), notes, origin.opened)
        ready = make_ready(plan, notes, clock)
        check_same_graph(origin.circuit.graph, ready.model.name, ready.graph)
        notes.stage("evaluating the circuit")
        with clock.time("evaluation"):
            evaluation = evaluate_kept(origin.circuit, ready)
        if gone := task_warning(evaluation.full):
            return Verdict(path, "drifted", reason=f"the task is gone, not the circuit: {gone}")
        findings = judge(origin.circuit, evaluation, tolerances)
        found = None if options.evaluate_only else discover(plan, ready, notes, clock)
    comparison = None if found is None else compare(origin.circuit, found)
    if comparison is not None:
        findings += judge_discovery(comparison, tolerances)
    details = (
        *other_prompts(origin.circuit, ready),
        *(() if comparison is None else describe(comparison)),
    )
    status: Status = "holds" if all(finding.holds for finding in findings) else "drifted"
    return Verdict(
        path, status, findings, details, report={} if comparison is None else comparison.to_dict()
    )


def what_to_run(origin: Origin, options: CheckOptions, folder: Path) -> RunOptions:
    """The run that finds the circuit anew, or one with the same prompts where it is not to be found."""
    asked = evaluation_options(origin) if options.evaluate_only else search_options(origin)
    return replace(asked, out=folder / "run", device=options.device)


def discover(plan: Plan, ready: Ready, notes: Noted, clock: Clock) -> Circuit:
    """The circuit that the same search finds now; of a bootstrap its consensus circuit."""
    findings = find_circuit(Session(ready, ready.options, notes, clock, make_keeper(plan)))
    consensus = make_consensus(findings) if plan.options.bootstrap is not None else None
    return consensus or make_circuit(findings)


def judge(circuit: Circuit, now: Evaluation, tolerances: Tolerances) -> tuple[Finding, ...]:
    """The stored circuit in the present model, against what is stored of it."""
    stored = circuit.metrics
    metric = "logit-diff" if now.faithfulness("logit-diff") is not None else "kl"
    interval = _interval(stored.get("faithfulness_interval"))
    was, faithfulness = _number(stored.get("faithfulness")), now.faithfulness(metric)
    return (
        falls_by(
            "accuracy",
            _stored(stored, "full", "accuracy"),
            now.full.mean("accuracy"),
            tolerances.accuracy,
        ),
        stays(
            "faithfulness",
            was,
            faithfulness,
            tolerances.faithfulness,
            [(interval, faithfulness), (now.interval(metric), was)],
        ),
        rises_by("kl", _stored(stored, "circuit", "kl"), now.circuit.mean("kl"), tolerances.kl),
    )


def judge_discovery(comparison: Comparison, tolerances: Tolerances) -> tuple[Finding, ...]:
    """The circuit found now, against the edges and heads of the stored one."""
    before, after = (
        {node for node in c.nodes if node.kind == "head"} for c in (comparison.before, comparison.after)
    )
    missing = sorted(before - after, key=comparison.before.graph.sender_index.__getitem__)
    share = 1 - len(missing) / len(before) if before else 1.0
    note = f"missing: {', '.join(map(str, missing))}" if missing else ""
    return (
        at_least(comparison.noun, comparison.kept.jaccard, tolerances.jaccard),
        at_least("heads", share, tolerances.heads, note),
    )


def describe(comparison: Comparison) -> tuple[str, ...]:
    """What changed, most important first, for a person."""
    lines = []
    for title, edges in (("lost", comparison.lost), ("gained", comparison.gained)):
        if edges:
            shown = ", ".join(f"{edge} ({score:+.3g})" for edge, score in list(edges.items())[:NAMED])
            more = f" and {len(edges) - NAMED:,} more" if len(edges) > NAMED else ""
            lines.append(f"{len(edges):,} {comparison.noun} {title}, the largest first: {shown}{more}")
    return tuple(lines)


def other_prompts(circuit: Circuit, ready: Ready) -> tuple[str, ...]:
    """Says so where the prompts are not those that the circuit was found on."""
    stored, now = circuit.task.get("prompts_sha256"), task_block(ready)["prompts_sha256"]
    return () if stored in (None, now) else ("the prompts are not those that the circuit was found on",)


def _stored(metrics: Mapping[str, Any], run: str, name: str) -> float | None:
    block = metrics.get(run)
    return _number(block.get(name)) if isinstance(block, dict) else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _interval(value: object) -> tuple[float, float] | None:
    if not isinstance(value, Sequence) or len(value) != 2:
        return None
    low, high = map(_number, value)
    return None if low is None or high is None else (low, high)
