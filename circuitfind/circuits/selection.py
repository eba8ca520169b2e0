"""From scores to a circuit: which edges (or nodes: ``circuits/units.py``), and what is pruned
because it leads nowhere.

Which ones is one of three (how many: ``circuits/size.py``):

- ``top``: the edges with the highest |score|;
- ``top-signed``: the edges with the highest score;
- ``greedy``: from the logits upwards. The circuit's nodes are the logits at first; again and again
  the edge with the highest |score| among those not taken whose receiver belongs to a node of the
  circuit is taken, and its sender joins the circuit's nodes (EAP-IG, arXiv:2403.17806). With a
  threshold it goes on while such an edge is at or above it.

Of edges with equal scores the first in graph order is taken first, so that the same scores give the
same circuit. Where edges are decided on together, as units, the first two ways choose units;
``greedy`` goes edge by edge alone.

Then the circuit is pruned: a head or MLP that no kept edge enters (a head: at none of q, k and v),
or that none leaves, loses all its edges, again and again until there is none. What remains are the
chosen edges that lie on a path of chosen edges from the input to the logits. So the real number of
edges can be below the nominal one, that before pruning.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitfind.circuits.graph import Edge, Graph
from circuitfind.circuits.reach import Sites
from circuitfind.circuits.size import Selection
from circuitfind.circuits.units import Units
from circuitfind.errors import UsageError


@dataclass(frozen=True)
class Selected:
    """A circuit's edges after pruning; ``n_nominal`` is how many units (mostly edges) were chosen
    before it.
    """

    kept: Bool[Tensor, "receiver sender"]
    n_nominal: int

    @property
    def n_kept(self) -> int:
        """The real number of edges."""
        return int(self.kept.sum())


def select(
    graph: Graph,
    scores: Float[Tensor, "receiver sender"],
    selection: Selection,
    units: Units | None = None,
) -> Selected:
    """The circuit that the selection makes of the scores (compared in float64, whatever their
    dtype), on the CPU.

    ``units``: what is chosen, single edges by default; the score of each stands at its leader.
    Scores where the graph has no edge are not looked at. Raises UsageError for a score that is no
    finite number, for more edges than the graph has, and for a greedy choice of anything but edges.
    """
    units = units or Units(graph)
    if selection.select == "greedy" and not units.are_edges:
        raise UsageError(f"greedy goes edge by edge and can't choose {units.noun}. Use --select top.")
    count, size = selection.count(units), scores.detach().cpu().double().numpy()
    check_finite(graph, size, units.edges.numpy())
    size = np.where(
        units.choosable.numpy(), size if selection.select == "top-signed" else np.abs(size), -np.inf
    )
    if count is not None:
        chosen = climb(graph, size, count) if selection.select == "greedy" else first(size, count)
    else:
        chosen = size >= selection.threshold
        if selection.select == "greedy":
            chosen = leading_to_logits(graph, chosen)
    return Selected(prune(graph, units.circuit(torch.from_numpy(chosen))), int(chosen.sum()))


def check_finite(
    graph: Graph, scores: Float[np.ndarray, "receiver sender"], edges: Bool[np.ndarray, "receiver sender"]
) -> None:
    """Raises UsageError naming the first edge whose score is NaN or infinite."""
    wrong = edges & ~np.isfinite(scores)
    if wrong.any():
        row, sender = np.unravel_index(wrong.argmax(), wrong.shape)
        edge = Edge(graph.senders[sender], graph.receivers[row])
        raise UsageError(
            f"{int(wrong.sum()):,} scores are no finite numbers, that of '{edge}' is {scores[row, sender]}. "
            "Run again with --dtype float32 or float64, or leave out the prompts that cause it."
        )


def first(size: Float[np.ndarray, "*place"], count: int) -> Bool[np.ndarray, "*place"]:
    """The ``count`` largest, of equal ones the first in (graph) order; without sorting."""
    if count == 0:
        return np.zeros(size.shape, bool)
    flat = size.ravel()
    least = np.partition(flat, flat.size - count)[flat.size - count]
    chosen: Bool[np.ndarray, " place"] = flat > least
    ties = np.flatnonzero(flat == least)
    chosen[ties[: count - int(chosen.sum())]] = True
    return chosen.reshape(size.shape)


Candidate = tuple[float, int, int]
"""Minus the size of an edge, its receiver and its sender: the least is the next to take."""


def descend(size: Float[np.ndarray, " sender"], row: int, count: int) -> Iterator[Candidate]:
    """The ``count`` largest edges of a receiver, from the largest down, of equal ones the first in
    graph order.
    """
    order = (-size).argsort(kind="stable")[:count]
    return zip((-size[order]).tolist(), repeat(row), order.tolist(), strict=False)


def climb(
    graph: Graph, size: Float[np.ndarray, "receiver sender"], count: int
) -> Bool[np.ndarray, "receiver sender"]:
    """The first ``count`` edges that the greedy way takes; all that it can reach, where those are fewer.

    Of the ``count`` largest edges those that lead along such edges to the logits come first, before
    any other: while one of them is left, one can be taken, and it is larger. From there on a heap
    holds the next edge of each receiver of the circuit. Without roles it does not run out: the
    logits read every sender, so that all receivers join at last.
    """
    sites, chosen = Sites(graph), leading_to_logits(graph, first(size, count))
    left = np.where(chosen, -np.inf, size)
    n_left = np.isfinite(left).sum(1).tolist()
    joined = sites.read(chosen)
    opened = np.zeros(len(size), bool)
    heap: list[tuple[Candidate, Iterator[Candidate]]] = []

    def push(edges: Iterator[Candidate]) -> None:
        following = next(edges, None)
        if following is not None:
            heapq.heappush(heap, (following, edges))

    def open_receivers() -> None:
        new = sites.serving(joined) & ~opened
        opened[new] = True
        for row in np.flatnonzero(new).tolist():
            push(descend(left[row], row, n_left[row]))

    open_receivers()
    for _ in range(count - int(chosen.sum())):
        if not heap:
            break
        (_, row, sender), edges = heapq.heappop(heap)
        chosen[row, sender] = True
        push(edges)
        if not joined[sites.role[row], sender]:
            joined[sites.role[row], sender] = True
            open_receivers()
    return chosen


def leading_to_logits(
    graph: Graph, chosen: Bool[np.ndarray, "receiver sender"]
) -> Bool[np.ndarray, "receiver sender"]:
    """The chosen edges from which chosen edges lead on to the logits."""
    sites = Sites(graph)
    live, leads = sites.nothing(), np.zeros(len(chosen), bool)
    live[-1, -1] = True
    for row in reversed(range(len(chosen))):
        role = slice(None) if sites.anywhere[row] else sites.role[row]
        leads[row] = live[role, sites.owner[row]].any()
        if leads[row]:
            live[sites.role[row], :-1] |= chosen[row]
    return chosen & leads[:, None]


def prune(graph: Graph, chosen: Bool[Tensor, "receiver sender"]) -> Bool[Tensor, "receiver sender"]:
    """The chosen edges without those of sites that no edge enters or none leaves, until there is no
    such site.

    The input needs no edge in and the logits none out. In a graph without cycles this leaves
    exactly the edges on a path of chosen edges from the input to the logits.
    """
    sites, kept, n_kept = Sites(graph), chosen.numpy(), -1
    while n_kept != (n_kept := int(kept.sum())):
        entered = sites.served(np.any(kept, axis=1))
        entered[:, 0] = True
        alive = entered & sites.read(kept)
        kept = kept & sites.leaving(alive) & sites.serving(alive)[:, None]
    return torch.from_numpy(kept)
