"""Every edge patched alone: what attribution approximates, measured.

score(u -> v) = the objective in the full model with the edge u -> v alone ablated, less the full
model's own. The objective is what a search minimises, so that a positive score says that ablating
the edge hurts. (The ``exact`` of EAP-IG's code is the same difference of whatever it is given; MIB
gives it the metric as a loss, which is this sign.)

Each test is one changed node and from there on the plain model (``patching/one_change.py``); for KL
and the loss log Z is computed over the whole vocabulary. What a test costs grows with the layers
behind its receiver, and all edges together with the cube of the number of layers: this is the slow
method, which the others are measured against.

Where edges go together (``circuits/units.py``) a unit is ablated as a whole, in one test: the k or
v inputs of query heads that share a key/value head, or a node, with all edges that leave it
(``methods/search/nodes.py``).

A test stands alone: a run that was cut off goes on from the scores that there were, to the same
bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from circuitfind.circuits.graph import Graph, Receiver
from circuitfind.circuits.units import KvName, LevelName, Units, without_defaults
from circuitfind.errors import ModelError
from circuitfind.methods.method import Job
from circuitfind.methods.saved_state import SoFar, require, require_even
from circuitfind.methods.search import nodes
from circuitfind.metrics.measures import MetricName
from circuitfind.metrics.objective import make_objective
from circuitfind.models.workers import Threads
from circuitfind.patching.ablation import AblationName
from circuitfind.patching.one_change import Onward, join_reads
from circuitfind.patching.packing import pack_model
from circuitfind.patching.problem import Problem
from circuitfind.patching.reference import prepare
from circuitfind.prompts.batch import Batch

ROWS_AT_ONCE = 512
"""How many rows of a block's tests go through the model side by side: enough for a fast product,
few for the cache.
"""
ROWS_ON_GPU = 16384
TESTS_AT_ONCE = 64
"""How many tests wait for the objective together."""

Scores = Float[Tensor, "prompt receiver sender"]


@dataclass(frozen=True)
class Exact:
    """The method's options, and so its record."""

    metric: MetricName = "logit-diff"
    ablation: AblationName = "corrupted"
    level: LevelName = "edge"
    kv: KvName = "per-head"
    name: ClassVar[str] = "exact"
    per_prompt: ClassVar[bool] = True
    resumes: ClassVar[bool] = True

    def to_dict(self) -> dict[str, Any]:
        """The block ``method`` of a circuit file: every option, and the convention of the scores."""
        score = f"{self.level} ablated alone - full model: positive if it hurts"
        return without_defaults({"name": self.name, **asdict(self), "score": score})

    def score(self, problem: Problem, job: Job = Job()) -> Scores:
        """Every edge's score on each prompt, in the metric's unit; NaN where the graph has no edge.

        Neither ``batch_size`` nor threads change a score. What is so far are the ``scores``, NaN
        where there is none yet. Progress is told in layers that tests have gone through, which take
        about the same time each. Raises UsageError where the metric needs wrong answers that a
        prompt doesn't have, ModelError where a score is NaN or infinite.
        """
        problem = problem.by(self.metric, self.ablation)
        if self.level == "node":
            return self._score_nodes(problem, job)
        model, units = problem.model, problem.units(self.level, self.kv)
        graph, total = (
            units.graph,
            sum(work(units.graph, receivers[0]) for receivers in units.receivers()),
        )
        scores = nothing_scored(graph, model.dtype, problem.batch.n_prompts)
        scores = scores_before(job.start, scores, units) if job.start else scores
        groups = list(waiting(units, scores))
        done = total - sum(work(graph, receivers[0], len(senders)) for receivers, senders in groups)
        with Threads(model.device) as threads:
            tests = edge_tests(problem, threads)
            for receivers, senders in groups:
                rises = finite(tests.rises(receivers, senders)).to(scores.dtype)
                for receiver in receivers:
                    scores[:, graph.receiver_index[receiver], senders] = rises
                note = f"{int(scores[0].isfinite().sum()):,} of {graph.n_edges:,} edges"
                job.save(SoFar({"scores": scores}, told=note))
                done += work(graph, receivers[0], len(senders))
                job.progress.update(done, total, note)
        return scores

    def _score_nodes(self, problem: Problem, job: Job) -> Scores:
        """Every edge with the score of its sender; what is so far are the senders' ``rises``."""
        rises = nodes.rises(problem, job)
        graph = problem.model.architecture.graph
        scores = nothing_scored(graph, problem.model.dtype, problem.batch.n_prompts)
        edges = Units(graph).edges
        return torch.where(edges, rises.unsqueeze(1).to(scores.dtype), scores)


Where = TypeVar("Where", contravariant=True)


