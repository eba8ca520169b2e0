"""Makes the circuit of a method that scores edges: scores, selection, bootstrap, evaluation."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from circuitfind.circuits.bootstrap import Bootstrap, bootstrap
from circuitfind.circuits.graph import Graph
from circuitfind.circuits.scores_file import rounded, scores_file
from circuitfind.circuits.size import Selection, find_select
from circuitfind.errors import ModelError
from circuitfind.methods.masks.learned import DivergedError
from circuitfind.methods.method import Job, Scorer
from circuitfind.methods.scored import Scored
from circuitfind.runs.evaluate import evaluate_circuit, evaluate_kept
from circuitfind.runs.result import Findings
from circuitfind.runs.session import Session
from circuitfind.runs.time_left import WithEvenTimeLeft

MOST_SHOWN = 10
"""So many roles of more are named."""


def score_circuit(session: Session, method: Scorer) -> Findings:
    """The circuit made of a method's scores, how sure it is, and its evaluation."""
    ready, options, clock, units = session.ready, session.options, session.clock, session.units
    find = find_select(options.select)
    selection = Selection(options.edges, options.fraction, options.threshold, find, options.nodes)
    selection.count(units)  # what the graph does not have is refused before it is looked for
    with clock.time("search"):
        per_prompt = session.taken_over.per_prompt
        if per_prompt is None:
            per_prompt = score(session, method)
        scored = Scored.of(per_prompt, selection, units)
    if options.bootstrap is not None:
        with clock.time("bootstrap"):
            session.notes.stage(f"{options.bootstrap:,} resamples of the prompts")
            draws = Bootstrap(options.bootstrap, seed=options.seed)
            uncertainty = bootstrap(
                units.graph, rounded(units.graph, per_prompt), selection, draws, units
            )
            scored = replace(scored, options=draws, uncertainty=uncertainty)
    evaluation = evaluate_circuit(session, scored.kept, session.taken_over.evaluation)
    consensus = None
    if scored.uncertainty is not None:
        with clock.time("evaluation"):
            consensus = evaluate_kept(session, scored.uncertainty.consensus, evaluation)
    return Findings(ready, options, method, scored, evaluation, scored.record(), consensus)


def score(session: Session, method: Scorer) -> Float[Tensor, "prompt receiver sender"]:
    """The method's scores, from where an earlier run was cut off. Of one that diverges those of its
    last sound step are left in the run's folder.
    """
    ready, units, keeper = session.ready, session.units, session.keeper
    start = session.restart(method)
    if start is not None:
        session.tell_resumed(start.told)
    session.notes.stage(
        f"{method.name} scores the {units.n:,} {units.noun} of {ready.model.name}{_at_roles(ready.graph)}"
    )
    try:
        progress = WithEvenTimeLeft(session.notes, session.seconds_of_evaluation)
        scores: Tensor = method.score(session.problem, Job(progress, start, keeper.save))
        keeper.finish()
        return scores
    except DivergedError as error:
        data = scores_file(ready.graph, error.scores.double().mean(0), ready.model.transformer.dtype)
        path = keeper.rescue("scores.safetensors", data)
        raise ModelError(f"{error}\nThe scores after the last sound step are in {path}.") from None


def _at_roles(graph: Graph) -> str:
    """Which roles a graph has, to go on a sentence with."""
    shown = [
        *graph.roles[:MOST_SHOWN],
        *(["..."] if len(graph.roles) > MOST_SHOWN + 1 else []),
        *graph.roles[-1:],
    ]
    return f" at {', '.join(dict.fromkeys(shown))}" if graph.roles else ""
