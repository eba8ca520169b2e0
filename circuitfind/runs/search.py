"""Makes the circuit of a search: candidates, tests from where an earlier run was cut off, evaluation."""

from __future__ import annotations

from jaxtyping import Bool
from torch import Tensor

from circuitfind.circuits.units import Units
from circuitfind.evaluation.performance import evaluate
from circuitfind.methods.outcome import Found
from circuitfind.methods.saved_state import SoFar, save_part
from circuitfind.methods.search.acdc import ACDC
from circuitfind.methods.search.candidates import Shortlist, chosen_before
from circuitfind.methods.search.reuse import undecidable
from circuitfind.methods.search.rounding import margin_of
from circuitfind.options import RunOptions
from circuitfind.runs.checkpoint import Keeper
from circuitfind.runs.clock import Clock, Noted
from circuitfind.runs.evaluate import evaluate_circuit, seconds_of_evaluation
from circuitfind.runs.prepare import find_units
from circuitfind.runs.restart import go_on, taken_up
from circuitfind.runs.result import Findings, Ready, TakenOver
from circuitfind.runs.score import _at_roles
from circuitfind.runs.time_left import Eta, WithEvenTimeLeft, WithTimeLeft
from circuitfind.runs.warnings import (
    rounding_warning,
    shortlist_warning,
)

CANDIDATES = "candidates"
"""The part of a search's state, and of what it takes, that is the choice of its candidates."""


def search_circuit(
    ready: Ready,
    options: RunOptions,
    method: ACDC,
    notes: Noted,
    clock: Clock,
    keeper: Keeper,
    taken_over: TakenOver,
) -> Findings:
    """The outcome of a search, from where an earlier one was cut off, and its evaluation."""
    transformer, units = ready.model.transformer, find_units(ready, options)
    so_far = go_on(keeper, ready, options, method, clock, notes)
    earlier, choosing = None, None
    if so_far is not None:
        earlier, choosing = Found.from_so_far(so_far, ready.graph), so_far.part(CANDIDATES)
    shortlist = find_shortlist(ready, method, notes, clock, keeper, taken_over, choosing)
    edges, known = (
        (None, taken_over.evaluation) if shortlist is None else (shortlist.edges, shortlist.evaluation)
    )
    with clock.time("search"):
        if earlier is not None:
            notes.stage(
                taken_up(keeper, clock, f"{share_decided(earlier, edges):.0%} decided, {earlier.summary}")
            )
        start = earlier or taken_over.start
        found = search(ready, method, units, start, notes, keeper, shortlist, seconds_of_evaluation(clock))
    evaluation = evaluate_circuit(ready, options, found.kept, notes, clock, known)
    measured = (method.metric, method.ablation, method.objective == "match")
    margin = margin_of(transformer, ready.batch, ready.work.batch_size, measured, found.kept, edges)
    near = undecidable(units, found, method.threshold, margin, edges)
    notes.warn_if(rounding_warning(near, method.threshold, margin))
    tests = {
        "tested": found.n_tests,
        "computed": found.n_evaluated,
        "taken_over": start.n_tests if start is not None and start is taken_over.start else 0,
        "margin": margin,
        "n_undecidable": len(near),
        "undecidable": list(map(str, near)),
    }
    record = {"search": tests}
    if shortlist is not None and method.candidates is not None:
        record["candidates"] = shortlist.to_dict(method.candidates.n_edges)
    return Findings(ready, options, method, found, evaluation, record, shortlist=shortlist)


def find_shortlist(
    ready: Ready,
    method: ACDC,
    notes: Noted,
    clock: Clock,
    keeper: Keeper,
    taken_over: TakenOver,
    start: SoFar | None,
) -> Shortlist | None:
    """The candidates and how well they do by themselves, with a warning where that is bad; None:
    all are tested.

    ``start``: what an earlier sitting had come to in choosing them.
    """
    if method.candidates is None:
        return None
    shortlist, model = taken_over.shortlist, ready.model.transformer
    if shortlist is None:
        with clock.time(CANDIDATES):
            name, size = method.candidates.method.name, ready.work.batch_size
            if chosen_before(start, model.architecture.graph) is None:
                if start is not None:
                    notes.stage(taken_up(keeper, clock, start.told, CANDIDATES))
                notes.stage(f"{name} chooses candidates of the {model.architecture.graph.n_edges:,} edges")
            save, progress = save_part(keeper.save, CANDIDATES), WithEvenTimeLeft(notes)
            edges = method.candidates.choose(model, ready.batch, size, progress, start, save)
            known = evaluate(model, ready.batch, edges, method.ablation, size, taken_over.evaluation)
            shortlist = Shortlist(edges, known)
    notes.warn_if(shortlist_warning(shortlist.evaluation, shortlist.n_edges, method.metric))
    return shortlist


def search(
    ready: Ready,
    method: ACDC,
    units: Units,
    start: Found | None,
    notes: Noted,
    keeper: Keeper,
    shortlist: Shortlist | None,
    after: float = 0.0,
) -> Found:
    """The method's outcome; what it has decided so far is kept all the while, and how long it still
    takes is told, with what comes ``after`` it.

    At node level every test is made and takes about as long, so that the share of them that are
    done tells enough.
    """
    edges, chosen = None, SoFar({})
    if shortlist is not None:
        edges, chosen = shortlist.edges, shortlist.to_so_far().as_part(CANDIDATES)
    among = "" if shortlist is None else f"{shortlist.n_edges:,} candidates of "
    what = f"{among}the {units.n:,} {units.noun} of {ready.model.name}{_at_roles(ready.graph)}"
    notes.stage(f"{method.name} on {what}, threshold {method.threshold:g}")
    eta = Eta(units.graph, edges)

    def save(found: Found) -> None:
        keeper.save(chosen | found.to_so_far())
        if units.level == "edge":
            eta.see(found)

    if start is not None:
        keeper.save(chosen | start.to_so_far())
        keeper.save_now()  # the run of a sweep that it was taken over from has no state any more
    size, in_flight = ready.work.batch_size, ready.work.bytes_in_flight
    progress = WithTimeLeft(notes, eta, after)
    found = method.find(ready.model.transformer, ready.batch, size, progress, start, save, in_flight, edges)
    keeper.save(chosen | found.to_so_far())
    keeper.finish()
    return found


def share_decided(start: Found, shortlist: Bool[Tensor, "receiver sender"] | None) -> float:
    """How far an earlier sitting came."""
    among = start.scores.isfinite() if shortlist is None else shortlist
    return start.n_decided(among) / max(1, int(among.sum()))
