"""Makes the circuit of a search: candidates, tests from where an earlier run was cut off, evaluation."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool
from torch import Tensor

from circuitfind.methods.method import Job
from circuitfind.methods.outcome import Found
from circuitfind.methods.saved_state import SoFar, save_part
from circuitfind.methods.search.acdc import ACDC
from circuitfind.methods.search.candidates import Shortlist, chosen_before
from circuitfind.methods.search.reuse import undecidable
from circuitfind.methods.search.rounding import margin_of
from circuitfind.runs.evaluate import evaluate_circuit, evaluate_kept
from circuitfind.runs.result import Findings
from circuitfind.runs.score import _at_roles
from circuitfind.runs.session import Session
from circuitfind.runs.time_left import Eta, WithEvenTimeLeft, WithTimeLeft
from circuitfind.runs.warnings import (
    rounding_warning,
    shortlist_warning,
)

CANDIDATES = "candidates"
"""The part of a search's state, and of what it takes, that is the choice of its candidates."""


def search_circuit(session: Session, method: ACDC) -> Findings:
    """The outcome of a search, from where an earlier one was cut off, and its evaluation."""
    ready, options, taken_over = session.ready, session.options, session.taken_over
    state = session.restart(method)
    earlier, choosing = None, None
    if state is not None:
        earlier, choosing = Found.from_so_far(state, ready.graph), state.part(CANDIDATES)
    shortlist = find_shortlist(session, method, choosing)
    edges, known = (
        (None, taken_over.evaluation) if shortlist is None else (shortlist.edges, shortlist.evaluation)
    )
    with session.clock.time("search"):
        if earlier is not None:
            session.tell_resumed(f"{share_decided(earlier, edges):.0%} decided, {earlier.summary}")
        start = earlier or taken_over.start
        found = search(session, method, start, shortlist)
    evaluation = evaluate_circuit(session, found.kept, known)
    n_taken_over = start.n_tests if start is not None and start is taken_over.start else 0
    record = {"search": tests_block(session, method, found, edges, n_taken_over)}
    if shortlist is not None and method.candidates is not None:
        record["candidates"] = shortlist.to_dict(method.candidates.n_edges)
    return Findings(ready, options, method, found, evaluation, record, shortlist=shortlist)


def tests_block(
    session: Session,
    method: ACDC,
    found: Found,
    shortlist: Bool[Tensor, "receiver sender"] | None,
    n_taken_over: int,
) -> dict[str, Any]:
    """What run.json says of a search's tests, with a warning where rounding decided some."""
    problem = session.problem.by(method.metric, method.ablation, method.objective == "match")
    margin = margin_of(problem, found.kept, shortlist)
    near = undecidable(session.units, found, method.threshold, margin, shortlist)
    session.notes.warn_if(rounding_warning(near, method.threshold, margin))
    return {
        "tested": found.n_tests,
        "computed": found.n_evaluated,
        "taken_over": n_taken_over,
        "margin": margin,
        "n_undecidable": len(near),
        "undecidable": list(map(str, near)),
    }


def find_shortlist(session: Session, method: ACDC, start: SoFar | None) -> Shortlist | None:
    """The candidates and how well they do by themselves, with a warning where that is bad; None:
    all are tested.

    ``start``: the state in which an earlier session left choosing them.
    """
    if method.candidates is None:
        return None
    shortlist, notes, graph = session.taken_over.shortlist, session.notes, session.units.graph
    if shortlist is None:
        with session.clock.time(CANDIDATES):
            if chosen_before(start, graph) is None:
                if start is not None:
                    session.tell_resumed(start.told, CANDIDATES)
                name = method.candidates.method.name
                notes.stage(f"{name} chooses candidates of the {graph.n_edges:,} edges")
            job = Job(WithEvenTimeLeft(notes), start, save_part(session.keeper.save, CANDIDATES))
            edges = method.candidates.choose(session.problem, job)
            shortlist = Shortlist(edges, evaluate_kept(session, edges, session.taken_over.evaluation))
    notes.warn_if(shortlist_warning(shortlist.evaluation, shortlist.n_edges, method.metric))
    return shortlist


def search(session: Session, method: ACDC, start: Found | None, shortlist: Shortlist | None) -> Found:
    """The method's outcome; what it has decided so far is kept all the while, and how long it still
    takes is told, with the evaluation that comes after it.

    At node level every test is made and takes about as long, so that the share of them that are
    done tells enough.
    """
    ready, units, keeper = session.ready, session.units, session.keeper
    edges, chosen = None, SoFar({})
    if shortlist is not None:
        edges, chosen = shortlist.edges, shortlist.to_so_far().as_part(CANDIDATES)
    among = "" if shortlist is None else f"{shortlist.n_edges:,} candidates of "
    what = f"{among}the {units.n:,} {units.noun} of {ready.model.name}{_at_roles(ready.graph)}"
    session.notes.stage(f"{method.name} on {what}, threshold {method.threshold:g}")
    eta = Eta(units.graph, edges)

    def save(state: SoFar) -> None:
        keeper.save(chosen | state)
        if units.level == "edge":
            eta.see(state.tensors["kept"], state.tensors["decided"])

    begun = None if start is None else start.to_so_far()
    if begun is not None:
        keeper.save(chosen | begun)
        keeper.save_now()  # the run of a sweep that it was taken over from has no state any more
    progress = WithTimeLeft(session.notes, eta, session.seconds_of_evaluation)
    found = method.find(session.problem, Job(progress, begun, save), edges)
    keeper.save(chosen | found.to_so_far())
    keeper.finish()
    return found


def share_decided(start: Found, shortlist: Bool[Tensor, "receiver sender"] | None) -> float:
    """How far an earlier session came."""
    among = start.scores.isfinite() if shortlist is None else shortlist
    return start.n_decided(among) / max(1, int(among.sum()))
