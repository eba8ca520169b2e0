"""Trials without a model: what each circuit achieves is what the test says it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from circuitfind.circuits.graph import Edge, Graph
from circuitfind.circuits.masks import readable
from circuitfind.evaluation.performance import NAMES, Performance
from circuitfind.evaluation.trials import Kept, Trials

Values = Callable[[frozenset[str]], Sequence[float]]
"""The metric of each prompt, from the names of the edges that are kept."""


class Made(Trials):
    """Every measure is the same number. ``n_runs``: how often a circuit was run or settled on."""

    def __init__(self, graph: Graph, values: Values) -> None:
        self.graph, self.edges = graph, readable(graph)
        self._values, self.n_runs = values, 0
        self._known: dict[tuple[bytes, bytes, tuple[str, ...]], Performance] = {}

    def settle(self, kept: Kept) -> None:
        self.n_runs += 1

    def run(self, kept: Kept, names: Sequence[str] = NAMES) -> Performance:
        self.n_runs += 1
        values = tuple(map(float, self._values(frozenset(map(str, edges_in(self.graph, kept))))))
        return Performance(dict.fromkeys(names, values))

    def run_within(
        self,
        circuit: Kept,
        parts: Sequence[Kept],
        names: Sequence[str] = NAMES,
        tell: Callable[[int], None] = lambda n_done: None,
    ) -> list[Performance]:
        found = []
        for part in parts:
            found.append(self.run(part, names))
            tell(1)
        return found


class Counting:
    """Progress that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[float, float]] = []

    def tells_of(self, n_runs: int) -> bool:
        """Whether it was told of each of so many runs: of ever more of the same work, and of all of it in the end."""
        done, totals = zip(*self.told, strict=True)
        return len(done) == n_runs and list(done) == sorted(set(done)) and set(totals) == {done[-1]}

    def stage(self, name: str) -> None: ...

    def update(self, done: float, total: float, note: str = "") -> None:
        self.told.append((done, total))

    def warn(self, message: str) -> None: ...


def edges_in(graph: Graph, kept: Kept) -> set[Edge]:
    """The kept edges, one by one."""
    return {edge for edge in graph.edges() if kept[graph.order(edge)]}


def mask(graph: Graph, *names: str) -> Kept:
    """The edges of these names."""
    kept = torch.zeros_like(readable(graph))
    for name in names:
        kept[graph.order(Edge.parse(name))] = True
    return kept


def some(edges: Kept, share: float, seed: int) -> Kept:
    """About this share of the edges."""
    return edges & (torch.rand(edges.shape, generator=torch.Generator().manual_seed(seed)) < share)
