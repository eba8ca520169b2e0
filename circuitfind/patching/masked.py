"""A patched run under any mask of kept edges, run again only where another mask changes it.

``reference.run_patched`` computes every node for any mask. Here a run costs what its circuit is
worth:

- a node from which no kept edge leads on to the logits is dead, and not computed;
- a node that reads what it reads in the clean run has not moved, and is not computed either;
- a node is computed at the answer position alone unless a kept path leaves it through a k or v
  input;
- ``rerun`` takes from an earlier run every node that reads, and is looked at, as it was there.

What a receiver reads is a sum over the edges that it keeps: what it reads with every edge removed,
and for each kept edge what its sender writes beyond its ablated output. Nothing that has gone is in
the sum, so that nothing of it is left by rounding. Where few edges are kept they are added one by
one, else by one matrix product a stage. A receiver whose senders all write, and are kept, as in the
clean run reads what it reads there, to the last bit.

A mask holds the share of each edge that is kept: 1 or 0 in a circuit, one between on the way from
one to another, as attributions take it (removing a share of every edge that leaves ``input`` is to
interpolate the embedding).

Every value depends on the mask alone, to the last bit, and not on the runs before it: a receiver's
sum is taken in the order of its senders, and a row of a matrix product does not depend on how many
rows stand beside it (``patching/incremental.py``). The number of rows is made up to a multiple of
ROWS where it is not one: that of receivers, and of answer positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitfind.circuits.graph import SLOTS
from circuitfind.circuits.layout import Layout
from circuitfind.circuits.masks import readable
from circuitfind.models.components import rotate, visible, visible_at_end
from circuitfind.models.transformer import mlp, project, rotary_table, write_heads
from circuitfind.patching.blocks import ROWS, Rows
from circuitfind.patching.reference import Baseline
from circuitfind.prompts.roles import by_role

SPARSE = 16
"""A receiver's input is summed edge by edge where at most one in so many is kept, else by a product
over all: that reads every sender once for all receivers of a stage, and takes about a sixteenth of
an addition an edge."""

Mask = Float[Tensor, "receiver sender"]
"""The share of each edge that is kept, on the CPU."""
Inputs = dict[bool, tuple[Float[Tensor, "#prompt _ d_model"], ...]]
"""What each stage's receivers read: at all positions (True), and at the answer position alone (False)."""
Places = Int[Tensor, " row"] | slice
"""Rows of a flattened [prompt, pos]."""
Excess = dict[int, Float[Tensor, "_ _ d_model"]]
"""What senders write beyond their ablated outputs, at the answer position alone unless they are whole."""


@dataclass(frozen=True)
class Reach:
    """Which senders a run must compute, and where.

    ``live`` ones reach the logits along kept edges; ``whole`` ones are looked at not only at the
    answer position; ``moved`` ones, live, read something else than in the clean run.
    """

    live: Bool[np.ndarray, " sender"]
    whole: Bool[np.ndarray, " sender"]
    moved: Bool[np.ndarray, " sender"]


def find_reach(layout: Layout, kept: Mask, least: Mask | None = None) -> Reach:
    """Live and whole from the logits back, moved from the input on.

    ``kept``: the share of each edge, where positions are told apart the largest; ``least`` then the
    smallest.
    """
    some = kept.numpy() > 0
    live, whole = some[-1].copy(), np.zeros_like(some[-1])
    for layer in reversed(range(layout.graph.n_layers)):
        reads, node = some[layout.row(layer, 3)], layout.mlp(layer)
        live |= reads & live[node]
        whole |= reads & whole[node]
        q, k, v = some[layout.slots(layer)].reshape(len(SLOTS), -1, some.shape[1])
        alive, of_whole = live[layout.heads(layer), None], whole[layout.heads(layer), None]
        looked_at = (((k | v) & alive) | (q & of_whole)).any(0)
        whole |= looked_at
        live |= looked_at | (q & alive).any(0)
    lacks = (kept if least is None else least).sum(1).numpy() < layout.most
    moved = spread(layout, some, lacks, np.zeros_like(live), np.ones_like(live))
    return Reach(live, whole, moved & live)


