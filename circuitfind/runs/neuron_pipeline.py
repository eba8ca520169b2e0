"""The middle of the flow at neuron level: method -> circuit of neurons -> evaluation."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from circuitfind.circuits.bootstrap import Bootstrap
from circuitfind.circuits.masks import readable
from circuitfind.circuits.scores_file import rounded_each
from circuitfind.circuits.size import NeuronSelection, find_select
from circuitfind.evaluation.neurons import evaluate_neurons
from circuitfind.evaluation.performance import Evaluation
from circuitfind.methods.make import make_neuron_method
from circuitfind.methods.method import Job, Scorer
from circuitfind.methods.neuron_circuit import NeuronOutcome, bootstrap_neurons, of_scores, of_search
from circuitfind.methods.search.neurons import ACDCNeurons
from circuitfind.methods.search.rounding import margin_of
from circuitfind.options import SettledOptions
from circuitfind.patching.units import neurons_of
from circuitfind.progress import Progress, Silent
from circuitfind.runs.result import Findings
from circuitfind.runs.session import Session
from circuitfind.runs.time_left import WithEvenTimeLeft
from circuitfind.runs.warnings import empty_warning, recovery_warning, rounding_warning


def find_neurons(session: Session) -> Findings:
    """The circuit of neurons that settled options ask for, how sure it is, and its evaluation.

    What is found is kept all the while.
    """
    ready, options, clock, notes = session.ready, session.options, session.clock, session.notes
    method = make_neuron_method(options, ready.model.transformer.architecture.graph)
    if not isinstance(method, ACDCNeurons):  # what there is not is refused before it is looked for
        _selection(options).count(len(neurons_of(ready.model.transformer)))
    start = session.restart(method)
    if start is not None:
        session.tell_resumed(start.told)
    job = Job(WithEvenTimeLeft(notes), start, session.keeper.save)
    with clock.time("search"):
        if isinstance(method, ACDCNeurons):
            outcome = _search(session, method, job)
        else:
            outcome = _score(session, method, job)
        session.keeper.finish()
    if options.bootstrap is not None:
        with clock.time("bootstrap"):
            notes.stage(f"{options.bootstrap:,} resamples of the prompts")
            outcome = _resample(outcome, options)
    with clock.time("evaluation"):
        notes.stage("evaluating the circuit")
        progress = WithEvenTimeLeft(notes)
        evaluation = _evaluate(session, outcome.kept, None, progress)
        empty = empty_warning(int(outcome.kept.sum()), "neurons", options.threshold)
        is_search = isinstance(method, ACDCNeurons)
        notes.warn_if(empty or recovery_warning(evaluation, is_search, "neurons", options.metric))
        consensus = None
        if outcome.uncertainty is not None:
            consensus = _evaluate(session, outcome.uncertainty.consensus[0], evaluation)
    return Findings(ready, options, method, outcome, evaluation, outcome.record(), consensus)


def _evaluate(
    session: Session,
    kept: Bool[Tensor, " neuron"],
    known: Evaluation | None,
    progress: Progress = Silent(),
) -> Evaluation:
    problem = session.problem
    return evaluate_neurons(
        problem.model, problem.batch, kept, problem.ablation, problem.batch_size, known, progress
    )


def _selection(options: SettledOptions) -> NeuronSelection:
    return NeuronSelection(
        options.neurons, options.fraction, options.threshold, find_select(options.select)
    )


def _search(session: Session, method: ACDCNeurons, job: Job) -> NeuronOutcome:
    model, notes = session.problem.model, session.notes
    neurons = neurons_of(model)
    what = f"the {len(neurons):,} neurons of {session.ready.model.name}"
    notes.stage(f"{method.name} on {what}, threshold {method.threshold:g}")
    found = method.find(session.problem, job)
    problem = session.problem.by(method.metric, method.ablation, method.objective == "match")
    margin = margin_of(problem, torch.zeros_like(readable(model.architecture.graph)))
    outcome = of_search(neurons, found, method.threshold, margin)
    notes.warn_if(rounding_warning(outcome.blocks["search"]["undecidable"], method.threshold, margin))
    return outcome


def _score(session: Session, method: Scorer, job: Job) -> NeuronOutcome:
    neurons = neurons_of(session.problem.model)
    session.notes.stage(
        f"{method.name} scores the {len(neurons):,} neurons of {session.ready.model.name}"
    )
    return of_scores(neurons, method.score(session.problem, job), _selection(session.options))


def _resample(outcome: NeuronOutcome, options: SettledOptions) -> NeuronOutcome:
    """The outcome with how sure it is."""
    assert options.bootstrap is not None
    assert outcome.per_prompt is not None
    draws = Bootstrap(options.bootstrap, seed=options.seed)
    uncertainty = bootstrap_neurons(rounded_each(outcome.per_prompt), _selection(options), draws)
    return replace(outcome, options=draws, uncertainty=uncertainty)
