"""The whole flow on one screen: task -> prompts -> model -> method -> circuit -> evaluation -> files."""

from __future__ import annotations

from dataclasses import replace

from circuitfind.errors import UsageError
from circuitfind.methods.catalogue import CATALOGUE
from circuitfind.methods.make import default_threshold, make_method
from circuitfind.methods.search.acdc import ACDC
from circuitfind.options import RunOptions, SettledOptions
from circuitfind.progress import Progress, Silent
from circuitfind.runs.checkpoint import Keeper
from circuitfind.runs.clock import Clock, Noted
from circuitfind.runs.files import RunResult, write_findings
from circuitfind.runs.neuron_pipeline import find_neurons
from circuitfind.runs.plan import Plan, make_plan
from circuitfind.runs.prepare import make_ready
from circuitfind.runs.result import Findings
from circuitfind.runs.score import score_circuit
from circuitfind.runs.search import search_circuit
from circuitfind.runs.session import Session

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
    """The run itself, step by step. Its folder is made when a search takes long, or all is found."""
    with keeper or make_keeper(plan) as keeper:
        notes, clock = Noted(progress, plan.cautions), Clock(plan.state.spent if plan.state else None)
        ready = make_ready(plan, notes, clock)
        findings = find_circuit(Session(ready, ready.options, notes, clock, keeper))
        return write_findings(findings, keeper.take_folder(), notes, clock, is_claimed=True)


def find_circuit(session: Session) -> Findings:
    """The circuit that the session's options ask for, and its evaluation."""
    session = replace(session, options=settle(session.options))
    options, ready = session.options, session.ready
    if options.level == "neuron":
        return find_neurons(session)
    method = make_method(options, ready.graph)
    if options.kv == "grouped" and session.units.are_edges:
        session.notes.stage(
            f"{ready.model.name} has no grouped queries: every head's k and v inputs are its own"
        )
    if isinstance(method, ACDC):
        return search_circuit(session, method)
    return score_circuit(session, method)


def settle(options: SettledOptions) -> SettledOptions:
    """The options with no threshold left to decide."""
    if options.threshold is None and not CATALOGUE[options.method].scores:
        return replace(options, threshold=default_threshold(options.metric))
    return options
