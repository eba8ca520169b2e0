"""Evaluates the circuit of a run on the prompts that it was found on."""

from __future__ import annotations

from jaxtyping import Bool
from torch import Tensor

from circuitfind.evaluation.performance import Evaluation, evaluate
from circuitfind.evaluation.work import EVALUATION
from circuitfind.methods.catalogue import CATALOGUE
from circuitfind.options import RunOptions
from circuitfind.patching.ablation import find_ablation
from circuitfind.runs.clock import Clock, Noted
from circuitfind.runs.result import Ready
from circuitfind.runs.time_left import WithEvenTimeLeft
from circuitfind.runs.warnings import (
    empty_warning,
    recovery_warning,
)


def seconds_of_evaluation(clock: Clock) -> float:
    """About how long the circuit's evaluation will take, from what the full model took on the same
    prompts.
    """
    return EVALUATION * clock.seconds.get("task", 0.0)


def evaluate_circuit(
    ready: Ready,
    options: RunOptions,
    kept: Bool[Tensor, "receiver sender"],
    notes: Noted,
    clock: Clock,
    known: Evaluation | None,
) -> Evaluation:
    """How well the circuit does the task, with a warning where it does better than it should, or
    not at all.
    """
    with clock.time("evaluation"):
        notes.stage("evaluating the circuit")
        size, ablation = ready.work.batch_size, find_ablation(options.ablation)
        progress = WithEvenTimeLeft(notes)
        evaluation = evaluate(ready.model.transformer, ready.batch, kept, ablation, size, known, progress)
        empty = empty_warning(int(kept.sum()), "edges", options.threshold)
        is_search = not CATALOGUE[options.method or ""].scores
        notes.warn_if(empty or recovery_warning(evaluation, is_search, metric=options.metric or ""))
    return evaluation
