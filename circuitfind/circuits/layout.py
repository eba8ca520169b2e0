"""Where a graph's receivers and senders stand in their lists: the numbers that index masks and stacks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int

from circuitfind.circuits.graph import Graph


@dataclass(frozen=True)
class Layout:
    """The numbers of a graph's senders and, without roles, its receivers.

    The stages, in forward order: each layer's heads, then its MLP; the logits last.
    """

    graph: Graph

    @property
    def n_stages(self) -> int:
        return len(self.graph.stages)

    def head(self, layer: int, head: int = 0) -> int:
        """The number of a head among the senders; its layer's MLP stands behind the last."""
        return self.graph.stages[2 * layer].first_sender + head

    def mlp(self, layer: int) -> int:
        """The number of an MLP among the senders."""
        return self.graph.stages[2 * layer + 1].first_sender

    def layer(self, sender: int) -> int:
        """The layer of a head or an MLP among the senders; -1 of the input."""
        return self.graph.senders[sender].layer

    def row(self, layer: int, slot: int, head: int = 0) -> int:
        """The number of a head's q, k or v input among the receivers; its layer's MLP stands behind
        the last.
        """
        stage = self.graph.stages[2 * layer]
        return stage.first_receiver + slot * stage.n + head

    def heads(self, layer: int) -> slice:
        """A layer's heads among the senders."""
        return self.graph.stages[2 * layer].senders

    def slots(self, layer: int) -> slice:
        """All inputs of a layer's heads among the receivers."""
        rows = self.graph.stages[2 * layer].receivers
        return slice(rows.start, rows.stop)

    def rows(self, stage: int) -> range:
        """The receivers of a stage."""
        return self.graph.stages[stage].receivers

    def n_readable(self, stage: int) -> int:
        """How many senders a stage's receivers read."""
        return self.graph.stages[stage].n_readable

    def stage(self, row: int) -> int:
        """The stage of a receiver."""
        return self._stages[row]

    @cached_property
    def most(self) -> Int[np.ndarray, " receiver"]:
        """How many senders each receiver reads."""
        return np.array(self.graph.n_readable_each)

    def reader(self, row: int) -> int | None:
        """Which sender the receiver belongs to; None for the logits."""
        return self._readers[row]

    @cached_property
    def _stages(self) -> list[int]:
        return [stage.number for stage in self.graph.stages for _ in stage.receivers]

    @cached_property
    def _readers(self) -> list[int | None]:
        of_slots = (
            range(stage.senders.start, stage.senders.stop)
            for stage in self.graph.stages[:-1]
            for _ in stage.slots
        )
        return [*(sender for senders in of_slots for sender in senders), None]
