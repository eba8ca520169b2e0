"""A patched run that is run again only where a change reaches it.

Receivers are visited in reverse forward order, as ACDC does (arXiv:2304.14997). While one is
visited, everything before it still reads clean, so removing edges into it changes its input by a
known sum; what comes after it changes only along kept edges. ``what_if`` pushes several such sums
(tests) through the model side by side; ``commit`` makes one of them the present state and says
which edges stay.

Three things keep a test small. Only nodes that a kept path reaches from the change are computed. A
node is computed at the answer position alone unless a kept path leaves it through a k or v input,
since nothing else looks at other positions; and where it is computed at all positions, these are
the ones from the first that an ablation can change to the answer's, side by side for all prompts as
so many *rows*. And the heads of a layer go through one batched product.

A test's outcome does not depend on which tests stand beside it: on the processors that this was
measured on, a row of a matrix product comes out the same to the last bit whatever the number of
rows, as long as that is a multiple of ``ROWS`` and one thread does the work (see
``methods/search/chain.py``). Where a model's widths are multiples of eight, as all real ones are,
elementwise operations then see whole vectors too.

Where the prompts have roles, a receiver is visited once for each role: its edges there change its
input at the rows of that role alone, and carry on what their senders gain at these rows alone. What
a receiver reads, and the nodes of the present run, are still one for all roles (``Receiver.base``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from circuitfind.circuits.graph import END, SLOTS, Node, Receiver, Slot
from circuitfind.models.components import rotate, visible, visible_at_end
from circuitfind.models.forward import at_end
from circuitfind.models.transformer import mlp, project, rotary_table, write_heads
from circuitfind.patching.blocks import Rows
from circuitfind.patching.reference import Baseline

Gained = dict[Node, Float[Tensor, "test row d_model"]]
"""What nodes write in each test beyond the present run."""


@dataclass
class Head:
    """A live head in the present run, k and v at every position. With ``end_only``, q and z are at
    the answer's.
    """

    end_only: bool
    slots: dict[Slot, Float[Tensor, "prompt pos d_head"]]
    z: Float[Tensor, "row d_head"]


@dataclass
class Mlp:
    """A live MLP in the present run. With ``end_only``, the rows of ``out`` are the answer
    positions alone.
    """

    end_only: bool
    out: Float[Tensor, "row d_model"]


class Rerun:
    """The present patched run of one block of prompts. It starts as the clean run with every edge
    kept, or where only a shortlist of edges is to be tested, as that run
    (``patching/shortlisted.py``).

    A row is one prompt's answer position for whatever is looked at there alone, else one of
    ``Rows``.
    """

    def __init__(self, baseline: Baseline) -> None:
        self.baseline = baseline
        self.model = baseline.model
        self.graph = baseline.graph
        self._end = baseline.batch.end
        self._rows = Rows(baseline.batch, baseline.ablation)
        self._visible = {
            False: visible(baseline.batch.n_pos, self.model.device),
            True: visible_at_end(self._end, baseline.batch.n_pos),
        }
        self._rotary = {
            False: rotary_table(self.model, self._rows.positions),
            True: rotary_table(self.model, self._end),
        }
        self._heads: dict[Node, Head] = {}
        self._mlps: dict[Node, Mlp] = {}
        self._inputs: dict[Receiver, Float[Tensor, "row d_model"]] = {}
        self._sums: dict[Receiver, Float64[Tensor, "row d_model"]] = {}
        self._summed: tuple[tuple[int, ...], Float64[Tensor, "prompt pos d_model"]] | None = None
        self._reads: dict[Receiver, dict[Node, tuple[str, ...]]] = {}
        self._carries: dict[tuple[str, ...], Float[Tensor, "row 1"]] = {}
        self._feeds: dict[Node, list[Receiver]] = {}
        self._together: dict[Receiver, tuple[Receiver, ...]] = {}
        self._stages: list[list[Receiver]] = [[] for _ in self.graph.stages]
        self.bytes_per_test = 0

    def is_live(self, node: Node, role: str | None = None) -> bool:
        """Whether a kept edge leaves ``node`` towards a visited receiver, at that role. The logits
        always live.
        """
        feeds = self._feeds.get(node, ())
        return node.kind == "logits" or any(role in (None, self._role_of(fed)) for fed in feeds)

    def visit(self, receiver: Receiver, twins: Sequence[Receiver] = ()) -> None:
        """Begin with ``receiver``, whose node must be live: from here on its input may be changed.

        ``twins`` are one receiver with it: other k (or v) inputs of its layer, of live heads. All
        that is done with ``receiver`` is then done with them: they have the same edges, and their
        inputs change by the same.
        """
        self._together[receiver.base] = (receiver.base, *twins)
        for one in self._together[receiver.base]:
            if one not in self._inputs:
                self._open(one)
            if self.baseline.ablation == "zero" and one not in self._sums:
                self._sums[one] = self._looked_at(self._sum(one), self._end_only(one))

    def _sum(self, receiver: Receiver) -> Float64[Tensor, "prompt pos d_model"]:
        """What the receiver reads before any of its edges goes; most of a stage's receivers read the same."""
        stage = self._stage(receiver)
        senders = self.baseline.senders_of(receiver)
        key = (stage, *senders)
        if self._summed is None or self._summed[0] != key:
            self._summed = key, self.baseline.summed(stage, senders)
        return self._summed[1]

    def _open(self, receiver: Receiver) -> None:
        node = receiver.node
        if node.kind == "head" and node not in self._heads:
            self._heads[node] = self._open_head(node)
            self.bytes_per_test += self._bytes_written(self._heads[node].z)
        if node.kind == "mlp":
            self._mlps[node] = self._open_mlp(node)
            self.bytes_per_test += self._bytes_written(self._mlps[node].out)
        self._inputs[receiver] = self._looked_at(self.baseline.read(receiver), self._end_only(receiver))
        self._stages[self._stage(receiver)].append(receiver)

    def zero_change(self, receiver: Receiver) -> Float[Tensor, "row d_model"]:
        """The change of the visited receiver's input when nothing is removed."""
        return torch.zeros_like(self._sums.get(receiver.base, self._inputs[receiver.base]))

    def removal(self, receiver: Receiver, sender: int) -> Float[Tensor, "row d_model"]:
        """What the visited receiver's input gains when its edge from that sender is removed."""
        (change,) = self.baseline.change_at(receiver, [sender])
        return self._looked_at(change, self._end_only(receiver))

    def removals(
        self, receiver: Receiver, gone: Float[Tensor, "prompt sender"]
    ) -> Float[Tensor, "row d_model"]:
        """What the visited receiver's input gains when in each prompt the edges from other senders
        are removed (1: gone, 0: not)."""
        changes, ends = self.baseline.change[: gone.shape[1]], self._end.tolist()
        gone = gone.to(
            changes.dtype
        )  # under zero ablation what a receiver reads, and its change, is float64
        if self._end_only(receiver):
            return torch.stack([torch.mv(changes[:, i, end].T, gone[i]) for i, end in enumerate(ends)])
        sums = [torch.mv(changes[:, i].flatten(1).T, row) for i, row in enumerate(gone)]
        return self._rows.take(torch.stack(sums).reshape(changes.shape[1:]))

    def rises(
        self, receiver: Receiver, gradient: Float[Tensor, "row d_model"]
    ) -> Float[Tensor, "prompt sender"]:
        """By how much a number of each prompt rises as each edge into the receiver is removed, to
        first order; float64.

        ``gradient`` is that of the numbers' sum with respect to what the receiver reads.
        """
        changes, ends = self.baseline.change[: self.graph.n_readable(receiver)], self._end.tolist()
        gradient = gradient.to(changes.dtype)
        if self._end_only(receiver):
            pairs = [(changes[:, prompt, end], gradient[prompt]) for prompt, end in enumerate(ends)]
        else:
            n_prompts, n_pos = changes.shape[1:3]
            whole = self._rows.put(gradient, gradient.new_zeros(n_prompts, n_pos, gradient.shape[-1]))
            pairs = [
                (changes[:, prompt].flatten(1), whole[prompt].flatten()) for prompt in range(n_prompts)
            ]
        return torch.stack([torch.mv(*pair) for pair in pairs]).double()

    def what_if(
        self, receiver: Receiver, changes: Float[Tensor, "test row d_model"]
    ) -> Float[Tensor, "test prompt d_model"]:
        """What the logits would read if the visited receiver's input changed so, for each test."""
        return self._run(receiver, changes, keep=False)

    def commit(
        self, receiver: Receiver, change: Float[Tensor, "row d_model"], kept: Iterable[Node]
    ) -> Float[Tensor, "prompt d_model"]:
        """Make ``change`` part of the run, with the edges from ``kept`` alone left; what the logits
        then read.
        """
        final = self._run(receiver, change.unsqueeze(0), keep=True)[0]
        for one in self._together[receiver.base]:
            if one in self._sums:
                self._sums[one] = self._sums[one] + change
        self.keep(receiver, kept)
        return final

    def keep(self, receiver: Receiver, kept: Iterable[Node]) -> None:
        """End with the visited receiver, whose input stays as it is: of its edges those from
        ``kept`` are left.
        """
        senders = list(kept)
        for one in self._together[receiver.base]:
            reads = self._reads.setdefault(one, {})
            for sender in senders:
                reads[sender] = (*reads.get(sender, ()), *([receiver.role] if receiver.role else []))
                self._feeds.setdefault(sender, []).append(replace(one, role=receiver.role))

    # a node in the present run, when it is first looked at

    def _bytes_written(self, rows: Tensor) -> int:
        """What a node that writes as many rows as ``rows`` holds in a test until the logits are reached."""
        return rows.shape[0] * self.baseline.change.shape[-1] * rows.element_size()

    def _looked_at(
        self, x: Float[Tensor, "*batch prompt pos d"], end_only: bool
    ) -> Float[Tensor, "*batch row d"]:
        return at_end(x, self._end) if end_only else self._rows.take(x)

    def _end_only(self, receiver: Receiver) -> bool:
        """Whether the receiver's input matters at the answer position alone."""
        if receiver.slot in ("k", "v"):
            return False
        node = receiver.node
        if node.kind == "logits":
            return True
        return self._heads[node].end_only if node.kind == "head" else self._mlps[node].end_only

    def _is_end_only(self, node: Node) -> bool:
        return all(receiver.role == END or self._end_only(receiver) for receiver in self._feeds[node])

    def _role_of(self, receiver: Receiver) -> str | None:
        """Where the receiver reads; the logits at the answer position."""
        return END if receiver.node.kind == "logits" else receiver.role

    def _open_head(self, node: Node) -> Head:
        clean, end_only = self.baseline.clean.attention[node.layer], self._is_end_only(node)
        q = at_end(clean.q[node.head], self._end).unsqueeze(1) if end_only else clean.q[node.head]
        slots: dict[Slot, Tensor] = {"q": q, "k": clean.k[node.head], "v": clean.v[node.head]}
        return Head(end_only, slots, self._attend(q, slots["k"], slots["v"], node.layer, end_only))

    def _open_mlp(self, node: Node) -> Mlp:
        clean, end_only = self.baseline.clean, self._is_end_only(node)
        if not end_only:
            return Mlp(end_only, self._rows.take(clean.mlp_out[node.layer]))
        return Mlp(end_only, mlp(self.model, node.layer, at_end(clean.mlp_in[node.layer], self._end)))

    # pushing a change through

    def _run(
        self, receiver: Receiver, changes: Tensor, keep: bool
    ) -> Float[Tensor, "test prompt d_model"]:
        """What the logits read in each test; with ``keep`` the one test becomes the present run."""
        moved = {one: self._changed(one, changes) for one in self._together[receiver.base]}
        gained: Gained = {}
        first = self._stage(receiver)
        for stage in range(first, len(self._stages)):
            if stage > first:
                moved = self._moved(stage, gained)
            if keep:
                self._inputs.update({moved_receiver: x[0] for moved_receiver, x in moved.items()})
            gained.update(self._compute(moved, keep))
        logits = Receiver(Node("logits"))
        return moved[logits] if logits in moved else self._inputs[logits].expand(len(changes), -1, -1)

    def _changed(self, receiver: Receiver, changes: Tensor) -> Float[Tensor, "test row d_model"]:
        """What the visited receiver reads as its input changes so. Where nothing takes the place of
        what goes, it is summed in float64: little may be left of much (``Baseline.summed``)."""
        if receiver not in self._sums:
            return self._inputs[receiver] + changes
        return (self._sums[receiver] + changes).to(self.model.dtype)

    def _stage(self, receiver: Receiver) -> int:
        """Stages in forward order: each layer's heads, then its MLP; the logits last."""
        node = receiver.node
        return self.graph.stage_of(node).number

    def _moved(self, stage: int, gained: Gained) -> dict[Receiver, Tensor]:
        """The new inputs of the stage's receivers that read something gained."""
        moved = {}
        for receiver in self._stages[stage]:
            senders = [sender for sender in self._reads.get(receiver, ()) if sender in gained]
            if senders:
                moved[receiver] = self._add(receiver, senders, gained)
        return moved

    def _add(self, receiver: Receiver, senders: Sequence[Node], gained: Gained) -> Tensor:
        """The receiver's present input plus what its senders gained, at the roles at which it reads each."""
        total = self._inputs[receiver] + self._carried(receiver, senders[0], gained)
        for sender in senders[1:]:
            total += self._carried(receiver, sender, gained)
        return total

    def _carried(
        self, receiver: Receiver, sender: Node, gained: Gained
    ) -> Float[Tensor, "test _ d_model"]:
        """What the receiver has of what a sender gained."""
        change, end_only, of_ends = gained[sender], self._end_only(receiver), self._writes_ends(sender)
        if end_only:
            return change if of_ends else change.index_select(-2, self._rows.ends)
        if of_ends:  # read at the answer position alone
            whole = change.new_zeros(*change.shape[:-2], len(self._rows), change.shape[-1])
            return whole.index_copy_(-2, self._rows.ends, change)
        roles = self._reads[receiver][sender]
        return change * self._at_roles(roles) if roles else change

    def _at_roles(self, roles: tuple[str, ...]) -> Float[Tensor, "row 1"]:
        """1 in the rows of these roles, 0 in the others."""
        if roles not in self._carries:
            assert self.baseline.batch.roles is not None
            here = torch.stack([self.baseline.batch.roles.here(role) for role in roles]).any(0)
            self._carries[roles] = self._rows.take(here.unsqueeze(-1).to(self.model.dtype))
        return self._carries[roles]

    def _writes_ends(self, node: Node) -> bool:
        """Whether the rows that the live ``node`` writes are the answer positions alone."""
        return self._heads[node].end_only if node.kind == "head" else self._mlps[node].end_only

    def _compute(self, moved: dict[Receiver, Tensor], keep: bool) -> Gained:
        """What the nodes behind the moved receivers write beyond the present run."""
        gained: Gained = {}
        for end_only in (True, False):
            reads = {
                r: x
                for r, x in moved.items()
                if r.node.kind == "head" and self._heads[r.node].end_only is end_only
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
        if keep:
            gained, state.out = out - state.out, out[0]
            return gained
        return out.sub_(state.out)

    def _run_heads(self, reads: dict[Receiver, Tensor], end_only: bool, keep: bool) -> Gained:
        """Heads of one layer that all look at the same positions, in one product a step."""
        nodes = sorted({receiver.node for receiver in reads}, key=lambda node: node.head)
        layer, n_tests = nodes[0].layer, len(next(iter(reads.values())))
        q, k, v = (self._slot(slot, nodes, reads, n_tests, keep) for slot in SLOTS)
        z = self._attend(q, k, v, layer, end_only)
        present = torch.stack([self._heads[node].z for node in nodes]).unsqueeze(1)
        written = write_heads(self.model, layer, z - present, [node.head for node in nodes])
        if keep:
            for node, new in zip(nodes, z, strict=True):
                self._heads[node].z = new[0]
        return dict(zip(nodes, written, strict=True))

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, layer: int, end_only: bool
    ) -> Float[Tensor, "*batch row d"]:
        """What heads gather for each row."""
        z = self.model.architecture.blocks[layer].attention.forward(q, k, v, self._visible[end_only])
        return z.squeeze(-2) if end_only else self._rows.take(z)

    def _slot(
        self, slot: Slot, nodes: Sequence[Node], reads: dict[Receiver, Tensor], n_tests: int, keep: bool
    ) -> Float[Tensor, "head test prompt pos d_head"]:
        """Queries, keys or values of these heads: computed where their input moved, else as they are."""
        moved = [node for node in nodes if Receiver(node, slot) in reads]
        new = self._project(slot, moved, [reads[Receiver(node, slot)] for node in moved]) if moved else {}
        if keep:
            for node, value in new.items():
                self._heads[node].slots[slot] = value[0]
        present = ((node, self._heads[node].slots[slot]) for node in nodes)
        return torch.stack(
            [new[node] if node in new else x.expand(n_tests, *x.shape) for node, x in present]
        )

    def _project(
        self, slot: Slot, nodes: Sequence[Node], reads: Sequence[Float[Tensor, "test row d_model"]]
    ) -> dict[Node, Float[Tensor, "test prompt pos d_head"]]:
        """Queries, keys or values of these heads at every position that is looked at, from what they read."""
        end_only = slot == "q" and self._heads[nodes[0]].end_only
        rows = project(
            self.model, nodes[0].layer, slot, torch.stack(list(reads)), [node.head for node in nodes]
        )
        if slot != "v":
            rows = rotate(rows, self._rotary[end_only])
        if end_only:
            return dict(zip(nodes, rows.unsqueeze(-2), strict=True))
        present = [self._heads[node].slots[slot] for node in nodes]
        return {
            node: self._rows.put(new, old) for node, new, old in zip(nodes, rows, present, strict=True)
        }
