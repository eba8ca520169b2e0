"""Which receivers make up a node, and at which roles what they read can count: what a set of edges leads to.

A *site* is a node at one role: what it writes there. A q input and an MLP's serve the site of their
own role. A k or v input serves the sites of its head at every role, since a query may see keys and
values from anywhere before it. So an edge into a k or v input counts as long as its head is read at
any role; whether a query of that role comes behind it in some prompt is not asked, so that what is
pruned depends on the graph alone.

Without roles there is one site a node.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int

from circuitfind.circuits.graph import Graph, Receiver

Chosen = Bool[np.ndarray, "receiver sender"]
AtSites = Bool[np.ndarray, "role node"]
"""The nodes are the senders and, behind the last, the logits, whose one site is at the last role."""


class Sites:
    """The receivers of a graph by the sites that they serve.

    ``owner``: each one's node; ``role``: where it reads; ``anywhere``: it serves its node at every
    role.
    """

    def __init__(self, graph: Graph) -> None:
        self.n_roles, self.n_senders = graph.n_roles, len(graph.senders)
        owners = [graph.sender_index.get(receiver.node, self.n_senders) for receiver in graph.receivers]
        self.owner: Int[np.ndarray, " receiver"] = np.array(owners)
        roles = [row % self.n_roles for row in range(len(owners) - 1)]
        self.role: Int[np.ndarray, " receiver"] = np.array([*roles, self.n_roles - 1])
        at_any = [receiver.slot in ("k", "v") for receiver in graph.receivers]
        self.anywhere: Bool[np.ndarray, " receiver"] = np.array(at_any)

    def nothing(self) -> AtSites:
        """No site."""
        return np.zeros((self.n_roles, self.n_senders + 1), bool)

    def served(self, rows: Bool[np.ndarray, " receiver"]) -> AtSites:
        """The sites that these receivers serve."""
        found, everywhere = self.nothing(), np.logical_and(rows, self.anywhere)
        found[:, self.owner[everywhere]] = True
        there = np.logical_and(rows, ~self.anywhere)
        found[self.role[there], self.owner[there]] = True
        return found

    def serving(self, sites: AtSites) -> Bool[np.ndarray, " receiver"]:
        """The receivers that serve one of these sites."""
        at_any: Bool[np.ndarray, " node"] = np.logical_or.reduce(sites)
        rows: Bool[np.ndarray, " receiver"] = sites[self.role, self.owner]
        rows[self.anywhere] = at_any[self.owner[self.anywhere]]
        return rows

    def read(self, chosen: Chosen) -> AtSites:
        """The sites that these edges leave, and the logits."""
        found = self.nothing()
        found[:, :-1] = chosen[:-1].reshape(-1, self.n_roles, self.n_senders).any(0)
        found[-1, :-1] |= chosen[-1]
        found[-1, -1] = True
        return found

    def leaving(self, sites: AtSites) -> Chosen:
        """The edges that leave one of these sites, if the graph has them."""
        return sites[self.role, :-1]


def live_receivers(graph: Graph, kept: Chosen) -> Bool[np.ndarray, " receiver"]:
    """Which receivers serve a site that a kept edge leaves; the logits always."""
    sites = Sites(graph)
    return sites.serving(sites.read(kept))


def served_roles(graph: Graph, receiver: Receiver) -> tuple[str | None, ...]:
    """At which roles the receiver's node writes what it makes of this input; (None,) in a graph without."""
    if not graph.roles:
        return (None,)
    if receiver.node.kind == "logits":
        return graph.roles[-1:]
    return graph.roles if receiver.serves is None else (receiver.serves,)
