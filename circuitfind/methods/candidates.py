"""The edges that a search tests, where it does not test all: those with the largest scores of another method.

The search can't find what is not among them: all other edges are removed first, at once, and never tried again. So what
this costs is measured before any test (``Shortlist``), and a run warns where it is much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from circuitfind.batch import Batch
from circuitfind.evaluation.performance import Evaluation
from circuitfind.methods.scorer import Scorer
from circuitfind.progress import Progress
from circuitfind.selection import select
from circuitfind.size import Selection
from circuitfind.transformer import Transformer


@dataclass(frozen=True)
class Candidates:
    """The ``n_edges`` edges that ``method`` gives the largest |scores|, without those that lead nowhere."""

    method: Scorer
    n_edges: int

    def to_dict(self) -> dict[str, Any]:
        """What the block ``method`` of a circuit file says of them: how many were asked for, and of which method."""
        return {"asked": self.n_edges, "method": self.method.to_dict()}

    def choose(
        self, model: Transformer, batch: Batch, batch_size: int, progress: Progress
    ) -> Bool[Tensor, "receiver sender"]:
        """The candidates, pruned. Raises UsageError for more than the graph has edges."""
        scores = self.method.score(model, batch, batch_size, progress).double().mean(0)
        return select(model.architecture.graph, scores, Selection(edges=self.n_edges)).kept


@dataclass(frozen=True)
class Shortlist:
    """Candidates that were chosen; ``evaluation``: how well they do the task by themselves, before any test."""

    edges: Bool[Tensor, "receiver sender"]
    evaluation: Evaluation

    @property
    def n_edges(self) -> int:
        return int(self.edges.sum())

    def to_dict(self, asked: int) -> dict[str, Any]:
        """What run.json says of them."""
        said = self.evaluation.to_dict()
        measured = {"metrics": said["circuit"], **{key: said[key] for key in said if key.startswith("faithfulness")}}
        return {"asked": asked, "kept": self.n_edges, **measured}
