"""Evaluates the circuit of a run on the prompts that it was found on."""

from __future__ import annotations

from jaxtyping import Bool
from torch import Tensor

from circuitfind.evaluation.performance import Evaluation, evaluate
from circuitfind.methods.catalogue import CATALOGUE
from circuitfind.progress import Progress, Silent
from circuitfind.runs.session import Session
from circuitfind.runs.time_left import WithEvenTimeLeft
from circuitfind.runs.warnings import (
    empty_warning,
    recovery_warning,
)


def evaluate_circuit(
    session: Session, kept: Bool[Tensor, "receiver sender"], known: Evaluation | None
) -> Evaluation:
    """How well the circuit does the task, with a warning where it does better than it should, or
    not at all.
    """
    options, notes = session.options, session.notes
    with session.clock.time("evaluation"):
        notes.stage("evaluating the circuit")
        evaluation = evaluate_kept(session, kept, known, WithEvenTimeLeft(notes))
        empty = empty_warning(int(kept.sum()), "edges", options.threshold)
        is_search = not CATALOGUE[options.method].scores
        notes.warn_if(empty or recovery_warning(evaluation, is_search, metric=options.metric))
    return evaluation


def evaluate_kept(
    session: Session,
    kept: Bool[Tensor, "receiver sender"],
    known: Evaluation | None,
    progress: Progress = Silent(),
) -> Evaluation:
    """How well these edges alone do the task, under the run's ablation."""
    problem = session.problem
    return evaluate(
        problem.model, problem.batch, kept, problem.ablation, problem.batch_size, known, progress
    )
