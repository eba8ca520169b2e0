"""Makes the circuit of a method that scores edges: scores, selection, bootstrap, evaluation."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from circuitfind.circuits.bootstrap import Bootstrap, bootstrap
from circuitfind.circuits.graph import Graph
from circuitfind.circuits.scores_file import rounded, scores_file
from circuitfind.circuits.size import Selection, find_select
from circuitfind.circuits.units import Units
from circuitfind.errors import ModelError
from circuitfind.evaluation.performance import evaluate
from circuitfind.methods.masks.learned import DivergedError
from circuitfind.methods.method import Scorer, score_on
from circuitfind.methods.scored import Scored
from circuitfind.options import RunOptions
from circuitfind.patching.ablation import find_ablation
from circuitfind.runs.checkpoint import Keeper
from circuitfind.runs.clock import Clock, Noted
from circuitfind.runs.evaluate import evaluate_circuit, seconds_of_evaluation
from circuitfind.runs.prepare import find_units
from circuitfind.runs.restart import go_on, taken_up
from circuitfind.runs.result import Findings, Ready, TakenOver
from circuitfind.runs.time_left import WithEvenTimeLeft

MOST_SHOWN = 10
"""So many roles of more are named."""


def score_circuit(
    ready: Ready,
    options: RunOptions,
    method: Scorer,
    notes: Noted,
    clock: Clock,
    keeper: Keeper,
    taken_over: TakenOver,
) -> Findings:
    """The circuit made of a method's scores, how sure it is, and its evaluation."""
    graph, units = ready.graph, find_units(ready, options)
    find = find_select(options.select)
    selection = Selection(options.edges, options.fraction, options.threshold, find, options.nodes)
    selection.count(units)  # what the graph does not have is refused before it is looked for
    with clock.time("search"):
        per_prompt = taken_over.per_prompt
        if per_prompt is None:
            per_prompt = score(ready, options, method, units, notes, clock, keeper)
        scored = Scored.of(per_prompt, selection, units)
    if options.bootstrap is not None:
        with clock.time("bootstrap"):
            notes.stage(f"{options.bootstrap:,} resamples of the prompts")
            draws = Bootstrap(options.bootstrap, seed=options.seed)
            uncertainty = bootstrap(graph, rounded(graph, per_prompt), selection, draws, units)
            scored = replace(scored, options=draws, uncertainty=uncertainty)
    evaluation = evaluate_circuit(ready, options, scored.kept, notes, clock, taken_over.evaluation)
    consensus = None
    if scored.uncertainty is not None:
        with clock.time("evaluation"):
            size, kept = ready.work.batch_size, scored.uncertainty.consensus
            ablation = find_ablation(options.ablation)
            consensus = evaluate(ready.model.transformer, ready.batch, kept, ablation, size, evaluation)
    return Findings(ready, options, method, scored, evaluation, scored.record(), consensus)


def score(
    ready: Ready,
    options: RunOptions,
    method: Scorer,
    units: Units,
    notes: Noted,
    clock: Clock,
    keeper: Keeper,
) -> Float[Tensor, "prompt receiver sender"]:
    """The method's scores, from where an earlier run was cut off. Of one that diverges those of its
    last sound step are left in the run's folder."""
    model = ready.model.transformer
    start = go_on(keeper, ready, options, method, clock, notes)
    if start is not None:
        notes.stage(taken_up(keeper, clock, start.told))
    notes.stage(
        f"{method.name} scores the {units.n:,} {units.noun} of {ready.model.name}{_at_roles(ready.graph)}"
    )
    try:
        progress = WithEvenTimeLeft(notes, seconds_of_evaluation(clock))
        scores = score_on(method, model, ready.batch, ready.work.batch_size, progress, start, keeper.save)
        keeper.finish()
        return scores
    except DivergedError as error:
        data = scores_file(ready.graph, error.scores.double().mean(0), model.dtype)
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
