"""Is anything of the behaviour left outside of the circuit? Completeness, after Wang et al.
(arXiv:2211.00593).

Two ways to ask. The complement, all edges but the circuit's, should do no better than the ablated
model. And a complete circuit behaves as the model does under every knock-out: for any set K of its
nodes, |F(C\\K) - F(M\\K)| is small, where C\\K is the circuit and M\\K the whole model without any
edge that leaves a node of K. That difference is the incompleteness under K. Backup heads, which
take over only when others are gone, show in no other number: single edges of an OR look needless
one by one, and a circuit without the backup is as faithful as one with it.

Wang et al. draw K at random, by the class of heads, and greedily. Here K is drawn at random, each
head and MLP of C with probability 1/2, and grown greedily: from the empty set, again and again by
the node that raises the incompleteness most, until none does or after some steps. So the greedy one
is a lower bound of the largest incompleteness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from circuitfind.circuits.draws import Draw
from circuitfind.circuits.graph import Graph, Node
from circuitfind.evaluation.meter import (
    Meter,
    heads_and_mlps,
    knock_out,
    mean,
    share,
    spell_share,
    unit,
    values_of,
)
from circuitfind.evaluation.options import KnockOuts
from circuitfind.evaluation.performance import Evaluation
from circuitfind.evaluation.trials import Kept, Trials
from circuitfind.evaluation.work import DENSE, HALF, KNOCKED_OUT, PART, WITHOUT_ONE, Phase, count
from circuitfind.metrics.measures import MetricName
from circuitfind.progress import Progress


@dataclass(frozen=True)
class KnockOut:
    """F of the circuit and of the whole model, in the metric's unit, without what leaves these nodes."""

    nodes: tuple[Node, ...]
    circuit: float
    model: float

    @property
    def incompleteness(self) -> float:
        """|F(C\\K) - F(M\\K)|, in the metric's unit."""
        return abs(self.circuit - self.model)

    def to_dict(self) -> dict[str, Any]:
        return {
            "nodes": list(map(str, self.nodes)),
            "circuit": self.circuit,
            "model": self.model,
            "incompleteness": self.incompleteness,
        }


@dataclass(frozen=True)
class Completeness:
    """``complement``: all edges but the circuit's. ``nothing``: no node knocked out. ``greedy``:
    the steps of one growing K, each with one node more than the last; none if no node raised the
    incompleteness.
    """

    metric: MetricName
    options: KnockOuts
    n_nodes: int
    full: float
    ablated: float
    complement: Evaluation
    nothing: KnockOut
    randoms: tuple[KnockOut, ...]
    greedy: tuple[KnockOut, ...]

    @property
    def worst(self) -> KnockOut:
        """The knock-out of the largest incompleteness that was found; of equal ones the first."""
        return max((self.nothing, *self.randoms, *self.greedy), key=lambda knock: knock.incompleteness)

    def share(self, knock: KnockOut) -> float | None:
        """Its incompleteness as a share of |F(full) - F(ablated)|; None where those do not differ."""
        return share(knock.incompleteness, self.full, self.ablated)

    def to_dict(self) -> dict[str, Any]:
        return {
            "metric": self.metric,
            "seed": self.options.seed,
            "n_candidates": self.options.n_candidates,
            "n_nodes": self.n_nodes,
            "full": self.full,
            "ablated": self.ablated,
            "complement": self.complement.circuit.to_dict(),
            "complement_faithfulness": self.complement.faithfulness(self.metric),
            "nothing": self._entry(self.nothing),
            "random": [self._entry(knock) for knock in self.randoms],
            "greedy": [self._entry(knock) for knock in self.greedy],
            "worst": self._entry(self.worst),
        }

    def _entry(self, knock: KnockOut) -> dict[str, Any]:
        return {**knock.to_dict(), "share": self.share(knock)}

    def lines(self) -> list[str]:
        faithfulness = self.complement.faithfulness(self.metric)
        spelled = "none" if faithfulness is None else f"{faithfulness:.3f}"
        outside = mean(values_of(self.complement.circuit, self.metric))
        lines = [
            (
                f"Complement (all edges but the circuit's): {self.metric} {outside:.4g} {unit(self.metric)}, "
                f"faithfulness {spelled}; 0 where nothing of the behaviour is left outside."
            ),
            f"No knock-out: {self._spell(self.nothing)}.",
        ]
        if self.randoms:
            typical = mean([knock.incompleteness for knock in self.randoms])
            worst = max(self.randoms, key=lambda knock: knock.incompleteness)
            n = len(self.randoms)
            lines.append(f"{n} random knock-outs: mean {typical:.4g}, largest {self._spell(worst)}.")
        if self.options.n_steps:
            lines.append(f"Greedy knock-out: {self._spell_greedy()}.")
        return lines

    def _spell(self, knock: KnockOut) -> str:
        return (
            f"incompleteness {knock.incompleteness:.4g} {unit(self.metric)}"
            f" ({spell_share(self.share(knock))})"
        )

    def _spell_greedy(self) -> str:
        if not self.greedy:
            return "no node that was looked at raises the incompleteness"
        last = self.greedy[-1]
        return f"{self._spell(last)} without {', '.join(map(str, last.nodes))}"


