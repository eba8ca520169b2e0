"""A circuit's run, and what the logits read when it lacks some of its edges: many such runs side by side.

Parts of a circuit are left out one by one, and sets of its nodes are knocked out: runs that differ
little from the circuit's own, which ``patching/incremental.py`` makes of it from the first receiver
on that an edge is missing at. A test is any set of the circuit's edges. Where all that leave a node
are in it, the node as a whole writes what it writes ablated; else a receiver reads ``ablated -
now`` of the sender beyond what it read.

What a test does not reach is exactly as it is in the circuit's run, whichever tests stand beside
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitfind.circuits.graph import Node, Receiver
from circuitfind.circuits.layout import Layout
from circuitfind.patching.incremental import Gained, Rerun
from circuitfind.patching.masked import spread
from circuitfind.patching.shortlisted import Reduced

BYTES_AT_ONCE = 128 << 20
"""What the tests of a block that stand side by side may hold."""
MOST_AT_ONCE = 16

Missing = Bool[np.ndarray, "receiver sender"]


@dataclass(frozen=True)
class Test:
    """What is missing: ``out`` senders as a whole, and single ``edges`` (receiver, sender).
    ``reached``: the senders that may then write otherwise."""

    out: Bool[np.ndarray, " sender"]
    edges: tuple[tuple[int, int], ...]
    reached: Bool[np.ndarray, " sender"]


class Lacking(Rerun):
    """The run of a circuit on a block of prompts, from which edges can be taken."""

    def __init__(self, baseline: Reduced) -> None:
        super().__init__(baseline)
        self._kept = baseline.kept.cpu().numpy()
        self._layout, self._final = Layout(self.graph), baseline.final
        for row in reversed(range(len(self.graph.receivers))):
            receiver = self.graph.receivers[row]
            if self.is_live(receiver.node):
                self.visit(receiver)
                self.keep(
                    receiver,
                    [self.graph.senders[sender] for sender in self._kept[row].nonzero()[0].tolist()],
                )
        self._live = np.array([self.is_live(sender) for sender in self.graph.senders])

    @property
    def at_once(self) -> int:
        """How many tests are run side by side."""
        return max(1, min(MOST_AT_ONCE, BYTES_AT_ONCE // max(1, self.bytes_per_test)))

    def finals(self, missing: Sequence[Missing]) -> Float[Tensor, "test prompt d_model"]:
        """What the logits read when the circuit lacks these of its edges, for each set of them."""
        n = self.at_once
        groups = [missing[i : i + n] for i in range(0, len(missing), n)]
        return torch.cat([self._run_tests([self._test(edges) for edges in group]) for group in groups])

    def _test(self, missing: Missing) -> Test:
        missing = missing & self._kept
        out = missing.any(0) & (missing == self._kept).all(0)
        out[0] = False  # the input is no node that is computed: its edges go one by one
        single = missing & ~out
        reached = spread(self._layout, self._kept, single.any(1), out.copy(), self._live)
        edges = tuple((row, sender) for row, sender in np.argwhere(single).tolist())
        return Test(out, edges, reached)

    def _run_tests(self, tests: Sequence[Test]) -> Float[Tensor, "test prompt d_model"]:
        gained: Gained = {}
        for stage in range(len(self._stages)):
            moved = self._moved(stage, gained)
            self._take_edges(stage, tests, moved, gained)
            written = self._compute(moved, keep=False)
            for node in self._nodes(stage):
                self._correct(node, tests, written)
            gained |= written
        logits = Receiver(Node("logits"))
        finals = moved[logits] if logits in moved else self._inputs[logits].repeat(len(tests), 1, 1)
        finals[[not self._reaches_logits(test) for test in tests]] = self._final
        return finals

    def _nodes(self, stage: int) -> dict[Node, None]:
        """The live heads or the MLP of a stage."""
        return dict.fromkeys(
            receiver.node for receiver in self._stages[stage] if receiver.node.kind != "logits"
        )

    def _take_edges(
        self, stage: int, tests: Sequence[Test], moved: dict[Receiver, Tensor], gained: Gained
    ) -> None:
        """Take the edges into the stage's receivers that a test misses from what they read in it."""
        receivers = set(self._stages[stage])
        for number, test in enumerate(tests):
            for row, sender in test.edges:
                receiver, node = self.graph.receivers[row], self.graph.senders[sender]
                if receiver not in receivers:
                    continue
                if receiver not in moved:
                    moved[receiver] = self._inputs[receiver].repeat(len(tests), 1, 1)
                moved[receiver][number] += self.removal(receiver, sender)
                if node in gained:
                    moved[receiver][number] -= self._carried(
                        receiver, node, {node: gained[node][[number]]}
                    )[0]

    def _correct(self, node: Node, tests: Sequence[Test], written: Gained) -> None:
        """What a node writes beyond the circuit's run where it is out as a whole, or where nothing
        reaches it.
        """
        sender = self.graph.sender_index[node]
        if not any(test.reached[sender] for test in tests):
            return
        change = self._looked_at(self.baseline.change[sender], self._writes_ends(node))
        if node not in written:
            written[node] = change.new_zeros(len(tests), *change.shape)
        for number, test in enumerate(tests):
            if test.out[sender]:
                written[node][number] = change
            elif not test.reached[sender]:
                written[node][number] = 0.0

    def _reaches_logits(self, test: Test) -> bool:
        row = len(self._kept) - 1
        return bool((self._kept[row] & test.reached).any()) or any(
            place == row for place, _ in test.edges
        )
