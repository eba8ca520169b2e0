"""The whole flow on one screen: task -> prompts -> model -> method -> circuit -> evaluation -> files."""

from __future__ import annotations

from dataclasses import replace

from circuitfind.errors import UsageError
from circuitfind.methods.catalogue import CATALOGUE
from circuitfind.methods.make import default_threshold, make_method
from circuitfind.methods.search.acdc import ACDC
from circuitfind.options import RunOptions
from circuitfind.progress import Progress, Silent
from circuitfind.runs.checkpoint import Keeper
from circuitfind.runs.clock import Clock, Noted
from circuitfind.runs.files import RunResult, write_findings
from circuitfind.runs.neuron_pipeline import find_neurons
from circuitfind.runs.plan import Plan, make_plan
from circuitfind.runs.prepare import find_units, make_ready
from circuitfind.runs.result import NOTHING_TAKEN_OVER, Findings, Ready, TakenOver
from circuitfind.runs.score import score_circuit
from circuitfind.runs.search import search_circuit

__all__ = ["Plan", "RunOptions", "RunResult", "carry_out", "make_plan", "run"]


def run(options: RunOptions, progress: Progress | None = None) -> RunResult:
    """Find the circuit that ``options`` ask for, judge it and write its folder. Raises CircuitfindError."""
    progress = progress or Silent()
    plan = make_plan(options, progress)
    if plan.is_finished:
        raise UsageError(f"The run in {plan.folder} is finished: there is nothing to resume.")
    return carry_out(plan, progress)


def make_keeper(plan: Plan) -> Keeper:
    """Who keeps the state of the plan's search while it goes."""
    options = plan.options
    return Keeper(plan.folder, options.out is None, options.force or options.resume, plan.state)


def carry_out(plan: Plan, progress: Progress, keeper: Keeper | None = None) -> RunResult:
    """The run itself, step by step. Its folder is made when a search takes long, or there is all to
    be written.
    """
    with keeper or make_keeper(plan) as keeper:
        notes, clock = Noted(progress, plan.cautions), Clock(plan.state.spent if plan.state else None)
        ready = make_ready(plan, notes, clock)
        findings = find_circuit(ready, ready.options, notes, clock, keeper)
        return write_findings(findings, keeper.take_folder(), notes, clock, is_claimed=True)


def find_circuit(
    ready: Ready,
    options: RunOptions,
    notes: Noted,
    clock: Clock,
    keeper: Keeper,
    taken_over: TakenOver = NOTHING_TAKEN_OVER,
) -> Findings:
    """The circuit that ``options`` ask for, and its evaluation."""
    options = settle(options)
    if options.level == "neuron":
        return find_neurons(ready, options, notes, clock, keeper)
    method = make_method(options, ready.graph)
    if options.kv == "grouped" and find_units(ready, options).are_edges:
        notes.stage(f"{ready.model.name} has no grouped queries: every head's k and v inputs are its own")
    if isinstance(method, ACDC):
        return search_circuit(ready, options, method, notes, clock, keeper, taken_over)
    return score_circuit(ready, options, method, notes, clock, keeper, taken_over)


def settle(options: RunOptions) -> RunOptions:
    """The options with no threshold left to decide."""
    if options.threshold is None and not CATALOGUE[options.method or ""].scores:
        return replace(options, threshold=default_threshold(options.metric or ""))
    return options
