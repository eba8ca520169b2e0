"""What the decisions of a search tell: which were tests, which hang on rounding, which another threshold shares.

Every test of ACDC is made in the state that the decisions before it left. So two searches that differ in their
threshold alone make the same tests, with the same scores, up to the first that they decide differently.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuitfind.graph import Edge, Graph
from circuitfind.methods.acdc import ACDC, chain_length, visiting_order
from circuitfind.methods.found import Found, nothing_decided
from circuitfind.methods.rule import ROUNDING
from circuitfind.patching import readable
from circuitfind.sites import live_receivers

MARGINS = {torch.float32: 1e-6, torch.float64: 1e-12, torch.bfloat16: 1e-3}
"""How far from the threshold a score must be for a dtype to tell the side, in the metric's unit."""


def is_tested(graph: Graph, found: Found) -> Bool[Tensor, "receiver sender"]:
    """Which edges a finished search tested: those into the logits and into nodes that a kept edge leaves."""
    return readable(graph) & torch.from_numpy(live_receivers(graph, found.kept.numpy())).unsqueeze(1)


def undecidable(graph: Graph, found: Found, threshold: float, dtype: torch.dtype) -> list[Edge]:
    """The edges whose test came out so near the threshold that rounding in ``dtype`` decided, in graph order."""
    near = is_tested(graph, found) & ((found.scores - threshold).abs() < MARGINS[dtype])
    return [Edge(graph.senders[sender], graph.receivers[receiver]) for receiver, sender in near.nonzero().tolist()]


def start_from(graph: Graph, found: Found, earlier: ACDC, method: ACDC, dtype: torch.dtype) -> Found | None:
    """Where a search with ``method`` may start from what one with ``earlier``, of another threshold alone, ``found``.

    None where the two compute their tests in different ways, and where the order of tests depends on their outcome.
    """
    tolerance = method.tolerance(dtype)
    if method.schedule != "sequential" or tolerance != earlier.tolerance(dtype):
        return None
    slack = 2 * tolerance + ROUNDING if tolerance else 0.0
    return decided_alike(graph, found, earlier.threshold, method.threshold, slack)


def decided_alike(graph: Graph, found: Found, earlier: float, threshold: float, slack: float = 0.0) -> Found:
    """What a search at ``threshold`` decides without a test of its own, after ``found`` at the threshold ``earlier``.

    All up to the first test that the two decide differently, that one included: its score is the same, too. Where
    scores are known to ``slack`` only, it ends before the first test that is so near to either threshold, or between
    them, and further back where its chain of tests begins: a score's last digits depend on what else is in its chain.
    """
    order = decision_order(graph)
    tested, scores = (x.flatten()[order] for x in (is_tested(graph, found), found.scores))
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


def decision_order(graph: Graph) -> Int[Tensor, " edge"]:
    """Every edge's place in a flattened [receiver, sender] matrix, in the order in which ACDC decides on them."""
    rows = ((graph.receiver_index[receiver], graph.n_readable(receiver)) for receiver in visiting_order(graph))
    return torch.tensor([row * len(graph.senders) + sender for row, n in rows for sender in reversed(range(n))])