def phases(graph: Graph, kept: Kept, options: KnockOuts) -> tuple[Phase, ...]:
    """The runs that ``measure_completeness`` takes; fewer where the greedy knock-out ends early."""
    n_nodes, n_sets = len(heads_and_mlps(graph, kept)), 1 + options.n_random
    steps = [_n_candidates(n_nodes - step, options) for step in range(min(options.n_steps, n_nodes))]
    greedy = [Phase(n, cost) for n in steps for cost in (PART, WITHOUT_ONE)]
    return (Phase(1, DENSE), Phase(n_sets, HALF), Phase(n_sets, KNOCKED_OUT), *greedy)


def n_runs(graph: Graph, kept: Kept, options: KnockOuts) -> int:
    """The most runs that ``measure_completeness`` takes."""
    return count(phases(graph, kept, options))


def measure_completeness(
    trials: Trials,
    kept: Kept,
    metric: MetricName,
    options: KnockOuts,
    progress: Progress,
) -> Completeness:
    """Of the circuit of the ``kept`` edges, in at most ``n_runs`` runs.

    Raises UsageError where a prompt has no value of the metric.
    """
    graph = trials.graph
    meter = Meter(trials, metric, phases(graph, kept, options), progress)
    nodes, draw = heads_and_mlps(graph, kept), Draw(options.seed)
    complement = Evaluation(trials.full, meter.run(trials.edges & ~kept), trials.ablated)
    drawn = [tuple(node for node in nodes if draw.coin()) for _ in range(options.n_random)]
    nothing, *randoms = _knock_out_each(meter, kept, ((), *drawn))
    greedy = _grow(meter, kept, nodes, nothing, options, draw)
    meter.finish()
    return Completeness(
        metric,
        options,
        len(nodes),
        meter.full,
        meter.ablated,
        complement,
        nothing,
        tuple(randoms),
        tuple(greedy),
    )


def _n_candidates(n_left: int, options: KnockOuts) -> int:
    return n_left if options.n_candidates is None else min(n_left, options.n_candidates)


def _knock_out_each(meter: Meter, kept: Kept, sets: Sequence[tuple[Node, ...]]) -> list[KnockOut]:
    """Each set of nodes out of the circuit, then each out of the model."""
    graph, sides = meter.trials.graph, []
    for edges in (kept, meter.trials.edges):
        values = meter.values_within(edges, [knock_out(graph, edges, nodes) for nodes in sets])
        sides.append(list(map(mean, values)))
    return [KnockOut(*sides) for sides in zip(sets, *sides, strict=True)]


def _grow(
    meter: Meter, kept: Kept, nodes: Sequence[Node], nothing: KnockOut, options: KnockOuts, draw: Draw
) -> list[KnockOut]:
    """The steps of the greedy knock-out. Of equal nodes the first is taken."""
    steps: list[KnockOut] = []
    for _ in range(min(options.n_steps, len(nodes))):
        now = steps[-1] if steps else nothing
        left = [node for node in nodes if node not in now.nodes]
        candidates = [left[i] for i in draw.some(len(left), options.n_candidates)]
        tried = _knock_out_each(meter, kept, [(*now.nodes, node) for node in candidates])
        best = max(tried, key=lambda knock: knock.incompleteness)
        if best.incompleteness <= now.incompleteness:
            break
        steps.append(best)
    return steps
