"""Is everything in the circuit needed? Each edge and each node left out of it alone.

The contribution of a part is F(C) - F(C without it), in the metric's unit: for a metric of which
more is better (the differences) it is positive where the part helps, for KL and loss negative. A
part whose contribution, whatever its sign, is below a small share of |F(full) - F(ablated)| is
called needless; parts that stand in for each other are all needless one by one, so that needless
parts cannot simply all be left out. A node is left out with all its edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from circuitfind.circuits.draws import Draw
from circuitfind.circuits.graph import Edge, Graph, Node
from circuitfind.evaluation.meter import Meter, count_of, heads_and_mlps, knock_out, mean, share, unit
from circuitfind.evaluation.options import LeaveOneOut
from circuitfind.evaluation.trials import Kept, Trials
from circuitfind.evaluation.work import PART, Phase, count
from circuitfind.metrics.measures import MetricName
from circuitfind.progress import Progress


@dataclass(frozen=True)
class Contributions:
    """F(C) - F(C without it) of edges or of nodes, in graph order; ``n_all``: how many of them the
    circuit has.
    """

    values: dict[Edge, float] | dict[Node, float]
    n_all: int

    @property
    def is_sample(self) -> bool:
        """Whether only some of them were drawn."""
        return len(self.values) < self.n_all

    def n_below(self, least: float) -> int:
        """How many contribute less than this, whatever their sign."""
        return sum(abs(value) < least for value in self.values.values())

    def to_dict(self) -> dict[str, Any]:
        values = {str(part): value for part, value in self.values.items()}
        return {
            "n_all": self.n_all,
            "n_looked_at": len(values),
            "is_sample": self.is_sample,
            "contributions": values,
        }


@dataclass(frozen=True)
class Minimality:
    """F of the full model, of the circuit and with every edge ablated, and what each part contributes."""

    metric: MetricName
    options: LeaveOneOut
    full: float
    circuit: float
    ablated: float
    edges: Contributions
    nodes: Contributions

    @property
    def least(self) -> float:
        """The contribution below which a part is needless, in the metric's unit."""
        return self.options.share * abs(self.full - self.ablated)

    def to_dict(self) -> dict[str, Any]:
        return {
            "metric": self.metric,
            "seed": self.options.seed,
            "share": self.options.share,
            "least": self.least,
            "full": self.full,
            "circuit": self.circuit,
            "ablated": self.ablated,
            "edges": {**self.edges.to_dict(), "n_needless": self.edges.n_below(self.least)},
            "nodes": {**self.nodes.to_dict(), "n_needless": self.nodes.n_below(self.least)},
        }

    def lines(self) -> list[str]:
        return [self._line(self.edges, "edges"), self._line(self.nodes, "nodes")]

    def _line(self, parts: Contributions, what: str) -> str:
        n = len(parts.values)
        line = (
            f"Left out alone, {parts.n_below(self.least):,} of {count_of(n, parts.n_all, what)} change"
            f" {self.metric} by less than {100 * self.options.share:g}% of |full - ablated| ({self.least:.3g}"
            f" {unit(self.metric)})"
        )
        if not n:
            return f"{line}."
        part, value = max(parts.values.items(), key=lambda item: abs(item[1]))
        of_all = share(value, self.full, self.ablated)
        spelled = "" if of_all is None else f" ({abs(of_all):.1%})"
        return f"{line}; the largest contribution is that of {part}, {value:.4g}{spelled}."


def edges_of(graph: Graph, kept: Kept) -> list[Edge]:
    """The kept edges in graph order."""
    return [Edge(graph.senders[sender], graph.receivers[row]) for row, sender in kept.nonzero().tolist()]


def phases(graph: Graph, kept: Kept, options: LeaveOneOut) -> tuple[Phase, ...]:
    """The runs that ``measure_minimality`` takes."""
    return (
        Phase(
            1 + sum(min(options.most, n) for n in (int(kept.sum()), len(heads_and_mlps(graph, kept)))),
            PART,
        ),
    )


def n_runs(graph: Graph, kept: Kept, options: LeaveOneOut) -> int:
    """How many runs ``measure_minimality`` takes."""
    return count(phases(graph, kept, options))


def measure_minimality(
    trials: Trials, kept: Kept, metric: MetricName, options: LeaveOneOut, progress: Progress
) -> Minimality:
    """Of the circuit of the ``kept`` edges, in ``n_runs`` runs.

    Raises UsageError where a prompt has no value of the metric.
    """
    graph, draw = trials.graph, Draw(options.seed)
    meter = Meter(trials, metric, phases(graph, kept, options), progress)
    edges, nodes = edges_of(graph, kept), heads_and_mlps(graph, kept)
    chosen_edges = [edges[i] for i in draw.some(len(edges), options.most)]
    chosen_nodes = [nodes[i] for i in draw.some(len(nodes), options.most)]
    parts = [leave_out(graph, kept, edge) for edge in chosen_edges]
    parts += [knock_out(graph, kept, [node]) for node in chosen_nodes]
    whole, *without = meter.values_within(kept, [kept, *parts])
    lost = [mean([x - y for x, y in zip(whole, values, strict=True)]) for values in without]
    of_edges = dict(zip(chosen_edges, lost[: len(chosen_edges)], strict=True))
    of_nodes = dict(zip(chosen_nodes, lost[len(chosen_edges) :], strict=True))
    return Minimality(
        metric,
        options,
        meter.full,
        mean(whole),
        meter.ablated,
        Contributions(of_edges, len(edges)),
        Contributions(of_nodes, len(nodes)),
    )


def leave_out(graph: Graph, kept: Kept, edge: Edge) -> Kept:
    """The same edges without this one."""
    left = kept.clone()
    left[graph.order(edge)] = False
    return left