class Removable(Protocol[Where]):
    """One block of prompts, from which parts of the model can be removed."""

    final: Float[Tensor, "prompt d_model"]

    @property
    def n_rows(self) -> int:
        """How many rows a test has."""

    def remove(self, where: Where, which: Sequence[int], /) -> Float[Tensor, "test prompt d_model"]:
        """What the logits read when one part alone is removed, for each of these."""


def edge_tests(problem: Problem, threads: Threads) -> OneByOne[Sequence[Receiver]]:
    """Tests of the edges into a receiver, or into several at once, by the numbers of their senders."""
    model = pack_model(problem.model)
    reads = join_reads(model)
    return OneByOne(
        problem.on(model), threads, lambda block: Onward(prepare(model, block, problem.ablation), reads)
    )


class OneByOne(Generic[Where]):
    """The full model on all prompts, and the objective as one part after another is ablated alone."""

    def __init__(
        self, problem: Problem, threads: Threads, open_block: Callable[[Batch], Removable[Where]]
    ) -> None:
        self._threads, groups = threads, problem.blocks()
        self._n_real = [n_real for _, n_real in groups]
        self._blocks = threads.map(lambda group: open_block(group[0]), groups)
        final = torch.cat(
            [block.final[:n_real] for block, n_real in zip(self._blocks, self._n_real, strict=True)]
        )
        self._objective = make_objective(
            problem.metric, problem.model, problem.prompts, final, each=threads.map
        )
        self._full = self._objective(final.unsqueeze(0))

    def rises(self, where: Where, which: Sequence[int]) -> Float[Tensor, "prompt part"]:
        """By how much each prompt's objective rises as one of these parts there is ablated; float64."""
        groups = [which[i : i + TESTS_AT_ONCE] for i in range(0, len(which), TESTS_AT_ONCE)]
        rises = [self._objective(self._finals(where, group)) - self._full for group in groups]
        return torch.cat(rises).T.cpu()

    def _finals(self, where: Where, which: Sequence[int]) -> Float[Tensor, "test prompt d_model"]:
        """What the logits read in each test, the work shared between the threads in few tests of
        one block each.
        """
        n_rows = ROWS_AT_ONCE if self._full.device.type == "cpu" else ROWS_ON_GPU
        pieces = [
            (number, which[i : i + n_tests])
            for number, n_tests in enumerate(max(1, n_rows // block.n_rows) for block in self._blocks)
            for i in range(0, len(which), n_tests)
        ]
        finals = self._threads.map(lambda piece: self._blocks[piece[0]].remove(where, piece[1]), pieces)
        of_blocks = [
            torch.cat([x for (owner, _), x in zip(pieces, finals, strict=True) if owner == number])[
                :, :n_real
            ]
            for number, n_real in enumerate(self._n_real)
        ]
        return torch.cat(of_blocks, dim=1)


def nothing_scored(graph: Graph, dtype: torch.dtype, n_prompts: int) -> Scores:
    """The beginning of every run: NaN everywhere, in float32 or better."""
    shape = (n_prompts, len(graph.receivers), len(graph.senders))
    return torch.full(shape, math.nan, dtype=torch.promote_types(dtype, torch.float32))


def scores_before(start: SoFar, like: Scores, units: Units) -> Scores:
    """The scores that there were. Raises StateError for what no run of the same edges comes to."""
    scores = start.tensor("scores", like)
    require_even(scores, "scores")
    known = ~scores[0].isnan()
    require(not bool((known & ~units.edges).any()), "it has scores where there is no edge")
    for receivers in units.receivers():
        rows = known[[units.graph.receiver_index[receiver] for receiver in receivers]]
        require(
            bool((rows == rows[:1]).all()), "it has scores of some inputs that are one and not of others"
        )
    return scores


def waiting(units: Units, scores: Scores) -> Iterator[tuple[tuple[Receiver, ...], list[int]]]:
    """Receivers that are one, from the last, and some senders at a time whose edges into them have
    no score yet.
    """
    for receivers in reversed(list(units.receivers())):
        row, n_senders = units.graph.receiver_index[receivers[0]], units.graph.n_readable(receivers[0])
        senders = scores[0, row, :n_senders].isnan().nonzero().flatten().tolist()
        yield from (
            (receivers, senders[i : i + TESTS_AT_ONCE]) for i in range(0, len(senders), TESTS_AT_ONCE)
        )


def work(graph: Graph, receiver: Receiver, n_senders: int | None = None) -> int:
    """What the tests of so many edges into a receiver (None: of all) cost, in layers that they go through."""
    n_tests = graph.n_readable(receiver) if n_senders is None else n_senders
    return n_tests * (graph.n_layers - graph.depth(receiver.node) + 1)


def finite(scores: Float[Tensor, "prompt sender"]) -> Float[Tensor, "prompt sender"]:
    """The same. Raises ModelError where one is NaN or infinite."""
    if not scores.isfinite().all():
        raise ModelError(
            "A score became NaN or infinite: the model's logits overflow. Use --dtype float64."
        )
    return scores
