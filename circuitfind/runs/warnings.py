"""Warnings about a run's outcome: a task that the model fails, over-recovery, an empty or unsure circuit."""

from __future__ import annotations

import math
from collections.abc import Sequence

from circuitfind.circuits.graph import Edge, Node
from circuitfind.circuits.intervals import promise
from circuitfind.evaluation.performance import LEVEL, Evaluation, Performance

FAILS_BELOW = 0.75


OVER_RECOVERS, NO_BETTER_THAN_NOTHING = 1.2, 0.1


HARDLY = 0.05
"""Where ablating everything changes the logit difference by less than this share of it, nothing is
a share of that.
"""


SHARES = {"logit-diff": "logit difference", "kl": "KL"}


N_STRONGEST, N_NAMED = 10, 3


SHORTLIST_LOSES_BELOW = 0.8


EMPTY = {
    True: "No edge was kept: the threshold is above what any edge carries. Lower it.",
    False: (
        "No edge was kept: none of those chosen lies on a path from the input to the logits. Ask for more"
        " edges."
    ),
}
"""What to tell of a circuit without edges, by whether a threshold made it."""


NO_NEURON = "No neuron was kept. Lower the threshold, or ask for more."


def task_line(performance: Performance) -> str:
    """How well the full model does the task, in one line."""
    accuracy, difference = performance.mean("accuracy"), performance.mean("logit-diff")
    shown = "" if difference is None else f", logit diff {difference:.2f}"
    return f"accuracy {accuracy:.0%}{shown}, loss {performance.mean('loss'):.2f} nats"


def task_warning(performance: Performance) -> str | None:
    """What to tell a user whose model fails the task; None where it does it."""
    accuracy, difference = performance.mean("accuracy"), performance.mean("logit-diff")
    if (accuracy or 0.0) >= FAILS_BELOW and (difference is None or difference > 0):
        return None
    return (
        f"the full model fails this task ({task_line(performance)}): "
        "a circuit found for it explains no working behaviour. Take another model or other prompts."
    )


def empty_warning(n_kept: int, parts: str, threshold: float | None) -> str | None:
    """What to tell a user whose circuit keeps nothing, by the threshold that was asked for if one
    was; else None.
    """
    if n_kept:
        return None
    remedy = (
        f"Ask for more {parts}." if threshold is None else f"Lower --threshold, which is {threshold:g}."
    )
    return f"the circuit is empty: no {parts} on a path from the input to the logits are kept. {remedy}"


def recovery_warning(
    evaluation: Evaluation, is_search: bool = True, parts: str = "edges", metric: str = ""
) -> str | None:
    """What to tell a user whose circuit does better than the full model, or no better than none; else None.

    ``is_search``: it comes from a search by ``metric``, not from a number of edges (``parts``: or
    neurons) that was asked for. Bounds are on the faithfulness of the logit difference where there
    is one, else of the KL. Where the two runs that it compares hardly differ, nothing else is said.
    """
    name = next((name for name in SHARES if evaluation.faithfulness(name) is not None), None)
    if name is None:
        return None
    if (indistinct := _indistinct(evaluation, name)) is not None:
        return indistinct
    faithfulness = evaluation.faithfulness(name) or 0.0
    share = f"its faithfulness ({SHARES[name]}) is {faithfulness:.0%}"
    if faithfulness > OVER_RECOVERS:
        return f"the circuit over-recovers: {share}, {_why_more(evaluation, is_search, parts, metric)}"
    remedy = "Lower --threshold to keep more of it." if is_search else f"Keep more {parts}."
    if faithfulness <= NO_BETTER_THAN_NOTHING:
        return f"the circuit does hardly more than the fully ablated model: {share}. {remedy}"
    if (interval := evaluation.interval(name)) is not None and interval[0] <= 0 <= interval[1]:
        sure = promise(LEVEL, evaluation.n_prompts)
        return (
            f"the circuit may do no more than the fully ablated model: {share}, and may be anything from "
            f"{interval[0]:.0%} to {interval[1]:.0%} ({sure}). Give more --prompts."
        )
    full, circuit, ablated = (run.mean("accuracy") or 0.0 for run in _runs(evaluation))
    if full > ablated >= circuit:
        return (
            f"the circuit answers no better than the fully ablated model: {circuit:.0%} right, ablated"
            f" {ablated:.0%} (full {full:.0%}), though {share}. {remedy}"
        )
    return None


