"""Relevance patching, literally: autograd through a model whose constants of propagation are detached."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tests.oracles.altered import Altered, share


class Relevance(Altered):
    """With the LN-rule, the identity rule and the half rule; ``frozen`` patterns: with the AH-rule too."""

    frozen = False

    def scale(self, variance: Tensor) -> Tensor:
        return variance.sqrt().detach()

    def activate(self, activation: Any, x: Tensor) -> Tensor:
        return x * (activation(x) / x).detach()

    def softmax(self, scores: Tensor) -> Tensor:
        pattern = scores.softmax(-1)
        return pattern.detach() if self.frozen else pattern

    def gated(self, product: Tensor) -> Tensor:
        return share(product, 0.5)


class FrozenRelevance(Relevance):
    frozen = True
