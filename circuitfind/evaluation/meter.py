"""One metric of one circuit after another, with a count of the runs: what every judgement holds in its hand.

F(A) is the mean over prompts of the metric of a run in which all edges but those of A are ablated.
The unit in which judgements are compared is |F(full) - F(ablated)|, the whole of what there is to
lose.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import torch

from circuitfind.circuits.graph import Graph, Node
from circuitfind.errors import UsageError
from circuitfind.evaluation.performance import NAMES, Performance
from circuitfind.evaluation.trials import Kept, Trials
from circuitfind.evaluation.work import Phase, Work
from circuitfind.metrics.measures import MetricName
from circuitfind.progress import Progress

UNITS = {"kl": "nats", "logit-diff": "logits", "prob-diff": "probability", "loss": "nats"}


class Meter:
    """Reads one metric off trials and tells how much of the runs of some phases is done.

    To settle on a circuit counts as a run. The full and the ablated model's are not counted: they
    are run once for all judgements.
    """

    def __init__(
        self, trials: Trials, metric: MetricName, phases: tuple[Phase, ...], progress: Progress
    ) -> None:
        self.trials, self.metric = trials, metric
        self._done, self._work, self._progress = 0, Work(phases), progress

    def settle(self, kept: Kept) -> None:
        """As ``Trials.settle``."""
        self.trials.settle(kept)
        self._count()

    def run(self, kept: Kept, names: Sequence[str] = NAMES) -> Performance:
        """As ``Trials.run``."""
        performance = self.trials.run(kept, names)
        self._count()
        return performance

    def values(self, kept: Kept) -> tuple[float, ...]:
        """The metric of each prompt. Raises UsageError as ``values_of``."""
        return values_of(self.run(kept, (self.metric,)), self.metric)

    def mean(self, kept: Kept) -> float:
        """F of this circuit."""
        return mean(self.values(kept))

    def values_within(self, circuit: Kept, parts: Sequence[Kept]) -> list[tuple[float, ...]]:
        """The metric of each prompt in each of these parts of a circuit. Raises UsageError as
        ``values_of``.
        """
        runs = self.trials.run_within(circuit, parts, (self.metric,), self._count)
        return [values_of(run, self.metric) for run in runs]

    def finish(self) -> None:
        """All is done, be it in fewer runs than were foreseen."""
        if self._done < self._work.n_runs:
            self._progress.update(self._work.total, self._work.total)

    def _count(self, n_runs: int = 1) -> None:
        self._done += n_runs
        self._progress.update(self._work.done(self._done), self._work.total)

    @cached_property
    def full(self) -> float:
        """F of the full model."""
        return mean(values_of(self.trials.full, self.metric))

    @cached_property
    def ablated(self) -> float:
        """F with every edge ablated."""
        return mean(values_of(self.trials.ablated, self.metric))


def values_of(performance: Performance, metric: str) -> tuple[float, ...]:
    """The metric of each prompt. Raises UsageError where a prompt has none."""
    values = performance.values[metric]
    for number, value in enumerate(values, start=1):
        if not math.isfinite(value):
            raise UsageError(
                f"{metric} of prompt {number} is {value}: it has no wrong answers, or the run overflowed. "
                "Judge by kl or loss, or with --dtype float32."
            )
    return values


def mean(values: Sequence[float]) -> float:
    """Rounded once."""
    return math.fsum(values) / len(values)


def mean_change(values: Sequence[float], others: Sequence[float]) -> float:
    """The mean over prompts of |one value - the other|."""
    return mean([abs(x - y) for x, y in zip(values, others, strict=True)])


def share(value: float, full: float, ablated: float) -> float | None:
    """``value`` as a share of |F(full) - F(ablated)|; None where those two do not differ."""
    return None if math.isclose(full, ablated, abs_tol=1e-9) else value / abs(full - ablated)


def spell_share(value: float | None) -> str:
    """A share as a reader sees it."""
    return (
        "no share: full and ablated model do not differ"
        if value is None
        else f"{value:.1%} of full - ablated"
    )


def count_of(n: int, n_all: int, what: str) -> str:
    """How many of them were looked at."""
    return f"all {n:,} {what}" if n == n_all else f"{n:,} {what} drawn of {n_all:,}"


def unit(metric: str) -> str:
    """What the metric is measured in."""
    return UNITS.get(metric, metric)


def heads_and_mlps(graph: Graph, kept: Kept) -> tuple[Node, ...]:
    """The nodes of a circuit that can be knocked out: heads and MLPs that a kept edge leaves, in
    forward order.
    """
    sends = kept.any(0).tolist()
    return tuple(
        node for node, is_in in zip(graph.senders, sends, strict=True) if is_in and node.kind != "input"
    )


def knock_out(graph: Graph, kept: Kept, nodes: Sequence[Node]) -> Kept:
    """The same edges without all that leave these nodes."""
    left = kept.clone()
    left[:, torch.tensor([graph.sender_index[node] for node in nodes], dtype=torch.long)] = False
    return left
