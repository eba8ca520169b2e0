"""What a method that scores edges comes to: the scores of each prompt, and the circuit made of
their means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from circuitfind.circuits.bootstrap import Bootstrap, Uncertainty
from circuitfind.circuits.selection import select
from circuitfind.circuits.size import Selection
from circuitfind.circuits.units import Units


@dataclass(frozen=True)
class Scored:
    """``per_prompt``: one row for each prompt, or one for all of them; ``scores``: its mean,
    float64; both NaN where the graph has no edge. ``kept`` is the pruned circuit, ``n_nominal`` how
    many were chosen before pruning, edges or other ``units``."""

    per_prompt: Float[Tensor, "prompt receiver sender"]
    scores: Float[Tensor, "receiver sender"]
    kept: Bool[Tensor, "receiver sender"]
    n_nominal: int
    options: Bootstrap | None = None
    uncertainty: Uncertainty | None = None
    units: str = "edges"

    @classmethod
    def of(
        cls, per_prompt: Float[Tensor, "prompt receiver sender"], selection: Selection, units: Units
    ) -> Scored:
        """The circuit that the selection makes of the mean scores. Raises UsageError as ``select`` does."""
        mean = per_prompt.double().mean(0)
        selected = select(units.graph, mean, selection, units)
        return cls(per_prompt, mean, selected.kept, selected.n_nominal, units=units.noun)

    def record(self) -> dict[str, Any]:
        """What run.json says of it."""
        blocks: dict[str, Any] = {"selection": {"nominal": self.n_nominal, "kept": int(self.kept.sum())}}
        if self.units != "edges":
            blocks["selection"]["units"] = self.units
        if self.options is not None and self.uncertainty is not None:
            blocks["bootstrap"] = bootstrap_block(self.options, self.uncertainty)
        return blocks


def bootstrap_block(options: Bootstrap, uncertainty: Uncertainty) -> dict[str, Any]:
    """What run.json says of a bootstrap."""
    return {
        "resamples": options.resamples,
        "level": options.level,
        "bar": options.bar,
        "seed": options.seed,
        "jaccard": uncertainty.jaccard,
        "n_consensus": int(uncertainty.consensus.sum()),
    }
