"""What every method that scores edges has in common."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from circuitfind.batch import Batch
from circuitfind.progress import Progress
from circuitfind.transformer import Transformer


@runtime_checkable
class Scorer(Protocol):
    """A method that scores every edge."""

    @property
    def name(self) -> str:
        """As in ``catalogue.py``."""

    def to_dict(self) -> dict[str, Any]:
        """The block ``method`` of a circuit file: every option, and what a score is."""

    def score(
        self, model: Transformer, batch: Batch, batch_size: int, progress: Progress
    ) -> Float[Tensor, "prompt receiver sender"]:
        """Every edge's score on each prompt, or one for all of them; positive if ablating the edge hurts, NaN where the
        graph has no edge."""