def _indistinct(evaluation: Evaluation, name: str) -> str | None:
    """What to tell where ablating everything hardly changes the metric, so that a share of that is
    noise; else None.

    Hardly: the mean change is less than HARDLY of the full model's mean, or of what a prompt
    changes either way.
    """
    if name != "logit-diff":
        return None
    full, ablated = evaluation.full, evaluation.ablated
    changes = [x - y for x, y in zip(full.values[name], ablated.values[name], strict=True)]
    mean = math.fsum(changes) / len(changes)
    typical = math.fsum(map(abs, changes)) / len(changes)
    if abs(mean) >= HARDLY * max(typical, abs(full.mean(name) or 0.0)):
        return None
    of_kl = evaluation.faithfulness("kl")
    instead = "" if of_kl is None else f" By KL it is {of_kl:.0%}."
    return (
        f"ablating everything changes the logit difference by {mean:.2g} only (a prompt's by {typical:.2g}):"
        f" its faithfulness in that, {evaluation.faithfulness(name):.0%}, says nothing.{instead} Take other"
        " corrupted prompts, or another --ablation."
    )


def _why_more(evaluation: Evaluation, is_search: bool, parts: str, metric: str) -> str:
    """Why a circuit goes beyond the full model's logit difference, and what to do about it."""
    full, circuit, ablated = (run.mean("logit-diff") or 0.0 for run in _runs(evaluation))
    if ablated > full:
        return (
            f"and that is no good sign: ablating everything raises the logit difference ({full:.3g} to"
            f" {ablated:.3g}), the circuit lowers it to {circuit:.3g}, because what speaks for the answer was"
            " removed. Take prompts that the full model answers better than the ablated one, or another"
            " --ablation."
        )
    remedy = f"Keep more {parts}, or another method's."
    if is_search:
        remedy = (
            "Lower --threshold to keep more of it."
            if metric == "kl"
            else "Use --metric kl, or --objective match."
        )
    return f"because what speaks against the answer was removed too. {remedy}"


def shortlist_warning(evaluation: Evaluation, n_edges: int, metric: str) -> str | None:
    """What to tell a user whose candidates lose much before any test: the search can't bring it
    back; else None.

    The bound is on the faithfulness of the run's own metric, which the search goes by.
    """
    if n_edges == 0:
        return (
            "none of the candidates lies on a path from the input to the logits: none is tested. Ask for more"
            " of them."
        )
    faithfulness = evaluation.faithfulness(metric)
    if faithfulness is None or faithfulness >= SHORTLIST_LOSES_BELOW:
        return None
    return (
        f"before any test, the {n_edges:,} candidates have a faithfulness ({metric}) of {faithfulness:z.0%}:"
        " what is lost with all other edges no test brings back. Ask for more candidates, or for another"
        " method's."
    )


def rounding_warning(near: Sequence[Edge | Node | str], threshold: float, margin: float) -> str | None:
    """What to tell a user of tests that came out within ``margin`` of the threshold; None where none did."""
    if not near:
        return None
    shown = ", ".join(map(str, near[:N_NAMED])) + (", ..." if len(near) > N_NAMED else "")
    return (
        f"{len(near):,} of the tests came out within {margin:g} of the threshold {threshold:g}, where"
        f" rounding decides ({shown}; all are in run.json). Another threshold, or --dtype float64, tells the"
        " sides apart."
    )


def _runs(evaluation: Evaluation) -> tuple[Performance, ...]:
    return evaluation.full, evaluation.circuit, evaluation.ablated
