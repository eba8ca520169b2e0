"""ACDC, automatic circuit discovery (Conmy et al. 2023, arXiv:2304.14997), exactly as published.

Receivers are visited in reverse forward order: the logits; then for each layer from the last its
MLP, its v inputs, its k inputs, its q inputs, each over the heads from last to first. For each
receiver the senders are tried from latest to earliest. An edge is removed for good if the metric
then rises by less than the threshold (strictly). A node that no kept edge leaves loses its incoming
edges without a test: removing them changes nothing, so their score is 0.

Where the prompts have roles, a receiver at each role is one of its own: after one another, from the
last role (END) to the first. An input is tested if a kept edge leaves its node at the same role; a
k or v input if one does at any role.

The tests of one receiver run as a batch along the chain "all so far removed": the outcome is taken
up to the first edge that must stay, and the chain goes on behind it. This changes no decision, only
how many are computed at a time. Where the metric is KL or the loss, a test far from the threshold
is enclosed in an interval that cannot contain it, and only the others go through the whole
vocabulary (``metrics/log_z.py``): again the same decisions.

With ``kv`` "grouped" the k inputs of the query heads that share a key/value head are visited at
once, as the one receiver that they are then, and so are their v inputs; a head that no kept edge
leaves takes no part. With ``level`` "node" whole nodes are tried in place of edges
(``methods/search/nodes.py``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from circuitfind.circuits.graph import Graph, Node, Receiver, Slot
from circuitfind.circuits.units import KvName, LevelName, Units, find_kv, find_level, without_defaults
from circuitfind.errors import UsageError
from circuitfind.methods.method import Job
from circuitfind.methods.outcome import Found, in_question, start_of, take_up
from circuitfind.methods.saved_state import require
from circuitfind.methods.search.candidates import Candidates
from circuitfind.methods.search.chain import Search
from circuitfind.methods.search.grouped import Grouped
from circuitfind.methods.search.judge import Judge, make_judge
from circuitfind.methods.search.nodes import NodeSearch
from circuitfind.methods.search.screened import make_screen
from circuitfind.metrics.measures import MetricName
from circuitfind.models.workers import Threads
from circuitfind.patching.ablation import AblationName
from circuitfind.patching.problem import Problem

DEFAULT_THRESHOLD: dict[MetricName, float] = {
    "kl": 0.02,
    "logit-diff": 0.05,
    "prob-diff": 0.005,
    "loss": 0.02,
}
"""In each metric's unit. That of kl gives 161 edges for ioi on smollm2-135m; the others are of its
order, not tuned.
"""
SHORTEST_CHAIN = 16
LONGEST_CHAIN = 64
"""How many tests run side by side."""
TOLERANCES = (1e-3, 1e-4, 1e-5)
"""How far from its value a test may be enclosed, in the metric's unit, most being a hundred times
nearer: the widest that lets a test with a small score be told from the threshold. Steps, so that
near thresholds share their tests."""

ORDERS = {"sequential": "published", "screened": "published", "grouped": "stages"}
"""In which order each schedule decides."""
ORDER_OF_NODES = "nodes, from the last"


@dataclass(frozen=True)
class ACDC:
    """The method's options, and so its record. ``threshold`` is in the metric's unit, for the mean
    over prompts.

    ``objective``: "improve" minimises the metric itself, as published; "match" minimises its
    distance from the full model's value on each prompt, which removes what speaks against the
    answer only where the full model would. ``schedule``: "sequential" is the published algorithm;
    "screened" the same order and rule, but what is far from the threshold is decided by gradients
    (``methods/search/screened.py``); "grouped" tests many edges at once
    (``methods/search/grouped.py``). ``candidates``: the only edges to be tested; all others are
    removed first.
    """

    threshold: float
    metric: MetricName = "kl"
    ablation: AblationName = "corrupted"
    objective: str = "improve"
    schedule: str = "sequential"
    candidates: Candidates | None = None
    level: LevelName = "edge"
    kv: KvName = "per-head"
    name: ClassVar[str] = "acdc"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.threshold) and self.threshold >= 0):
            raise UsageError(
                f"The threshold is {self.threshold}; it must be a finite number, 0 or above."
            )
        if self.objective not in ("improve", "match"):
            raise UsageError(f"The objective is '{self.objective}'; it must be improve or match.")
        if self.schedule not in ORDERS:
            raise UsageError(f"The schedule is '{self.schedule}'; it must be {', '.join(ORDERS)}.")
        find_level(self.level)
        find_kv(self.kv)
        if self.level == "node" and (self.schedule, self.kv) != ("sequential", "per-head"):
            raise UsageError(
                "At node level there is one schedule, sequential, and no choice of k and v inputs."
            )

    def to_dict(self) -> dict[str, Any]:
        """The block ``method`` of a circuit file: every option, and the order of visits that the
        result depends on.
        """
        options = asdict(replace(self, candidates=None))
        options.pop("candidates")
        said = {"candidates": self.candidates.to_dict()} if self.candidates else {}
        order = ORDER_OF_NODES if self.level == "node" else ORDERS[self.schedule]
        return without_defaults({"name": self.name, **options, **said, "order": order})

    def find(
        self,
        problem: Problem,
        job: Job = Job(),
        shortlist: Bool[Tensor, "receiver sender"] | None = None,
    ) -> Found:
        """Visit every receiver and decide on every edge.

        A job's state is what is decided so far, saved after every chain of tests. ``shortlist``:
        the candidates, where they have been chosen already.
        """
        if problem.batch.roles is not None and not self.tells_positions_apart:
            raise UsageError(
                f"At level {self.level} the schedule {self.schedule} does not tell positions apart. "
                "Use sequential, on single edges."
            )
        options = (self.threshold, self.metric, self.ablation, self.objective == "match")
        if self.level == "node":
            return NodeSearch(*options).find(problem, job)
        if shortlist is None and self.candidates is not None:
            shortlist = self.candidates.choose(problem, Job(job.progress))
        if self.schedule == "grouped":
            return Grouped(*options, self.kv).find(problem, job, shortlist)
        problem = problem.by(self.metric, self.ablation, self.objective == "match")
        units, graph = problem.units(self.level, self.kv), problem.graph
        among = in_question(graph, shortlist)
        found = take_up(graph, start_of(job, graph), shortlist)
        require_in_order(found, among)
        n_edges, tolerance = int(among.sum()), self.tolerance(problem.model.dtype)
        with Threads(problem.model.device) as threads:
            search = Search(problem, threads, shortlist)
            judges = {"sequential": make_judge, "screened": make_screen}
            judge = judges[self.schedule](search, self.threshold, tolerance)
            for receivers in visits(units):
                senders = among[graph.receiver_index[receivers[0]]].nonzero().flatten().tolist()
                live = [receiver for receiver in receivers if senders and search.is_live(receiver)]
                dead = [graph.receiver_index[receiver] for receiver in receivers if receiver not in live]
                found.decided[dead, : graph.n_readable(receivers[0])] = True
                for decided in self._decide(search, judge, graph, live, senders, found):
                    found = decided
                    job.save(found.to_so_far())
                    note = f"{found.summary}, {self.metric} {search.value:.4g}"
                    job.progress.update(found.n_decided(among), n_edges, note)
        job.save(found.to_so_far())
        job.progress.update(n_edges, n_edges, found.summary)
        return found

    @property
    def tells_positions_apart(self) -> bool:
        """Whether it is single edges that are tested one by one, so that each can be at a role."""
        plain = (self.schedule, self.level, self.kv) == ("sequential", "edge", "per-head")
        return plain and self.candidates is None

    def tolerance(self, dtype: torch.dtype) -> float:
        """How far a score may be off that is not near the threshold; 0: every test is computed in full."""
        if dtype != torch.float32:
            return 0.0
        return next((tolerance for tolerance in TOLERANCES if self.threshold >= 4 * tolerance), 0.0)

    def _decide(
        self,
        search: Search,
        judge: Judge,
        graph: Graph,
        receivers: Sequence[Receiver],
        senders: Sequence[int],
        found: Found,
    ) -> Iterator[Found]:
        """Try the edges from these senders into receivers that are one, the latest first; what is
        decided after each chain."""
        if not receivers:
            return
        receiver, *twins = receivers
        rows, order = [graph.receiver_index[one] for one in receivers], list(reversed(senders))
        row, into = rows[0], torch.tensor(rows).unsqueeze(1)
        waiting = [sender for sender in order if not found.decided[row, sender]]
        kept = [sender for sender in order if found.kept[row, sender]]
        earlier = order[: len(order) - len(waiting)]
        search.visit(receiver, [sender for sender in earlier if sender not in kept], twins)
        since = len(earlier) - earlier.index(kept[-1]) - 1 if kept else len(earlier)
        while waiting:
            verdict = judge(receiver, waiting, chain_length(since, bool(kept)))
            tried, n_removed = waiting[: len(verdict.scores)], verdict.n_removed
            found.scores[into, tried] = torch.tensor(verdict.scores, dtype=torch.float64)
            found.decided[into, tried] = True
            found.kept[into, tried[n_removed:]] = True
            kept += tried[n_removed:]
            since = since + n_removed if n_removed == len(tried) else 0
            waiting = waiting[len(tried) :]
            n_tests, n_evaluated = found.n_tests + len(tried), found.n_evaluated + verdict.n_computed
            found = replace(found, n_tests=n_tests, n_evaluated=n_evaluated)
            yield found
        search.leave(receiver, [graph.senders[sender] for sender in kept])


def require_in_order(found: Found, among: Bool[Tensor, "receiver sender"]) -> None:
    """Raises StateError where an edge into a receiver is decided and one of a later sender is not."""
    waiting = (among & ~found.decided).flip(1).int().cummax(1).values.flip(1).bool()
    require(
        not bool((waiting & among & found.decided).any()), "it has decided on edges out of their order"
    )


def chain_length(since: int, has_kept: bool) -> int:
    """How many tests run side by side, ``since`` tests after the receiver's last edge that had to stay.

    Edges that stay come in bunches, so after one the chains begin short. Of nothing but earlier
    decisions, so that a search which is taken up again makes the same chains.
    """
    return min(LONGEST_CHAIN, max(SHORTEST_CHAIN, since)) if has_kept else LONGEST_CHAIN


def visits(units: Units) -> Iterator[tuple[Receiver, ...]]:
    """The published order, receivers that are one together: where the last of them has its place."""
    for receiver in visiting_order(units.graph):
        together = units.together(receiver)
        if receiver == together[-1]:
            yield together


def visiting_order(graph: Graph) -> Iterator[Receiver]:
    """The published order: logits; per layer from the last its MLP, all v, all k, all q, heads from
    last to first.

    Each at its roles from the last to the first.
    """

    def at_roles(node: Node, slot: Slot | None = None) -> Iterator[Receiver]:
        return (Receiver(node, slot, role) for role in reversed(graph.roles or (None,)))

    yield Receiver(Node("logits"))
    for stage in reversed(graph.stages[:-1]):
        for slot in reversed(stage.slots):
            for node in reversed(stage.nodes):
                yield from at_roles(node, slot)
