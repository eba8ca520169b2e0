"""From a circuit file to what its model shows of it: model and prompts that it was found in -> runs
-> Observations.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from circuitfind.circuits.units import Units
from circuitfind.errors import UsageError
from circuitfind.evaluation.curve import Curve, measure_curve
from circuitfind.evaluation.reference import read_scores
from circuitfind.evaluation.trials import Trials
from circuitfind.export.html.data import Observations
from circuitfind.models.workers import Threads
from circuitfind.patching.ablation import find_ablation
from circuitfind.progress import Progress
from circuitfind.review.evaluate import check
from circuitfind.review.view_plan import ViewPlan
from circuitfind.runs.clock import Clock, Noted
from circuitfind.runs.observe import observe
from circuitfind.runs.prepare import make_ready
from circuitfind.runs.result import Ready


def observe_origin(plan: ViewPlan, progress: Progress) -> Observations:
    """What the model that the circuit was found in shows of it, on the run's prompts. Raises
    CircuitfindError.
    """
    notes = Noted(progress, plan.origin.cautions)
    ready = make_ready(plan.run, notes, Clock())
    circuit = plan.origin.circuit
    is_whole = len(ready.pairs) == circuit.task.get("n_prompts")
    known = circuit if is_whole else replace(circuit, task={**circuit.task, "prompts_sha256": None})
    check(known, ready, notes)
    notes.stage(f"looking at {len(ready.pairs)} prompts")
    observed = observe(ready, circuit, plan.n_pairs)
    curve = find_curve(plan, ready, notes) if plan.has_curve else None
    return replace(
        observed, curve=None if curve is None else curve.to_dict(), warnings=tuple(notes.warnings)
    )


def find_curve(plan: ViewPlan, ready: Ready, notes: Noted) -> Curve | None:
    """Faithfulness at every size, where the run left scores of all edges."""
    file, circuit = plan.origin.scores, plan.origin.circuit
    if file is None or circuit.neurons is not None:
        return None
    scores = torch.from_numpy(read_scores(file, circuit.graph))
    metric = "logit-diff" if all(ready.batch.wrong_answers) else "kl"
    with Threads(ready.model.transformer.device) as threads:
        ablation = find_ablation(ready.options.ablation)
        trials = Trials(ready.model.transformer, ready.batch, ablation, ready.work.batch_size, threads)
        try:
            units = Units.of_record(
                trials.graph, ready.model.transformer.architecture.n_kv_heads, circuit.method
            )
            return measure_curve(trials, scores, metric, progress=notes, units=units)
        except UsageError as error:
            notes.warn(f"no curve over sizes: {error}")
            return None
