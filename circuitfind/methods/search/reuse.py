"""What the decisions of a search tell: which were tests, which hang on rounding, which another
threshold shares.

Every test of ACDC is made in the state that the decisions before it left. So two searches that
differ in their threshold alone make the same tests, with the same scores, up to the first that they
decide differently.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuitfind.circuits.graph import Edge, Graph, Node
from circuitfind.circuits.reach import live_receivers
from circuitfind.circuits.units import Units
from circuitfind.methods.outcome import Found, in_question, nothing_decided
from circuitfind.methods.search.acdc import ACDC, chain_length, visiting_order
from circuitfind.methods.search.judge import ROUNDING

Shortlist = Bool[Tensor, "receiver sender"] | None
"""The only edges that a search tested; None: all."""


def is_tested(graph: Graph, found: Found, shortlist: Shortlist = None) -> Bool[Tensor, "receiver sender"]:
    """Which edges a finished search tested: those into the logits and into nodes that a kept edge leaves."""
    live = torch.from_numpy(live_receivers(graph, found.kept.numpy())).unsqueeze(1)
    return in_question(graph, shortlist) & live


def undecidable(
    units: Units, found: Found, threshold: float, margin: float, shortlist: Shortlist = None
) -> list[Edge] | list[Node]:
    """What was tested and came out so near the threshold, within ``margin``, that rounding decided,
    in graph order.

    Of edges that go together the first is named.
    """
    graph = units.graph
    near = is_tested(graph, found, shortlist) & ((found.scores - threshold).abs() < margin)
    if units.level == "node":
        return [
            graph.senders[sender]
            for sender in (near & units.choosable).any(0).nonzero().flatten().tolist()
        ]
    first: dict[int, Edge] = {}
    for leader, (receiver, sender) in zip(
        units.leader[near].tolist(), near.nonzero().tolist(), strict=True
    ):
        first.setdefault(leader, Edge(graph.senders[sender], graph.receivers[receiver]))
    return list(first.values())


def start_from(
    graph: Graph,
    found: Found,
    earlier: ACDC,
    method: ACDC,
    dtype: torch.dtype,
    shortlist: Shortlist = None,
) -> Found | None:
    """Where a search with ``method`` may start from what one with ``earlier``, of another threshold
    alone, ``found``.

    None where the two compute their tests in different ways, where the order of tests depends on
    their outcome, and where it is not single edges that are tested.
    """
    tolerance = method.tolerance(dtype)
    are_edges = (method.level, method.kv) == ("edge", "per-head")
    if not are_edges or method.schedule != "sequential" or tolerance != earlier.tolerance(dtype):
        return None
    slack = 2 * tolerance + ROUNDING if tolerance else 0.0
    return decided_alike(graph, found, earlier.threshold, method.threshold, slack, shortlist)


def decided_alike(
    graph: Graph,
    found: Found,
    earlier: float,
    threshold: float,
    slack: float = 0.0,
    shortlist: Shortlist = None,
) -> Found:
    """What a search at ``threshold`` decides without a test of its own, after ``found`` at the
    threshold ``earlier``.

    All up to the first test that the two decide differently, that one included: its score is the
    same, too. Where scores are known to ``slack`` only, it ends before the first test that is so
    near to either threshold, or between them, and further back where its chain of tests begins: a
    score's last digits depend on what else is in its chain.
    """
    order = decision_order(graph, shortlist)
    tested, scores = (x.flatten()[order] for x in (is_tested(graph, found, shortlist), found.scores))
    stays = tested & ~(scores < threshold)
    low, high = min(earlier, threshold) - slack, max(earlier, threshold) + slack
    differs = (tested & (scores >= low) & (scores < high)).nonzero().flatten()
    n_shared = int(differs[0]) + 1 if len(differs) else len(order)
    if slack and len(differs):
        n_shared = _begin_of_chain(order // len(graph.senders), stays, n_shared - 1)
    shared, start = order[:n_shared], nothing_decided(graph)
    start.decided.view(-1)[shared] = True
    start.scores.view(-1)[shared] = found.scores.flatten()[shared]
    start.kept.view(-1)[shared] = stays[:n_shared]
    return replace(start, n_tests=int(tested[:n_shared].sum()))


def _begin_of_chain(rows: Int[Tensor, " edge"], stays: Bool[Tensor, " edge"], place: int) -> int:
    """The place at which the chain of tests begins that the one at ``place`` is in."""
    begin = place
    while begin and rows[begin - 1] == rows[place] and not stays[begin - 1]:
        begin -= 1
    first, has_kept = begin, bool(begin and rows[begin - 1] == rows[place])
    while begin + (length := chain_length(begin - first, has_kept)) <= place:
        begin += length
    return begin


def decision_order(graph: Graph, shortlist: Shortlist = None) -> Int[Tensor, " edge"]:
    """Every edge's place in a flattened [receiver, sender] matrix, in the order in which ACDC
    decides on them.
    """
    rows = (
        (graph.receiver_index[receiver], graph.n_readable(receiver)) for receiver in visiting_order(graph)
    )
    order = torch.tensor(
        [row * len(graph.senders) + sender for row, n in rows for sender in reversed(range(n))]
    )
    return order[in_question(graph, shortlist).flatten()[order]]
