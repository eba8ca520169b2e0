"""What a method must beat: head importance, the size of what ablation changes, and chance.

The first two score heads and MLPs. An edge has the lesser score of its two ends on each prompt; of
one end where the other is the input or the logits, which are never removed; input->logits the
highest of all. So a circuit of n edges is what the best nodes have between them, as in ACDC's
comparison (arXiv:2304.14997), which removes nodes with all of their edges. (Were a node's score
given to its outgoing edges alone, the best n would be all edges out of a few nodes, to anywhere: on
smollm2-135m no path is left of the best 500.) These methods don't see where an edge goes. At node
level (``circuits/units.py``) a node simply has its score.

- ``hisp``, head importance (Michel et al. 2019, arXiv:1905.10650, where it prunes heads). For a
  node with the output x on a prompt: |sum over positions and d_model of (ablated - clean) x .
  gradient of the objective at x|. Under zero ablation that is |x . gradient|, as Michel et al. have
  it; under corrupted ablation what ACDC's authors make of it. Theirs divide by the 2-norm of each
  layer's scores, and ACDC's comparison scores a head's q, k and v apart; here scores stay in the
  metric's unit and a head has one.
- ``activation-magnitude``: the 2-norm of (ablated - clean) x over all positions up to the answer
  and d_model, in the residual stream's unit. No gradient and no metric.
- ``random``: chance, the same on every machine.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from circuitfind.circuits.draws import Draw
from circuitfind.circuits.masks import readable
from circuitfind.circuits.units import LevelName, without_defaults
from circuitfind.errors import UsageError
from circuitfind.methods.attribution.eap import EAP
from circuitfind.methods.method import Job
from circuitfind.metrics.measures import MetricName
from circuitfind.models.transformer import Transformer
from circuitfind.models.workers import Threads
from circuitfind.patching.ablation import AblationName
from circuitfind.patching.problem import Problem
from circuitfind.patching.reference import prepare
from circuitfind.prompts.batch import Batch

OF_EDGES: dict[LevelName, str] = {"edge": ", the lesser of an edge's two ends", "node": ""}
"""What of nodes' scores an edge has."""


@dataclass(frozen=True)
class HISP:
    """Head importance, of heads and MLPs. The gradient is that of the clean run."""

    metric: MetricName = "logit-diff"
    ablation: AblationName = "corrupted"
    level: LevelName = "edge"
    name: ClassVar[str] = "hisp"
    per_prompt: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.metric == "kl":
            raise UsageError(
                "hisp takes its gradient in the clean run, where that of kl is zero: every score would be"
                " rounding.\nUse --metric logit-diff, prob-diff or loss."
            )

    def to_dict(self) -> dict[str, Any]:
        """The block ``method`` of a circuit file: every option, and what the scores are."""
        meaning = f"|(ablated - clean) . gradient| of a node{OF_EDGES[self.level]}: never negative"
        return without_defaults({"name": self.name, **asdict(self), "score": meaning})

    def score(self, problem: Problem, job: Job = Job()) -> Float[Tensor, "prompt receiver sender"]:
        """Every edge's score on each prompt, in the metric's unit; NaN where the graph has no edge.

        What a node writes is read along its edges alone: its gradient is the sum of theirs, and
        what stands between the bars the sum of its edges' ``eap``. Raises as that does.
        """
        edges = EAP(self.metric, self.ablation).score(problem, job)
        return of_edges(problem.model, edges.double().nansum(1).abs().to(edges.dtype), self.level)


@dataclass(frozen=True)
class ActivationMagnitude:
    """How much of each node's output ablation changes."""

    ablation: AblationName = "corrupted"
    level: LevelName = "edge"
    name: ClassVar[str] = "activation-magnitude"
    per_prompt: ClassVar[bool] = True

    def to_dict(self) -> dict[str, Any]:
        """The block ``method`` of a circuit file: every option, and what the scores are."""
        meaning = f"|ablated - clean| of a node{OF_EDGES[self.level]}: no metric, never negative"
        return without_defaults({"name": self.name, **asdict(self), "metric": None, "score": meaning})

    def score(self, problem: Problem, job: Job = Job()) -> Float[Tensor, "prompt receiver sender"]:
        """Every edge's score on each prompt, in the unit of the residual stream; NaN where the
        graph has no edge.

        Neither ``batch_size`` nor threads change a score.
        """
        model = problem.model
        with Threads(model.device) as threads:
            sizes = threads.map(lambda group: self._sizes(model, *group), problem.blocks())
        job.progress.update(1, 1)
        return of_edges(model, torch.cat(sizes), self.level)

    def _sizes(self, model: Transformer, block: Batch, n_real: int) -> Float[Tensor, "prompt sender"]:
        change = prepare(model, block, self.ablation).change
        ends = block.end[:n_real].tolist()
        sizes = [change[:, i, : end + 1].flatten(1).double().norm(dim=1) for i, end in enumerate(ends)]
        return torch.stack(sizes).to("cpu", torch.promote_types(change.dtype, torch.float32))


@dataclass(frozen=True)
class Random:
    """Every order of the edges is as likely. One row of scores: no prompt has its own."""

    seed: int = 0
    name: ClassVar[str] = "random"
    per_prompt: ClassVar[bool] = False

    def to_dict(self) -> dict[str, Any]:
        """The block ``method`` of a circuit file: every option, and what the scores are."""
        meaning = (
            "place in a random order, as a share of all edges: no metric, no ablation, never negative"
        )
        return {"name": self.name, **asdict(self), "metric": None, "ablation": None, "score": meaning}

    def score(self, problem: Problem, job: Job = Job()) -> Float[Tensor, "1 receiver sender"]:
        """Every edge's place in a random order, from 1/n to 1; NaN where the graph has no edge.

        The same everywhere (``circuits/draws.py``). Every score is another, in float32 too
        (up to 16 million edges).
        """
        edges = readable(problem.graph)
        dtype = torch.promote_types(problem.model.dtype, torch.float32)
        places = torch.tensor(random_order(int(edges.sum()), self.seed), dtype=torch.float64) + 1
        scores = torch.full(edges.shape, math.nan, dtype=dtype)
        scores[edges] = (places / len(places)).to(dtype)
        job.progress.update(1, 1)
        return scores.unsqueeze(0)


def random_order(n: int, seed: int) -> list[int]:
    """The first n numbers in a random order."""
    return Draw(seed).order(n)


def of_edges(
    model: Transformer, scores: Float[Tensor, "prompt sender"], level: LevelName
) -> Float[Tensor, "prompt receiver sender"]:
    """Every edge's score from those of nodes: that of its sender, or at edge level of both of its ends."""
    if level == "edge":
        return between(model, scores)
    edges = readable(model.architecture.graph)
    return scores.unsqueeze(1).expand(-1, len(edges), -1).masked_fill(~edges, math.nan)


def between(
    model: Transformer, scores: Float[Tensor, "prompt sender"]
) -> Float[Tensor, "prompt receiver sender"]:
    """Every edge's score from those of its ends; what the input has does not count."""
    graph, edges = model.architecture.graph, readable(model.architecture.graph)
    highest = scores[:, 1:].amax(1, keepdim=True)
    nodes = torch.cat((highest, scores[:, 1:]), dim=1)
    ends = [
        graph.sender_index.get(receiver.node, 0) for receiver in graph.receivers
    ]  # the logits: as the input
    return torch.minimum(nodes.unsqueeze(1), nodes[:, ends].unsqueeze(2)).masked_fill(~edges, math.nan)
