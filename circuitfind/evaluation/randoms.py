"""What chance achieves: random circuits as large as the one that is judged.

Two kinds. Circuits of the same *shape* have as many edges into each stage of each layer (its heads'
q inputs, their k inputs, their v inputs, its MLP) and into the logits, drawn from all edges that
lead there; many of those lie on no path from the input to the logits and carry nothing. Circuits of
*paths* (Shi et al., arXiv:2410.13032) are unions of random paths from the input to the logits, each
through an edge that is not in the circuit yet, until there are as many edges: all of them can carry
something, and the last path may make the circuit a little larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int

from circuitfind.circuits.draws import Draw
from circuitfind.circuits.graph import Graph
from circuitfind.circuits.masks import readable
from circuitfind.circuits.reach import Sites
from circuitfind.circuits.selection import prune
from circuitfind.errors import UsageError
from circuitfind.evaluation.meter import Meter, mean, values_of
from circuitfind.evaluation.options import RandomCircuits
from circuitfind.evaluation.performance import Evaluation
from circuitfind.evaluation.trials import Kept, Trials
from circuitfind.evaluation.work import ALONE, Phase, count
from circuitfind.metrics.measures import MetricName
from circuitfind.progress import Progress


@dataclass(frozen=True)
class AgainstRandom:
    """The circuit beside random ones of its shape: faithfulness (None where full and ablated do not
    differ) and mean KL in nats.
    """

    metric: MetricName
    options: RandomCircuits
    n_edges: int
    faithfulness: float | None
    kl: float
    random_faithfulness: tuple[float, ...] | None
    random_kl: tuple[float, ...]

    @property
    def faithfulness_quantile(self) -> float | None:
        """The share of random circuits farther from a faithfulness of 1; of those as far, half. 1:
        nearer than all.
        """
        if self.faithfulness is None or self.random_faithfulness is None:
            return None
        return quantile(abs(self.faithfulness - 1), [abs(x - 1) for x in self.random_faithfulness])

    @property
    def kl_quantile(self) -> float:
        """The share of random circuits whose KL is larger; of those with the same, half."""
        return quantile(self.kl, self.random_kl)

    def to_dict(self) -> dict[str, Any]:
        by_chance = self.random_faithfulness
        return {
            "metric": self.metric,
            "n": self.options.n,
            "seed": self.options.seed,
            "n_edges": self.n_edges,
            "faithfulness": self.faithfulness,
            "faithfulness_quantile": self.faithfulness_quantile,
            "kl": self.kl,
            "kl_quantile": self.kl_quantile,
            "random_faithfulness": None if by_chance is None else list(by_chance),
            "random_kl": list(self.random_kl),
        }

    def lines(self) -> list[str]:
        n = f"{self.options.n} random circuits of the same shape"
        lines = [
            f"KL {self.kl:.4g} nats, below that of {self.kl_quantile:.1%} of {n} "
            f"(mean {mean(self.random_kl):.4g}, least {min(self.random_kl):.4g})."
        ]
        if self.faithfulness is not None and self.random_faithfulness is not None:
            lines.append(
                f"Faithfulness ({self.metric}) {self.faithfulness:.3f}, nearer to 1 than that of "
                f"{self.faithfulness_quantile:.1%} of {n} (mean {mean(self.random_faithfulness):.3f})."
            )
        return lines


def quantile(value: float, others: Sequence[float]) -> float:
    """The share of the others that are larger, and half of those that are equal."""
    return sum((other > value) + 0.5 * (other == value) for other in others) / len(others)


def phases(options: RandomCircuits) -> tuple[Phase, ...]:
    """The runs that ``measure_against_random`` takes."""
    return (Phase(1 + options.n, ALONE),)


def n_runs(options: RandomCircuits) -> int:
    """How many runs ``measure_against_random`` takes."""
    return count(phases(options))


def measure_against_random(
    trials: Trials, kept: Kept, metric: MetricName, options: RandomCircuits, progress: Progress
) -> AgainstRandom:
    """Of the circuit of the ``kept`` edges, in ``n_runs`` runs.

    Raises UsageError where a prompt has no value of the metric.
    """
    meter, draw, names = (
        Meter(trials, metric, phases(options), progress),
        Draw(options.seed),
        sorted({"kl", metric}),
    )

    def measure(circuit: Kept) -> tuple[float | None, float]:
        performance = meter.run(circuit, names)
        values_of(performance, metric)
        found = Evaluation(trials.full, performance, trials.ablated).faithfulness(metric)
        return found, mean(values_of(performance, "kl"))

    faithfulness, kl = measure(kept)
    runs = [measure(draw_alike(trials.graph, kept, draw)) for _ in range(options.n)]
    of_runs = tuple(found for found, _ in runs if found is not None)
    by_chance = None if faithfulness is None else of_runs
    return AgainstRandom(
        metric, options, int(kept.sum()), faithfulness, kl, by_chance, tuple(found for _, found in runs)
    )


def stages(graph: Graph) -> list[range]:
    """The receivers of each stage: a layer's q inputs, its k inputs, its v inputs, its MLP, each at
    one role if there are some; the logits."""
    sizes = [stage.n * graph.n_roles for stage in graph.stages[:-1] for _ in stage.slots]
    ends = np.cumsum(sizes).tolist()
    inner = [
        range(end - size + role, end, graph.n_roles)
        for end, size in zip(ends, sizes, strict=True)
        for role in range(graph.n_roles)
    ]
    return [*inner, range(ends[-1], ends[-1] + 1)]


def draw_alike(graph: Graph, kept: Kept, draw: Draw) -> Kept:
    """A random circuit with as many edges into each stage."""
    edges, drawn = readable(graph), torch.zeros_like(kept)
    for stage in stages(graph):
        rows = torch.tensor(stage)
        places = edges[rows].nonzero()
        chosen = places[draw.order(len(places))[: int(kept[rows].sum())]]
        drawn[rows[chosen[:, 0]], chosen[:, 1]] = True
    return drawn


class Paths:
    """Random paths from the input to the logits along some edges: those that lie on such a path at all."""

    def __init__(self, graph: Graph, within: Kept) -> None:
        self.edges: Bool[np.ndarray, "receiver sender"] = prune(graph, within.cpu()).numpy()
        self._sites = Sites(graph)
        self._places = np.argwhere(self.edges)

    def __len__(self) -> int:
        """How many edges lie on paths."""
        return len(self._places)

    def draw(self, n_edges: int, draw: Draw) -> Kept:
        """The union of random paths with so many edges, or a few more. Raises UsageError where
        there are not so many.

        Each path goes through the next edge, in a random order of all, that no path goes through
        yet.
        """
        if n_edges > len(self):
            raise UsageError(
                f"{n_edges:,} edges cannot be drawn: only {len(self):,} lie on a path to the logits."
            )
        drawn = np.zeros_like(self.edges)
        n_drawn = 0
        for place in draw.order(len(self)):
            if n_drawn >= n_edges:
                break
            row, sender = self._places[place].tolist()
            if not drawn[row, sender]:
                for edge in self._through(row, sender, draw):
                    n_drawn += not drawn[edge]
                    drawn[edge] = True
        return torch.from_numpy(drawn)

    def _through(self, row: int, sender: int, draw: Draw) -> list[tuple[int, int]]:
        """A path through this edge: from each node on by an edge drawn from those that lead on, and
        so back.
        """
        path, first = [(row, sender)], row
        while self._sites.owner[row] < self.edges.shape[1]:
            column = self._sites.owner[row]
            row = _pick(np.flatnonzero(self.edges[:, column] & self._leads_on(row)), draw)
            path.append((row, int(column)))
        row = first
        while sender > 0:
            rows = np.flatnonzero((self._sites.owner == sender) & self._leads_to(row))
            entering = np.argwhere(self.edges[rows])
            place, sender = entering[draw.below(len(entering))].tolist()
            row = int(rows[place])
            path.append((row, sender))
        return path

    def _leads_on(self, row: int) -> Bool[np.ndarray, " receiver"]:
        """Which receivers read at a role at which this one's node writes what it makes of what it reads."""
        rows: Bool[np.ndarray, " receiver"] = self._sites.role == self._sites.role[row]
        return rows | bool(self._sites.anywhere[row])

    def _leads_to(self, row: int) -> Bool[np.ndarray, " receiver"]:
        """Which receivers' nodes write what they read where this one reads."""
        rows: Bool[np.ndarray, " receiver"] = self._sites.role == self._sites.role[row]
        return np.asarray(rows | self._sites.anywhere)


def _pick(numbers: Int[np.ndarray, " place"], draw: Draw) -> int:
    return int(numbers[draw.below(len(numbers))])
