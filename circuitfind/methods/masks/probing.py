"""Subnetwork probing (arXiv:2104.03514) at the level of edges, as the comparison of
arXiv:2304.14997 needs it.

Minimises the objective + ``penalty`` * the expected share of open gates, by Adam. The authors mask
weights and train a probe on top; here, as in that comparison, edges are masked and the model's own
logits are looked at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitfind.circuits.graph import Graph
from circuitfind.methods.masks.gates import draw, odds, probability_open, sample, warm_start
from circuitfind.methods.masks.learned import Learned, Masks
from circuitfind.patching.soft.plan import Shares

START = math.log(5)
"""Log alpha at first: sigmoid of it stretches to 0.9, ``mask_init_p`` in the code of arXiv:2304.14997."""


@dataclass(frozen=True)
class SubnetworkProbing(Learned):
    """Edge gates with a penalty on how many are open (arXiv:2104.03514).

    ``penalty`` is in the objective's unit: what all gates open cost more than none. Its default is
    ``lambda_reg`` in the code of arXiv:2304.14997.
    """

    penalty: float = 50.0
    name: ClassVar[str] = "subnetwork-probing"

    def _masks(self, graph: Graph, initial: Float[Tensor, " gate"] | None) -> Masks:
        return _Probing(self, graph, initial)


class _Probing(Masks):
    def __init__(
        self, method: SubnetworkProbing, graph: Graph, initial: Float[Tensor, " gate"] | None
    ) -> None:
        super().__init__(graph, method.seed)
        self._penalty = method.penalty
        flat = torch.full((graph.n_edges,), START, dtype=torch.float64)
        self.log_alpha = flat if initial is None else warm_start(initial, START)
        self.parameters = {"log_alpha": self.log_alpha}
        self.optimiser = torch.optim.Adam([self.log_alpha], lr=method.learning_rate)

    def sample(self) -> tuple[Shares, Bool[Tensor, "receiver sender"]]:
        shares, self._slopes = sample(self.log_alpha, draw(len(self.log_alpha), self.generator))
        return self.spread(shares), self.spread(self._slopes > 0)

    def update(self, step: int, gradient: Shares) -> None:
        is_open = probability_open(self.log_alpha)
        self.log_alpha.grad = gradient[self.places] * self._slopes
        self.log_alpha.grad += self._penalty / len(is_open) * is_open * (1 - is_open)
        self.optimiser.step()

    def is_sound(self) -> bool:
        return bool(self.log_alpha.isfinite().all())

    def odds(self) -> Float[Tensor, " gate"]:
        return odds(self.log_alpha)
