"""Knock-outs and parts left out of a circuit, literally: sets of Edge objects, a whole run of the model for each."""

from __future__ import annotations

from collections.abc import Collection

from circuitfind.circuits.graph import Edge, Node
from circuitfind.prompts.batch import Batch
from tests.oracles.literal import Literal
from tests.oracles.state import State

Edges = Collection[Edge]


class Judge:
    """F: the mean over prompts of a metric, more being better where it is a difference, as it is printed."""

    def __init__(self, literal: Literal, batch: Batch, metric: str, ablation: str = "corrupted") -> None:
        self.everything = set(literal.graph.edges())
        self._state = State(literal, batch, 0.0, metric, ablation)
        self._sign = -1 if metric in ("logit-diff", "prob-diff") else 1

    def values(self, kept: Edges) -> list[float]:
        return [self._sign * value for value in self._state.values(set(kept))]

    def mean(self, kept: Edges) -> float:
        values = self.values(kept)
        return sum(values) / len(values)

    def knock_out(self, circuit: Edges, nodes: Collection[Node]) -> tuple[float, float]:
        """F(C\\K) and F(M\\K)."""
        sides = (
            [edge for edge in edges if edge.sender not in nodes] for edges in (circuit, self.everything)
        )
        found = [self.mean(side) for side in sides]
        return found[0], found[1]

    def grow(self, circuit: Edges, nodes: Collection[Node], n_steps: int) -> list[tuple[Node, ...]]:
        """The greedy knock-outs, everything run again at every step."""

        def incompleteness(out: tuple[Node, ...]) -> float:
            of_circuit, of_model = self.knock_out(circuit, out)
            return abs(of_circuit - of_model)

        steps: list[tuple[Node, ...]] = [()]
        while len(steps) <= n_steps:
            tried = [(*steps[-1], node) for node in nodes if node not in steps[-1]]
            if not tried or max(map(incompleteness, tried)) <= incompleteness(steps[-1]):
                break
            steps.append(max(tried, key=incompleteness))
        return steps[1:]
