"""The edges that a search tests, where it does not test all: those with the largest scores of another method.

The search can't find what is not among them: all other edges are removed first, at once, and never
tried again. So what this costs is measured before any test (``Shortlist``), and a run warns where
it is much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from circuitfind.circuits.graph import Graph
from circuitfind.circuits.masks import readable
from circuitfind.circuits.selection import select
from circuitfind.circuits.size import Selection
from circuitfind.evaluation.performance import Evaluation
from circuitfind.methods.method import Job, Scorer
from circuitfind.methods.saved_state import SoFar, require
from circuitfind.patching.problem import Problem


@dataclass(frozen=True)
class Candidates:
    """The ``n_edges`` edges that ``method`` gives the largest |scores|, without those that lead nowhere."""

    method: Scorer
    n_edges: int

    def to_dict(self) -> dict[str, Any]:
        """What the block ``method`` of a circuit file says of them: how many were asked for, and of
        which method.
        """
        return {"asked": self.n_edges, "method": self.method.to_dict()}

    def choose(self, problem: Problem, job: Job = Job()) -> Bool[Tensor, "receiver sender"]:
        """The candidates, pruned. Raises UsageError for more than the graph has edges.

        What is so far is the method's own; once they are chosen they are all there is to know.
        """
        graph = problem.model.architecture.graph
        chosen = chosen_before(job.start, graph)
        if chosen is not None:
            return chosen
        scores = self.method.score(problem, job).double().mean(0)
        return select(graph, scores, Selection(edges=self.n_edges)).kept


def chosen_before(start: SoFar | None, graph: Graph) -> Bool[Tensor, "receiver sender"] | None:
    """The candidates, where what there is so far has them. Raises StateError where they are no
    edges of the graph.
    """
    if start is None or "edges" not in start.tensors:
        return None
    chosen = start.tensor("edges", readable(graph))
    require(not bool((chosen & ~readable(graph)).any()), "its candidates are no edges of this model")
    return chosen


@dataclass(frozen=True)
class Shortlist:
    """Candidates that were chosen; ``evaluation``: how well they do the task by themselves, before
    any test.
    """

    edges: Bool[Tensor, "receiver sender"]
    evaluation: Evaluation

    def to_so_far(self) -> SoFar:
        """What a file keeps of it, so that they are not chosen again."""
        return SoFar({"edges": self.edges})

    @property
    def n_edges(self) -> int:
        return int(self.edges.sum())

    def to_dict(self, asked: int) -> dict[str, Any]:
        """What run.json says of them."""
        said = self.evaluation.to_dict()
        measured = {
            "metrics": said["circuit"],
            **{key: said[key] for key in said if key.startswith("faithfulness")},
        }
        return {"asked": asked, "kept": self.n_edges, **measured}
