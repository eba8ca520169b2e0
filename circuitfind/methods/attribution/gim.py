"""Gradient interaction modifications (arXiv:2505.17630): eap with gradients that see past
self-repair in attention.

score(u -> v) = sum over positions and d_model of (ablated - clean output of u) . gradient at what v
reads, which comes back through the clean run by these rules, all others being those of calculus:

- softmax: its gradient is p (g - p . g) with p the softmax of the scores divided by
  ``temperature``, so that attention on one of two equal values is not lost for the other's making
  up for it. The factor 1 / temperature, which the derivative of such a softmax has, is left out, as
  in the authors' code.
- norms: the scale is a constant, also in the norm before the unembedding.
- products: each factor gets half of the gradient. Of pattern times value, the values so get 1/2
  and, since the pattern is made of query times key, those 1/4 each; of a gated MLP's hidden layer,
  both factors get 1/2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from circuitfind.methods.attribution.eap import AtCleanRun
from circuitfind.methods.settings import check_settings
from circuitfind.models.components import Rules

TEMPERATURE = 2.0
"""The paper's."""


@dataclass(frozen=True)
class GIM(AtCleanRun):
    """The modified gradient in the clean run."""

    temperature: float = TEMPERATURE
    name: ClassVar[str] = "gim"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(self)

    def _rules(self) -> Rules:
        return Rules(frozen_norms=True, temperature=self.temperature, gate_share=0.5, attention_share=0.5)
