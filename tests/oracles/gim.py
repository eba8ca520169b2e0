"""Gradient interaction modifications, literally: autograd through a softmax with a backward of its own, norms whose
scale is detached, and products that pass on half of their gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.oracles.altered import Altered, share


class Softened(torch.autograd.Function):
    """A softmax that goes back as one whose scores are divided by the temperature."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, temperature: float) -> Tensor:
        ctx.save_for_backward((scores / temperature).softmax(-1))
        return scores.softmax(-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (softened,) = ctx.saved_tensors
        jacobian = torch.diag_embed(softened) - softened.unsqueeze(-1) * softened.unsqueeze(-2)
        return (jacobian @ gradients[0].unsqueeze(-1)).squeeze(-1), None


class Modified(Altered):
    temperature = 2.0

    def scale(self, variance: Tensor) -> Tensor:
        return variance.sqrt().detach()

    def softmax(self, scores: Tensor) -> Tensor:
        return Softened.apply(scores, self.temperature)

    def gated(self, product: Tensor) -> Tensor:
        return share(product, 0.5)

    def attended(self, product: Tensor) -> Tensor:
        return share(product, 0.5)


class Cooler(Modified):
    temperature = 0.7
