"""The middle of the flow at neuron level: method -> circuit of neurons -> evaluation."""

from __future__ import annotations

from dataclasses import replace

import torch

from circuitfind.circuits.bootstrap import Bootstrap
from circuitfind.circuits.masks import readable
from circuitfind.circuits.scores_file import rounded_each
from circuitfind.circuits.size import NeuronSelection, find_select
from circuitfind.evaluation.neurons import evaluate_neurons
from circuitfind.methods.make import make_neuron_method
from circuitfind.methods.method import Scorer, score_on
from circuitfind.methods.neuron_circuit import NeuronOutcome, bootstrap_neurons, of_scores, of_search
from circuitfind.methods.saved_state import SoFar
from circuitfind.methods.search.neurons import ACDCNeurons
from circuitfind.methods.search.rounding import margin_of
from circuitfind.options import RunOptions
from circuitfind.patching.ablation import find_ablation
from circuitfind.patching.units import neurons_of
from circuitfind.runs.checkpoint import Keeper
from circuitfind.runs.clock import Clock, Noted
from circuitfind.runs.restart import go_on, taken_up
from circuitfind.runs.result import Findings, Ready
from circuitfind.runs.time_left import WithEvenTimeLeft
from circuitfind.runs.warnings import empty_warning, recovery_warning, rounding_warning


def find_neurons(ready: Ready, options: RunOptions, notes: Noted, clock: Clock, keeper: Keeper) -> Findings:
    """The circuit of neurons that settled ``options`` ask for, how sure it is, and its evaluation.

    What is found is kept all the while.
    """
    method = make_neuron_method(options, ready.model.transformer.architecture.graph)
    if not isinstance(method, ACDCNeurons):  # what there is not is refused before it is looked for
        _selection(options).count(len(neurons_of(ready.model.transformer)))
    start = go_on(keeper, ready, options, method, clock, notes)
    if start is not None:
        notes.stage(taken_up(keeper, clock, start.told))
    with clock.time("search"):
        if isinstance(method, ACDCNeurons):
            outcome = _search(ready, method, notes, keeper, start)
        else:
            outcome = _score(ready, method, options, notes, keeper, start)
        keeper.finish()
    if options.bootstrap is not None:
        with clock.time("bootstrap"):
            notes.stage(f"{options.bootstrap:,} resamples of the prompts")
            outcome = _resample(outcome, options)
    with clock.time("evaluation"):
        notes.stage("evaluating the circuit")
        model, size, ablation = (
            ready.model.transformer,
            ready.work.batch_size,
            find_ablation(options.ablation),
        )
        progress = WithEvenTimeLeft(notes)
        evaluation = evaluate_neurons(model, ready.batch, outcome.kept, ablation, size, progress=progress)
        empty = empty_warning(int(outcome.kept.sum()), "neurons", options.threshold)
        is_search = isinstance(method, ACDCNeurons)
        notes.warn_if(empty or recovery_warning(evaluation, is_search, "neurons", options.metric or ""))
        consensus = None
        if outcome.uncertainty is not None:
            often = outcome.uncertainty.consensus[0]
            consensus = evaluate_neurons(model, ready.batch, often, ablation, size, evaluation)
    return Findings(ready, options, method, outcome, evaluation, outcome.record(), consensus)


def _selection(options: RunOptions) -> NeuronSelection:
    return NeuronSelection(options.neurons, options.fraction, options.threshold, find_select(options.select))


def _search(
    ready: Ready, method: ACDCNeurons, notes: Noted, keeper: Keeper, start: SoFar | None
) -> NeuronOutcome:
    model = ready.model.transformer
    neurons = neurons_of(model)
    notes.stage(
        f"{method.name} on the {len(neurons):,} neurons of {ready.model.name}, threshold {method.threshold:g}"
    )
    found = method.find(
        model, ready.batch, ready.work.batch_size, WithEvenTimeLeft(notes), start, keeper.save
    )
    measured = (method.metric, method.ablation, method.objective == "match")
    nothing = torch.zeros_like(readable(model.architecture.graph))
    margin = margin_of(model, ready.batch, ready.work.batch_size, measured, nothing)
    outcome = of_search(neurons, found, method.threshold, margin)
    notes.warn_if(rounding_warning(outcome.blocks["search"]["undecidable"], method.threshold, margin))
    return outcome


def _score(
    ready: Ready, method: Scorer, options: RunOptions, notes: Noted, keeper: Keeper, start: SoFar | None
) -> NeuronOutcome:
    model = ready.model.transformer
    neurons = neurons_of(model)
    notes.stage(f"{method.name} scores the {len(neurons):,} neurons of {ready.model.name}")
    progress = WithEvenTimeLeft(notes)
    scores = score_on(method, model, ready.batch, ready.work.batch_size, progress, start, keeper.save)
    return of_scores(neurons, scores, _selection(options))


def _resample(outcome: NeuronOutcome, options: RunOptions) -> NeuronOutcome:
    """The outcome with how sure it is."""
    assert options.bootstrap is not None
    assert outcome.per_prompt is not None
    draws = Bootstrap(options.bootstrap, seed=options.seed)
    uncertainty = bootstrap_neurons(rounded_each(outcome.per_prompt), _selection(options), draws)
    return replace(outcome, options=draws, uncertainty=uncertainty)