def spread(
    layout: Layout,
    some: Bool[np.ndarray, "receiver sender"],
    begins: Bool[np.ndarray, " receiver"],
    changed: Bool[np.ndarray, " sender"],
    live: Bool[np.ndarray, " sender"],
) -> Bool[np.ndarray, " sender"]:
    """The live senders that a change reaches along some edges, which begins at receivers and in
    senders themselves.
    """
    changed = changed & live
    for layer in range(_first_layer(layout, begins, changed), layout.graph.n_layers):
        heads, slots = layout.heads(layer), layout.slots(layer)
        reached = begins[slots] | (some[slots] & changed).any(1)
        changed[heads] = (changed[heads] | reached.reshape(3, -1).any(0)) & live[heads]
        row, node = layout.row(layer, 3), layout.mlp(layer)
        changed[node] = (changed[node] or begins[row] or (some[row] & changed).any()) and live[node]
    return changed


def _first_layer(
    layout: Layout, begins: Bool[np.ndarray, " receiver"], changed: Bool[np.ndarray, " sender"]
) -> int:
    """Before which nothing can be reached from these receivers and senders."""
    layers = [layout.stage(int(begins.argmax())) // 2] if begins.any() else []
    layers += [max(0, layout.layer(int(changed.argmax())))] if changed.any() else []
    return min(layers, default=layout.graph.n_layers)


@dataclass(frozen=True)
class Plan:
    """What a run under a mask must compute, whatever the prompts: ``fresh`` senders are not as they
    were before.

    ``shares``: the mask, role by role where the prompts have some. ``most``: how many senders each
    receiver could read.
    """

    kept: Mask
    reach: Reach
    fresh: Bool[np.ndarray, " sender"]
    shares: Float[np.ndarray, "role base sender"]
    most: Int[np.ndarray, " base"]

    @cached_property
    def n_kept(self) -> Int[np.ndarray, "role base"]:
        """How many edges each receiver keeps, at least in part."""
        counts: np.ndarray = (self.shares > 0).sum(-1)
        return counts

    @cached_property
    def lacks(self) -> Bool[np.ndarray, "role base"]:
        """Which receivers lack a part of what they could read, or read a sender that writes
        otherwise than it does in the clean run."""
        some_gone = (self.shares == 1).sum(-1) < self.most
        reads_moved = (self.shares[..., self.reach.moved] > 0).any(-1)
        lacks: np.ndarray = some_gone | reads_moved
        return lacks


@dataclass(frozen=True)
class Masked:
    """One patched run. ``excess``: what its moved senders write beyond their ablated outputs; the
    other live ones write what they write in the clean run. ``final``: what the logits read."""

    plan: Plan
    excess: Excess
    final: Float[Tensor, "prompt d_model"]

    @property
    def kept(self) -> Mask:
        """Its mask."""
        return self.plan.kept

    @property
    def reach(self) -> Reach:
        """Which senders it had to compute, and where."""
        return self.plan.reach


class Runner:
    """Runs one block of prompts under masks. Not for two threads at once: it reuses its buffers."""

    def __init__(self, baseline: Baseline) -> None:
        self.baseline = baseline
        self.model = baseline.model
        self.layout = Layout(baseline.graph)
        self.graph = baseline.batch.graph_of(baseline.graph)
        self.edges = readable(self.graph)
        device, batch = self.model.device, baseline.batch
        n_filled = batch.n_prompts + -batch.n_prompts % ROWS
        self.prompts = torch.arange(n_filled, device=device).clamp(max=batch.n_prompts - 1)
        """Whose answer positions are computed: every prompt's, the last one's again up to a
        multiple of ROWS.
        """
        self._end = batch.end[self.prompts]
        positions = torch.arange(batch.n_pos, device=device)
        self._visible = {
            True: visible(batch.n_pos, device),
            False: visible_at_end(self._end, batch.n_pos),
        }
        self._rotary = {
            True: rotary_table(self.model, positions),
            False: rotary_table(self.model, self._end.unsqueeze(1)),
        }
        self._rows = Rows(batch, baseline.ablation).places
        self._clean_excess: dict[tuple[int, bool], Float[Tensor, "row pos d_model"]] = {}
        self._buffers: dict[bool, Float[Tensor, "sender prompt pos d_model"]] = {}

    def run(self, kept: Mask) -> Masked:
        """The run under a mask."""
        return self.rerun(None, kept)

    def rerun(self, before: Masked | None, kept: Mask) -> Masked:
        """The same, taking from ``before`` what the two runs have in common."""
        return self.carry_out(before, self.plan(before, kept))

    def plan(self, before: Masked | None, kept: Mask) -> Plan:
        """Which senders must be computed: those that read, or are looked at, otherwise than before."""
        shares = by_role(self.graph, kept).numpy()
        some, least = (torch.from_numpy(x) for x in (shares.max(0), shares.min(0)))
        reach, most = find_reach(self.layout, some, least), self.layout.most
        if before is None:
            return Plan(kept, reach, reach.moved, shares, most)
        otherwise = (before.plan.shares != shares).any((0, 2))
        again = (before.reach.whole != reach.whole) | (before.reach.moved != reach.moved)
        fresh = spread(self.layout, some.numpy() > 0, otherwise, again, reach.live)
        return Plan(kept, reach, fresh & reach.moved, shares, most)

    def carry_out(self, before: Masked | None, plan: Plan) -> Masked:
        """The run that was planned, perhaps by another block's runner whose ``before`` has the same mask."""
        known = {} if before is None else before.excess
        moved, fresh = plan.reach.moved, plan.fresh
        work = Work(self, plan, {s: x for s, x in known.items() if moved[s] and not fresh[s]})
        for layer in range(self.baseline.graph.n_layers):
            work.run_heads(layer)
            work.run_mlp(layer)
        (final,) = work.read([len(plan.most) - 1], whole=False)
        return Masked(plan, work.excess, final[: self.baseline.batch.n_prompts, 0])

    def ends(self, x: Float[Tensor, "*batch prompt pos d"]) -> Float[Tensor, "*batch row 1 d"]:
        """The answer positions alone."""
        return x[..., self.prompts, self._end, :].unsqueeze(-2)

    def at(
        self, x: Float[Tensor, "*batch #prompt #pos d"], whole: bool
    ) -> Float[Tensor, "*batch row pos2 d"]:
        """``x``, of constants once for each prompt and position; or its answer positions alone."""
        shape = (self.baseline.batch.n_prompts, self.baseline.batch.n_pos)
        everywhere = x.expand(*x.shape[:-3], *shape, x.shape[-1])
        return everywhere if whole else self.ends(everywhere)

    def changing(self, whole: bool) -> Int[Tensor, " row"]:
        """Which rows of a flattened [prompt, pos] an MLP must compute: where clean and ablated run
        can differ, up to the answer (``blocks.Rows``). At the answer position alone: all."""
        return self._rows if whole else torch.arange(len(self.prompts), device=self._end.device)

    def gather(self, layer: int, heads: Sequence[int], reads: Sequence[Tensor], whole: bool) -> Tensor:
        """What these heads' queries gather (z), from what their inputs read."""
        q, k, v = (
            project(self.model, layer, slot, x, heads) for slot, x in zip(SLOTS, reads, strict=True)
        )
        q, k = rotate(q, self._rotary[whole]), rotate(k, self._rotary[True])
        if not whole and len(self.prompts) > k.shape[1]:
            k, v = k[:, self.prompts], v[:, self.prompts]
        return self.model.architecture.blocks[layer].attention.forward(q, k, v, self._visible[whole])

    def write(
        self, layer: int, heads: Sequence[int], z: Float[Tensor, "head row pos d_head"], whole: bool
    ) -> Float[Tensor, "head row pos d_model"]:
        """What heads that hold ``z`` write beyond their ablated outputs."""
        ablated = self.at(self.baseline.ablated.z[layer][list(heads)], whole)
        return write_heads(self.model, layer, z - ablated, heads)

    def clean_excess(self, sender: int, whole: bool) -> Float[Tensor, "row pos d_model"]:
        """What a sender writes in the clean run beyond its ablated output."""
        if (sender, whole) not in self._clean_excess:
            self._clean_excess[sender, whole] = self._compare(sender, whole)
        return self._clean_excess[sender, whole]

    def _compare(self, sender: int, whole: bool) -> Float[Tensor, "row pos d_model"]:
        clean, ablated, layer = self.baseline.clean, self.baseline.ablated, self.layout.layer(sender)
        if sender == 0:
            return self.at(clean.embedding, whole) - self.at(ablated.embedding, whole)
        if sender == self.layout.mlp(layer):
            return self.at(clean.mlp_out[layer], whole) - self.at(ablated.mlp_out[layer], whole)
        heads = [sender - self.layout.head(layer)]
        return self.write(layer, heads, self.at(clean.attention[layer].z[heads], whole), whole)[0]

    def buffer(self, whole: bool) -> Float[Tensor, "sender prompt pos d_model"]:
        """Room for what every sender writes, in one piece for products; what stands in it is finite."""
        if whole not in self._buffers:
            clean = self.baseline.clean.final
            shape = clean.shape if whole else (len(self.prompts), 1, clean.shape[-1])
            self._buffers[whole] = clean.new_zeros(len(self.baseline.graph.senders), *shape)
        return self._buffers[whole]

    @cached_property
    def role_rows(self) -> list[Places]:
        """Which rows of a flattened [prompt, pos] have each role; without roles all."""
        roles = self.baseline.batch.roles
        if roles is None:
            return [slice(None)]
        return [(roles.of == number).flatten().nonzero().flatten() for number in range(len(roles.names))]

    @cached_property
    def clean_in(self) -> Inputs:
        """What each stage's receivers read in the clean run."""
        clean = self.baseline.clean
        pairs = zip(clean.attention_in, clean.mlp_in, strict=True)
        return self._both((*(x for pair in pairs for x in pair), clean.final))

    @cached_property
    def emptied(self) -> Inputs:
        """What each stage's receivers read when every edge is removed."""
        return self._both(self.baseline.emptied)

    def _both(self, inputs: tuple[Tensor, ...]) -> Inputs:
        return {whole: tuple(self.at(x, whole).contiguous() for x in inputs) for whole in (True, False)}


class Work:
    """One run under a plan, node by node in forward order; ``excess`` grows with it."""

    def __init__(self, runner: Runner, plan: Plan, excess: Excess) -> None:
        self.excess = excess
        self._runner, self._plan, self._layout = runner, plan, runner.layout
        self._filled: dict[bool, set[int]] = {True: set(), False: set()}

    def run_mlp(self, layer: int) -> None:
        """What a layer's MLP writes, if it must be computed."""
        node, runner = self._layout.mlp(layer), self._runner
        if not self._plan.fresh[node]:
            return
        whole = bool(self._plan.reach.whole[node])
        (x,) = self.read([self._layout.row(layer, len(SLOTS))], whole)
        rows = runner.changing(whole)
        written = mlp(runner.model, layer, x.flatten(0, 1)[rows])
        ablated = runner.at(runner.baseline.ablated.mlp_out[layer], whole).flatten(0, 1)[rows]
        self.excess[node] = torch.zeros_like(x)
        self.excess[node].flatten(0, 1)[rows] = written - ablated

    def run_heads(self, layer: int) -> None:
        """What those of a layer's heads write that must be computed: in one piece those that are
        looked at everywhere, and those at the answer position alone."""
        plan = self._plan
        nodes = {head: self._layout.head(layer, head) for head in range(self._layout.graph.n_heads)}
        for whole in (False, True):
            heads = [
                h
                for h, node in nodes.items()
                if plan.fresh[node] and bool(plan.reach.whole[node]) is whole
            ]
            if heads:
                z = self._runner.gather(layer, heads, self.read_heads(layer, heads), whole)
                written = self._runner.write(layer, heads, z, whole)
                self.excess |= dict(zip([nodes[head] for head in heads], written, strict=True))

    def read_heads(
        self, layer: int, heads: Sequence[int]
    ) -> list[Float[Tensor, "head prompt pos d_model"]]:
        """What the q, k and v inputs of these heads read, all looked at at the same positions: q at
        the answer position alone unless the heads are whole."""
        whole = bool(self._plan.reach.whole[self._layout.head(layer, heads[0])])
        return [
            self.read([self._layout.row(layer, slot, head) for head in heads], whole or slot > 0)
            for slot in range(len(SLOTS))
        ]

    def read(self, rows: Sequence[int], whole: bool) -> Float[Tensor, "row prompt pos d_model"]:
        """What these receivers of one stage read: at all positions, or at the answer position alone."""
        runner, plan, stage = self._runner, self._plan, self._layout.stage(rows[0])
        emptied, clean = (
            inputs[whole][stage].flatten(0, 1) for inputs in (runner.emptied, runner.clean_in)
        )
        read = clean.new_zeros(
            len(rows), *clean.shape
        )  # behind the answer there is no role: a NaN there would spread
        for role, places in (
            enumerate(runner.role_rows) if whole else [(len(plan.shares) - 1, slice(None))]
        ):
            lacks = plan.lacks[role, list(rows)]
            few = plan.n_kept[role, list(rows)] * SPARSE <= plan.most[list(rows)]
            for at, row in enumerate(rows):
                if not lacks[at]:
                    read[at, places] = clean[places]
                elif few[at]:
                    read[at, places] = self._add(plan.shares[role, row], emptied[places], places, whole)
            many = np.flatnonzero(lacks & ~few).tolist()
            if many:
                shares = plan.shares[role, [rows[at] for at in many], : self._layout.n_readable(stage)]
                for at, sums in zip(many, self._multiply(shares, places, whole), strict=True):
                    read[at, places] = sums.add_(emptied[places])
        return read.reshape(len(rows), *runner.clean_in[whole][stage].shape)

    def gained(self, sender: int, whole: bool) -> Float[Tensor, "row pos d_model"]:
        """What a live sender writes beyond its ablated output, at the positions that are asked for."""
        if sender not in self.excess:
            return self._runner.clean_excess(sender, whole)
        is_whole = bool(self._plan.reach.whole[sender])
        return self.excess[sender] if whole or not is_whole else self._buffer([sender], whole)[sender]

    def _add(
        self,
        shares: Float[np.ndarray, " sender"],
        emptied: Float[Tensor, "row d"],
        places: Places,
        whole: bool,
    ) -> Float[Tensor, "row d"]:
        """What a receiver reads that keeps few edges, at some rows of a flattened [prompt, pos]."""
        total = emptied.clone()
        for sender in shares.nonzero()[0].tolist():
            total.add_(self.gained(sender, whole).flatten(0, 1)[places], alpha=float(shares[sender]))
        return total

    def _multiply(
        self, shares: Float[np.ndarray, "receiver readable"], places: Places, whole: bool
    ) -> Float[Tensor, "receiver row d"]:
        """What receivers that keep many edges read beyond what they read with all removed."""
        kept = np.flatnonzero(shares.sum(0)).tolist()
        readable = self._buffer(kept, whole)[: shares.shape[1]]
        written = readable.flatten(1, 2)[:, places]
        weights = np.concatenate([shares, np.zeros((-len(shares) % ROWS, shares.shape[1]))])
        sums = torch.from_numpy(weights).to(written) @ written.flatten(1)
        return sums[: len(shares)].reshape(len(shares), *written.shape[1:])

    def _buffer(self, senders: Sequence[int], whole: bool) -> Float[Tensor, "sender prompt pos d_model"]:
        """The runner's room with what these senders write in this run in it."""
        buffer, filled = self._runner.buffer(whole), self._filled[whole]
        for sender in [sender for sender in senders if sender not in filled]:
            if sender not in self.excess:
                buffer[sender] = self._runner.clean_excess(sender, whole)
            elif whole or not self._plan.reach.whole[sender]:
                buffer[sender] = self.excess[sender]
            else:
                buffer[sender] = self._runner.ends(self.excess[sender])
            filled.add(sender)
        return buffer
