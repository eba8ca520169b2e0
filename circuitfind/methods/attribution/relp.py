"""Relevance patching (arXiv:2508.21258): eap with the coefficients of layer-wise relevance
propagation as gradients.

score(u -> v) = sum over positions and d_model of (ablated - clean output of u) . coefficient at
what v reads. The coefficients are what a sweep back through the clean run comes to by these rules,
all others being those of calculus:

- norms (LN-rule): the scale is a constant, also in the norm before the unembedding.
- activations (identity rule): f multiplies by f(x) / x, as if that were constant. Where the
  authors' code adds 1e-6 to x against division by zero, the limit at 0 is taken instead.
- gated MLPs (half rule): each factor of the product gets half of the gradient.
- attention: queries and keys get the gradient of calculus, as in the authors' own settings; their
  table of rules also has the AH-rule, by which the pattern is constant: ``freeze_patterns``. Every
  edge into a q or k then scores 0.

With the AH-rule, and without biases, relevance is conserved: output times coefficient sums to the
same over what any cut through the graph carries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from circuitfind.methods.attribution.eap import AtCleanRun
from circuitfind.models.components import Rules


@dataclass(frozen=True)
class RelP(AtCleanRun):
    """LRP's coefficients in the clean run. ``freeze_patterns``: the AH-rule, by which no edge into
    a q or k counts.
    """

    freeze_patterns: bool = False
    name: ClassVar[str] = "relp"

    def _rules(self) -> Rules:
        return Rules(
            frozen_norms=True,
            activation_ratios=True,
            gate_share=0.5,
            frozen_patterns=self.freeze_patterns,
        )
