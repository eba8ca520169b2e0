"""Edge pruning (arXiv:2406.16778): gates led to a sparsity by multipliers.

Every edge has a gate and so has every sender; an edge's share is the product of its own and its
sender's. Minimised is the objective + l1 (s - t) + l2 (s - t)^2, where s is the sparsity, 1 less
the mean of the sampled edge gates, and t its target, which rises from 0; the multipliers l1 and l2
are moved to maximise it. The same goes for the senders' gates if their sparsity has a target.

AdamW; learning rate, schedules and weight decay are those of the authors' code for IOI on GPT-2
(github.com/princeton-nlp/Edge-Pruning, run_scripts/ioi_sweep.sh), where the senders' sparsity has
none. They take 3,000 steps. In fewer, the multipliers' learning rate and the gates' weight decay
are higher by the same factor, so that both come as far: left as they are, the target is not
reached, and most gates stay where nothing moves them.

The penalty on a mean gets weaker for each gate as there are more of them, while an edge that is
worth keeping is worth as much; and the multipliers' weight decay keeps them within some 100. So
where there are more gates than GPT-2's edges the penalty is as many times larger, and pushes each
gate as hard as there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitfind.circuits.graph import Graph
from circuitfind.methods.masks.gates import draw, odds, sample, warm_start
from circuitfind.methods.masks.learned import Learned, Masks
from circuitfind.patching.soft.plan import Shares

PUBLISHED_STEPS = 3000
PUBLISHED_EDGES = 32_491
"""GPT-2 small's."""
FASTEST = 10.0
"""In fewer steps than the published ones multipliers rise and weights decay faster by the same
factor, up to this.
"""
START, SPREAD = 10.0, 0.01
"""Mean and standard deviation of log alpha at first; with the next three, the Edge-Pruning code's."""
RATE_WARMUP = 200 / 3000
"""The share of the steps in which the learning rate rises; then it falls to 0."""
TARGET_WARMUP = 2500 / 3000
"""The share of the steps in which the target sparsity rises."""
WEIGHT_DECAY = 0.01


@dataclass(frozen=True)
class EdgePruning(Learned):
    """Gates of edges and senders, led to a sparsity by multipliers (arXiv:2406.16778).

    ``sparsity`` is the target for the edges' gates; one above 1, as the authors use too, can't be
    reached and goes on pulling. ``node_sparsity`` is that for the senders' gates, none by default.
    """

    learning_rate: float = 0.8
    sparsity: float = 0.98
    node_sparsity: float | None = None
    name: ClassVar[str] = "edge-pruning"

    def _masks(self, graph: Graph, initial: Float[Tensor, " gate"] | None) -> Masks:
        return _Pruning(self, graph, initial)


class _Lagrangian:
    """Two multipliers of how far a sparsity is from its target, t: l1 (s - t) + l2 (s - t)^2, to be
    maximised.
    """

    def __init__(self, target: float | None) -> None:
        self.target = target
        self.multipliers = torch.zeros(2, dtype=torch.float64)

    def __call__(self, shares: Float[Tensor, " gate"], progress: float) -> float:
        """The derivative of the penalty with respect to each share; leaves its gradient at the
        multipliers, whose steps do not depend on its size."""
        if self.target is None:
            return 0.0
        beyond = 1 - float(shares.mean()) - self.target * progress
        self.multipliers.grad = torch.tensor([beyond, beyond**2], dtype=torch.float64)
        first, second = (float(x) for x in self.multipliers)
        return -(first + 2 * second * beyond) / min(len(shares), PUBLISHED_EDGES)


class _Pruning(Masks):
    def __init__(self, method: EdgePruning, graph: Graph, initial: Float[Tensor, " gate"] | None) -> None:
        super().__init__(graph, method.seed)
        self._method = method
        sizes = (graph.n_edges, len(graph.senders))
        self.edge_gates, self.node_gates = (
            START + SPREAD * torch.randn(n, generator=self.generator, dtype=torch.float64) for n in sizes
        )
        if initial is not None:
            self.edge_gates = warm_start(initial, START)
        self.of_edges, self.of_nodes = _Lagrangian(method.sparsity), _Lagrangian(method.node_sparsity)
        pace = min(PUBLISHED_STEPS / method.steps, FASTEST)
        self._groups = [
            {
                "params": [self.edge_gates, self.node_gates],
                "rate": method.learning_rate,
                "weight_decay": WEIGHT_DECAY * pace,
            },
            {
                "params": [self.of_edges.multipliers, self.of_nodes.multipliers],
                "rate": method.learning_rate * pace,
                "weight_decay": WEIGHT_DECAY,
                "maximize": True,
            },
        ]
        self.parameters = {
            "edge_gates": self.edge_gates,
            "node_gates": self.node_gates,
            "edge_multipliers": self.of_edges.multipliers,
            "node_multipliers": self.of_nodes.multipliers,
        }
        self.optimiser = torch.optim.AdamW(self._groups, lr=method.learning_rate)

    def sample(self) -> tuple[Shares, Bool[Tensor, "receiver sender"]]:
        self._edges = sample(self.edge_gates, draw(len(self.edge_gates), self.generator))
        self._nodes = sample(self.node_gates, draw(len(self.node_gates), self.generator))
        (edge, edge_slope), (node, node_slope) = self._edges, ([x[self.places[1]] for x in self._nodes])
        wanted = ((edge_slope > 0) & (node > 0)) | ((node_slope > 0) & (edge > 0))
        return self.spread(edge * node), self.spread(wanted)

    def update(self, step: int, gradient: Shares) -> None:
        (edge, edge_slope), (node, node_slope) = self._edges, self._nodes
        done = step / self._method.steps
        progress = min(1.0, done / TARGET_WARMUP)
        along, senders = gradient[self.places], self.places[1]
        to_nodes = torch.zeros_like(node).index_add_(0, senders, along * edge)
        self.edge_gates.grad = (along * node[senders] + self.of_edges(edge, progress)) * edge_slope
        self.node_gates.grad = (to_nodes + self.of_nodes(node, progress)) * node_slope
        for group in self.optimiser.param_groups:
            group["lr"] = group["rate"] * _rate(done)
        self.optimiser.step()

    def is_sound(self) -> bool:
        multipliers = (self.of_edges.multipliers, self.of_nodes.multipliers)
        return all(bool(x.isfinite().all()) for x in (self.edge_gates, self.node_gates, *multipliers))

    def odds(self) -> Float[Tensor, " gate"]:
        return odds(self.edge_gates, self.node_gates[self.places[1]])


def _rate(done: float) -> float:
    """The share of the learning rate when a share of the steps is done: up, then down to 0, both in
    a straight line.
    """
    return done / RATE_WARMUP if done < RATE_WARMUP else (1 - done) / (1 - RATE_WARMUP)
