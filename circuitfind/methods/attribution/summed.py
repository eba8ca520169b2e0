"""A method that scores edges, as one that scores whole nodes, or edges that go together: by the sum
over each.

To first order this is what ablating a unit does: the gradient at what a node writes is the sum of
the gradients at all that read it, and the changes of receivers that change together add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from circuitfind.circuits.units import KvName, LevelName, summed, without_defaults
from circuitfind.methods.method import Job, Scorer
from circuitfind.patching.problem import Problem


@dataclass(frozen=True)
class Summed:
    """The method, and the level and the k and v inputs of its units (``circuits/units.py``)."""

    method: Scorer
    level: LevelName = "edge"
    kv: KvName = "per-head"

    @property
    def name(self) -> str:
        """The method's own."""
        return self.method.name

    def to_dict(self) -> dict[str, Any]:
        """The block ``method`` of a circuit file: the method's, and what is summed."""
        block = self.method.to_dict()
        units = without_defaults({"level": self.level, "kv": self.kv})
        return {**block, **units, "score": block["score"] + summed(self.level, self.kv)}

    def score(self, problem: Problem, job: Job = Job()) -> Float[Tensor, "prompt receiver sender"]:
        """The score of every edge's unit, on each prompt; NaN where the graph has no edge."""
        return problem.units(self.level, self.kv).sum(self.method.score(problem, job))
