"""A patched run that is run again only where a change reaches it.

Receivers are visited in reverse forward order, as ACDC does (arXiv:2304.14997). While one is visited, everything before
it still reads clean, so removing edges into it changes its input by a known sum; what comes after it changes only
along kept edges. ``what_if`` pushes several such sums (tests) through the model side by side; ``commit`` makes one of
them the present state and says which edges stay.

Three things keep a test small. Only nodes that a kept path reaches from the change are computed. A node is computed at
the answer position alone unless a kept path leaves it through a k or v input, since nothing else looks at other
positions. And the heads of a layer go through one batched product.

A test's outcome does not depend on which tests stand beside it: on the processors that this was measured on, a row of a
matrix product comes out the same to the last bit whatever the number of rows, as long as that is a multiple of ``ROWS``
and one thread does the work (see ``search.py``). Where a model's widths are multiples of eight, as all real ones are,
elementwise operations then see whole vectors too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuitfind.graph import SLOTS, Node, Receiver, Slot
from circuitfind.patching import Baseline, at_end, visible
from circuitfind.transformer import attend, mlp, project, rotary_table, rotate, write_heads

ROWS = 4
"""The number of prompts in a block is made up to a multiple of this."""

Gained = dict[Node, Float[Tensor, "test prompt pos d_model"]]
"""What nodes write in each test beyond the present run."""


@dataclass
class Head:
    """A live head in the present run. With ``end_only``, q and z hold the answer position alone."""

    end_only: bool
    slots: dict[Slot, Float[Tensor, "prompt pos d_head"]]
    z: Float[Tensor, "prompt pos d_head"]


@dataclass
class Mlp:
    """A live MLP in the present run. With ``end_only``, ``out`` holds the answer position alone."""

    end_only: bool
    out: Float[Tensor, "prompt pos d_model"]


class Rerun:
    """The present patched run of one block of prompts. It starts as the clean run with every edge kept."""

    def __init__(self, baseline: Baseline) -> None:
        self.baseline = baseline
        self.model = baseline.model
        self.graph = baseline.graph
        self._end = baseline.batch.end
        positions = torch.arange(baseline.batch.n_pos, device=self.model.device)
        self._visible = {
            False: visible(baseline.batch.n_pos, self.model.device),
            True: (positions <= self._end.unsqueeze(1)).unsqueeze(1),
        }
        self._rotary = {
            False: rotary_table(self.model, positions),
            True: rotary_table(self.model, self._end.unsqueeze(1)),
        }
        self._heads: dict[Node, Head] = {}
        self._mlps: dict[Node, Mlp] = {}
        self._inputs: dict[Receiver, Float[Tensor, "prompt pos d_model"]] = {}
        self._reads: dict[Receiver, list[Node]] = {}
        self._feeds: dict[Node, list[Receiver]] = {}
        self._stages: list[list[Receiver]] = [[] for _ in range(2 * self.graph.n_layers + 1)]
        self.bytes_per_test = 0

    def is_live(self, node: Node) -> bool:
        """Whether a kept edge leaves ``node`` towards a visited receiver. The logits always live."""
        return node.kind == "logits" or node in self._feeds

    def visit(self, receiver: Receiver) -> None:
        """Begin with ``receiver``, whose node must be live: from here on its input may be changed."""
        node = receiver.node
        if node.kind == "head" and node not in self._heads:
            self._heads[node] = self._open_head(node)
            self.bytes_per_test += self._bytes_written(self._heads[node].z)
        if node.kind == "mlp":
            self._mlps[node] = self._open_mlp(node)
            self.bytes_per_test += self._bytes_written(self._mlps[node].out)
        self._inputs[receiver] = self._clean_input(receiver)
        self._stages[self._stage(receiver)].append(receiver)

    def zero_change(self, receiver: Receiver) -> Float[Tensor, "prompt pos d_model"]:
        """The change of the visited receiver's input when nothing is removed."""
        return torch.zeros_like(self._inputs[receiver])

    def removal(self, receiver: Receiver, sender: int) -> Float[Tensor, "prompt pos d_model"]:
        """What the visited receiver's input gains when its edge from that sender is removed."""
        change = self.baseline.change[sender]
        return at_end(change, self._end).unsqueeze(1) if self._end_only(receiver) else change

    def what_if(
        self, receiver: Receiver, changes: Float[Tensor, "test prompt pos d_model"]
    ) -> Float[Tensor, "test prompt d_model"]:
        """What the logits would read if the visited receiver's input changed so, for each test."""
        return self._run(receiver, changes, keep=False)

    def commit(
        self, receiver: Receiver, change: Float[Tensor, "prompt pos d_model"], kept: Iterable[Node]
    ) -> Float[Tensor, "prompt d_model"]:
        """Make ``change`` part of the run, with the edges from ``kept`` alone left; what the logits then read."""
        final = self._run(receiver, change.unsqueeze(0), keep=True)[0]
        self._reads[receiver] = list(kept)
        for sender in self._reads[receiver]:
            self._feeds.setdefault(sender, []).append(receiver)
        return final

    # a node in the present run, when it is first looked at

    def _bytes_written(self, rows: Tensor) -> int:
        """What a node that writes as many rows as ``rows`` holds in a test until the logits are reached."""
        return rows.shape[0] * rows.shape[1] * self.baseline.change.shape[-1] * rows.element_size()

    def _end_only(self, receiver: Receiver) -> bool:
        """Whether the receiver's input matters at the answer position alone."""
        if receiver.slot in ("k", "v"):
            return False
        node = receiver.node
        if node.kind == "logits":
            return True
        return self._heads[node].end_only if node.kind == "head" else self._mlps[node].end_only

    def _is_end_only(self, node: Node) -> bool:
        return all(self._end_only(receiver) for receiver in self._feeds[node])

    def _open_head(self, node: Node) -> Head:
        clean, end_only = self.baseline.clean.attention[node.layer], self._is_end_only(node)
        q = at_end(clean.q[node.head], self._end).unsqueeze(1) if end_only else clean.q[node.head]
        slots: dict[Slot, Tensor] = {"q": q, "k": clean.k[node.head], "v": clean.v[node.head]}
        z = attend(q, slots["k"], slots["v"], self._visible[end_only], self._scale(node.layer))
        return Head(end_only, slots, z)

    def _open_mlp(self, node: Node) -> Mlp:
        clean, end_only = self.baseline.clean, self._is_end_only(node)
        if not end_only:
            return Mlp(end_only, clean.mlp_out[node.layer])
        return Mlp(end_only, mlp(self.model, node.layer, at_end(clean.mlp_in[node.layer], self._end)).unsqueeze(1))

    def _clean_input(self, receiver: Receiver) -> Tensor:
        clean, layer = self.baseline.clean, receiver.node.layer
        streams = {"head": clean.attention_in, "mlp": clean.mlp_in, "logits": (clean.final,)}
        stream = streams[receiver.node.kind][layer]
        return at_end(stream, self._end).unsqueeze(1) if self._end_only(receiver) else stream

    def _scale(self, layer: int) -> float:
        return self.model.architecture.attention_scale[layer]

    # pushing a change through

    def _run(self, receiver: Receiver, changes: Tensor, keep: bool) -> Float[Tensor, "test prompt d_model"]:
        """What the logits read in each test; with ``keep`` the one test becomes the present run."""
        moved = {receiver: self._inputs[receiver] + changes}
        gained: Gained = {}
        first = self._stage(receiver)
        for stage in range(first, len(self._stages)):
            if stage > first:
                moved = self._moved(stage, gained)
            if keep:
                self._inputs.update({moved_receiver: x[0] for moved_receiver, x in moved.items()})
            gained.update(self._compute(moved, keep))
        logits = Receiver(Node("logits"))
        return (
            moved[logits].squeeze(-2)
            if logits in moved
            else self._inputs[logits].transpose(0, 1).expand(len(changes), -1, -1)
        )

    def _stage(self, receiver: Receiver) -> int:
        """Stages in forward order: each layer's heads, then its MLP; the logits last."""
        node = receiver.node
        return len(self._stages) - 1 if node.kind == "logits" else 2 * node.layer + (node.kind == "mlp")

    def _moved(self, stage: int, gained: Gained) -> dict[Receiver, Tensor]:
        """The new inputs of the stage's receivers that read something gained."""
        moved = {}
        for receiver in self._stages[stage]:
            changes = [gained[sender] for sender in self._reads.get(receiver, ()) if sender in gained]
            if changes:
                moved[receiver] = self._add(receiver, changes)
        return moved

    def _add(self, receiver: Receiver, changes: Sequence[Tensor]) -> Tensor:
        """The receiver's present input plus what its senders gained."""
        if self._end_only(receiver):
            changes = [self._end_of(change) for change in changes]
        total = self._inputs[receiver] + changes[0]
        for change in changes[1:]:
            total += change
        return total

    def _end_of(self, x: Tensor) -> Tensor:
        return x if x.shape[-2] == 1 else at_end(x, self._end).unsqueeze(-2)

    def _compute(self, moved: dict[Receiver, Tensor], keep: bool) -> Gained:
        """What the nodes behind the moved receivers write beyond the present run."""
        gained: Gained = {}
        for end_only in (True, False):
            reads = {
                r: x for r, x in moved.items() if r.node.kind == "head" and self._heads[r.node].end_only is end_only
            }
            if reads:
                gained.update(self._run_heads(reads, end_only, keep))
        for receiver, x in moved.items():
            if receiver.node.kind == "mlp":
                gained[receiver.node] = self._run_mlp(receiver.node, x, keep)
        return gained

    def _run_mlp(self, node: Node, x: Tensor, keep: bool) -> Tensor:
        out = mlp(self.model, node.layer, x)
        state = self._mlps[node]
        gained = out - state.out
        if keep:
            state.out = out[0]
        return gained

    def _run_heads(self, reads: dict[Receiver, Tensor], end_only: bool, keep: bool) -> Gained:
        """Heads of one layer that all look at the same positions, in one product a step."""
        nodes = sorted({receiver.node for receiver in reads}, key=lambda node: node.head)
        layer, n_tests = nodes[0].layer, len(next(iter(reads.values())))
        q, k, v = (self._slot(slot, nodes, reads, n_tests, keep) for slot in SLOTS)
        z = attend(q, k, v, self._visible[end_only], self._scale(layer))
        present = torch.stack([self._heads[node].z for node in nodes]).unsqueeze(1)
        written = write_heads(self.model, layer, z - present, [node.head for node in nodes])
        if keep:
            for node, new in zip(nodes, z, strict=True):
                self._heads[node].z = new[0]
        return dict(zip(nodes, written, strict=True))

    def _slot(
        self, slot: Slot, nodes: Sequence[Node], reads: dict[Receiver, Tensor], n_tests: int, keep: bool
    ) -> Float[Tensor, "head test prompt pos d_head"]:
        """Queries, keys or values of these heads: computed where their input moved, else as they are."""
        moved = [node for node in nodes if Receiver(node, slot) in reads]
        new: dict[Node, Tensor] = {}
        if moved:
            x = torch.stack([reads[Receiver(node, slot)] for node in moved])
            computed = project(self.model, moved[0].layer, slot, x, [node.head for node in moved])
            if slot != "v":
                computed = rotate(computed, self._rotary[slot == "q" and self._heads[moved[0]].end_only])
            new = dict(zip(moved, computed, strict=True))
        if keep:
            for node, value in new.items():
                self._heads[node].slots[slot] = value[0]
        present = ((node, self._heads[node].slots[slot]) for node in nodes)
        return torch.stack([new[node] if node in new else x.expand(n_tests, *x.shape) for node, x in present])
