"""A patched run under any mask of kept edges, run again only where another mask changes it.

``patching.run_patched`` computes every node for any mask. Here a run costs what its circuit is worth:

- a node from which no kept edge leads on to the logits is dead, and not computed;
- a node that reads what it reads in the clean run has not moved, and is not computed either;
- a node is computed at the answer position alone unless a kept path leaves it through a k or v input;
- ``rerun`` takes from an earlier run every node that reads, and is looked at, as it was there.

A mask holds the share of each edge that is kept: 1 or 0 in a circuit, one between on the way from one to another, as
attributions take it (removing a share of every edge that leaves ``input`` is to interpolate the embedding).

Every value depends on the mask alone, to the last bit, and not on the runs before it: a receiver's sum is taken in the
order of its senders, and a row of a matrix product does not depend on how many rows stand beside it (``rerun.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitfind.graph import SLOTS, Graph
from circuitfind.patching import Baseline, at_end, readable, visible
from circuitfind.rerun import ROWS
from circuitfind.transformer import attend, mlp, project, rotary_table, rotate, write_heads

SPARSE = 4
"""A receiver's input is summed edge by edge where at most one in so many is kept (or removed), else by one product."""

Mask = Float[Tensor, "receiver sender"]
"""The share of each edge that is kept, on the CPU."""
Inputs = dict[bool, tuple[Float[Tensor, "prompt _ d_model"], ...]]
"""What each stage's receivers read: at all positions (True), and at the answer position alone (False)."""
Excess = dict[int, Float[Tensor, "prompt _ d_model"]]


@dataclass(frozen=True)
class Layout:
    """Where a graph's receivers and senders stand in their lists.

    The stages, in forward order: each layer's heads, then its MLP; the logits last.
    """

    graph: Graph

    @property
    def n_stages(self) -> int:
        return 2 * self.graph.n_layers + 1

    def head(self, layer: int, head: int = 0) -> int:
        """The number of a head among the senders; its layer's MLP stands behind the last."""
        return 1 + layer * (self.graph.n_heads + 1) + head

    def mlp(self, layer: int) -> int:
        return self.head(layer, self.graph.n_heads)

    def row(self, layer: int, slot: int, head: int = 0) -> int:
        """The number of a head's q, k or v input among the receivers; its layer's MLP stands behind the last."""
        return layer * (len(SLOTS) * self.graph.n_heads + 1) + slot * self.graph.n_heads + head

    def heads(self, layer: int) -> slice:
        """A layer's heads among the senders."""
        return slice(self.head(layer), self.mlp(layer))

    def slots(self, layer: int) -> slice:
        """All inputs of a layer's heads among the receivers."""
        return slice(self.row(layer, 0), self.row(layer, len(SLOTS)))

    def rows(self, stage: int) -> range:
        """The receivers of a stage."""
        layer, is_mlp = divmod(stage, 2)
        first = self.row(layer, len(SLOTS) * is_mlp)
        is_heads = not is_mlp and layer < self.graph.n_layers
        return range(first, first + (len(SLOTS) * self.graph.n_heads if is_heads else 1))

    def n_readable(self, stage: int) -> int:
        """How many senders a stage's receivers read."""
        layer, is_mlp = divmod(stage, 2)
        return self.head(layer, self.graph.n_heads if is_mlp and not self.graph.parallel else 0)

    def stage(self, row: int) -> int:
        """The stage of a receiver."""
        layer, place = divmod(row, len(SLOTS) * self.graph.n_heads + 1)
        return 2 * layer + (place == len(SLOTS) * self.graph.n_heads)

    @cached_property
    def most(self) -> Int[np.ndarray, " receiver"]:
        """How many senders each receiver reads."""
        return np.array([self.graph.n_readable(receiver) for receiver in self.graph.receivers])

    def reader(self, row: int) -> int | None:
        """Which sender the receiver belongs to; None for the logits."""
        layer, place = divmod(row, len(SLOTS) * self.graph.n_heads + 1)
        if layer == self.graph.n_layers:
            return None
        is_mlp = place == len(SLOTS) * self.graph.n_heads
        return self.mlp(layer) if is_mlp else self.head(layer, place % self.graph.n_heads)


@dataclass(frozen=True)
class Reach:
    """Which senders a run must compute, and where.

    ``live`` ones reach the logits along kept edges; ``whole`` ones are looked at not only at the answer position;
    ``moved`` ones, live, read something else than in the clean run.
    """

    live: Bool[np.ndarray, " sender"]
    whole: Bool[np.ndarray, " sender"]
    moved: Bool[np.ndarray, " sender"]


def find_reach(layout: Layout, kept: Mask) -> Reach:
    """Live and whole from the logits back, moved from the input on."""
    some = kept.numpy() > 0
    live, whole = some[-1].copy(), np.zeros_like(some[-1])
    for layer in reversed(range(layout.graph.n_layers)):
        reads, node = some[layout.row(layer, 3)], layout.mlp(layer)
        live |= reads & live[node]
        whole |= reads & whole[node]
        q, k, v = some[layout.slots(layer)].reshape(3, layout.graph.n_heads, -1)
        alive, everywhere = live[layout.heads(layer), None], whole[layout.heads(layer), None]
        looked_at = (((k | v) & alive) | (q & everywhere)).any(0)
        whole |= looked_at
        live |= looked_at | (q & alive).any(0)
    return Reach(live, whole, find_moved(layout, kept) & live)


def find_moved(layout: Layout, kept: Mask) -> Bool[np.ndarray, " sender"]:
    """Which senders lack a part of what they read, or read one that does."""
    some = kept.numpy() > 0
    lacks = kept.sum(1).numpy() < layout.most
    return spread(layout, some, lacks, np.zeros_like(some[-1]), np.ones_like(some[-1]))


def spread(
    layout: Layout,
    some: Bool[np.ndarray, "receiver sender"],
    begins: Bool[np.ndarray, " receiver"],
    changed: Bool[np.ndarray, " sender"],
    live: Bool[np.ndarray, " sender"],
) -> Bool[np.ndarray, " sender"]:
    """The live senders that a change reaches along some edges, which begins at receivers and in senders themselves."""
    changed = changed & live
    for layer in range(_first_layer(layout, begins, changed), layout.graph.n_layers):
        heads, slots = layout.heads(layer), layout.slots(layer)
        reached = begins[slots] | (some[slots] & changed).any(1)
        changed[heads] = (changed[heads] | reached.reshape(3, -1).any(0)) & live[heads]
        row, node = layout.row(layer, 3), layout.mlp(layer)
        changed[node] = (changed[node] or begins[row] or (some[row] & changed).any()) and live[node]
    return changed


def _first_layer(layout: Layout, begins: Bool[np.ndarray, " receiver"], changed: Bool[np.ndarray, " sender"]) -> int:
    """Before which nothing can be reached from these receivers and senders."""
    layers = [layout.stage(int(begins.argmax())) // 2] if begins.any() else []
    layers += [max(0, int(changed.argmax()) - 1) // (layout.graph.n_heads + 1)] if changed.any() else []
    return min(layers, default=layout.graph.n_layers)


@dataclass(frozen=True)
class Masked:
    """One patched run. ``excess[s]``: what sender s, live and moved, writes beyond its ablated output (at the answer
    position alone unless it is whole). ``final``: what the logits read."""

    kept: Mask
    reach: Reach
    excess: Excess
    final: Float[Tensor, "prompt d_model"]


@dataclass(frozen=True)
class Plan:
    """What a run under a mask must compute, whatever the prompts: ``fresh`` senders are not as they were before."""

    kept: Mask
    reach: Reach
    fresh: Bool[np.ndarray, " sender"]


class Runner:
    """Runs one block of prompts under masks."""

    def __init__(self, baseline: Baseline) -> None:
        self.baseline = baseline
        self.model = baseline.model
        self.layout = Layout(baseline.graph)
        self.edges = readable(baseline.graph)
        self._end = baseline.batch.end
        positions = torch.arange(baseline.batch.n_pos, device=self.model.device)
        self._visible = {
            True: visible(baseline.batch.n_pos, self.model.device),
            False: (positions <= self._end.unsqueeze(1)).unsqueeze(1),
        }
        self._rotary = {
            True: rotary_table(self.model, positions),
            False: rotary_table(self.model, self._end.unsqueeze(1)),
        }

        reached = positions <= self._end.unsqueeze(1)
        rows = (reached & (baseline.change != 0).any(-1).any(0)).flatten().nonzero().flatten()
        self._changing = torch.cat([rows, rows[-1:].expand(-len(rows) % ROWS)])

    def run(self, kept: Mask) -> Masked:
        """The run under a mask."""
        return self.rerun(None, kept)

    def rerun(self, before: Masked | None, kept: Mask) -> Masked:
        """The same, taking from ``before`` what the two runs have in common."""
        return self.carry_out(before, self.plan(before, kept))

    def carry_out(self, before: Masked | None, plan: Plan) -> Masked:
        """The run that was planned, perhaps by another block's runner whose ``before`` has the same mask."""
        kept, reach, fresh = plan.kept, plan.reach, plan.fresh
        excess: Excess = (
            {} if before is None else {s: x for s, x in before.excess.items() if reach.moved[s] and not fresh[s]}
        )
        for layer in range(self.baseline.graph.n_layers):
            for whole in (False, True):
                nodes = {head: self.layout.head(layer, head) for head in range(self.baseline.graph.n_heads)}
                heads = [head for head, node in nodes.items() if fresh[node] and bool(reach.whole[node]) is whole]
                self._run_heads(layer, heads, kept, reach, excess)
            if fresh[self.layout.mlp(layer)]:
                self._run_mlp(layer, kept, reach, excess)
        (final,) = self.read([len(kept) - 1], kept, reach, excess, whole=False)
        return Masked(kept, reach, excess, final.squeeze(1))

    def plan(self, before: Masked | None, kept: Mask) -> Plan:
        """Which senders must be computed: those that read, or are looked at, otherwise than before."""
        reach = find_reach(self.layout, kept)
        if before is None:
            return Plan(kept, reach, reach.moved)
        otherwise = (before.kept != kept).any(1).numpy()
        again = (before.reach.whole != reach.whole) | (before.reach.moved != reach.moved)
        fresh = spread(self.layout, kept.numpy() > 0, otherwise, again, reach.live)
        return Plan(kept, reach, fresh & reach.moved)

    def _run_mlp(self, layer: int, kept: Mask, reach: Reach, excess: Excess) -> None:
        node = self.layout.mlp(layer)
        whole = bool(reach.whole[node])
        (x,) = self.read([self.layout.row(layer, 3)], kept, reach, excess, whole)
        rows = self.changing(whole)
        clean, change = self.ends(self.baseline.clean.mlp_out[layer], whole), self.change(whole)[node]
        written = mlp(self.model, layer, x.flatten(0, 1)[rows])
        excess[node] = -change
        excess[node].flatten(0, 1)[rows] = written - clean.flatten(0, 1)[rows] - change.flatten(0, 1)[rows]

    def changing(self, whole: bool) -> Int[Tensor, " row"]:
        """Which rows of a flattened [prompt, pos] an MLP must compute: where clean and ablated run differ, up to the
        answer. Made up to a multiple of ROWS by the last. At the answer position alone: all."""
        return self._changing if whole else torch.arange(len(self._end), device=self._end.device)

    def _run_heads(self, layer: int, heads: Sequence[int], kept: Mask, reach: Reach, excess: Excess) -> None:
        """Heads that are all looked at at the same positions."""
        if not heads:
            return
        whole = bool(reach.whole[self.layout.head(layer, heads[0])])
        z = self.gather(layer, heads, self.read_heads(layer, heads, kept, reach, excess), whole)
        clean = self.ends(self.baseline.clean.attention[layer].z[list(heads)], whole)
        written = write_heads(self.model, layer, z - clean, heads)
        for head, gained in zip(heads, written, strict=True):
            node = self.layout.head(layer, head)
            excess[node] = gained - self.change(whole)[node]

    def read_heads(self, layer: int, heads: Sequence[int], kept: Mask, reach: Reach, excess: Excess) -> list[Tensor]:
        """What these heads' q, k and v inputs read: q at the answer position alone unless the heads are whole."""
        whole = bool(reach.whole[self.layout.head(layer, heads[0])])
        return [
            self.read([self.layout.row(layer, slot, head) for head in heads], kept, reach, excess, whole or slot > 0)
            for slot in range(len(SLOTS))
        ]

    def gather(self, layer: int, heads: Sequence[int], reads: Sequence[Tensor], whole: bool) -> Tensor:
        """What these heads' queries gather (z), from what their inputs read."""
        q, k, v = (project(self.model, layer, slot, x, heads) for slot, x in zip(SLOTS, reads, strict=True))
        q, k = rotate(q, self._rotary[whole]), rotate(k, self._rotary[True])
        return attend(q, k, v, self._visible[whole], self.model.architecture.attention_scale[layer])

    def ends(self, x: Float[Tensor, "*batch prompt pos d"], whole: bool) -> Float[Tensor, "*batch prompt pos2 d"]:
        """``x``, or its answer positions alone."""
        return x if whole or x.shape[-2] == 1 else at_end(x, self._end).unsqueeze(-2)

    def written(self, sender: int, excess: Excess, whole: bool) -> Float[Tensor, "prompt pos d_model"]:
        """What a live sender writes beyond its ablated output."""
        return self.ends(excess[sender], whole) if sender in excess else -self.change(whole)[sender]

    # what a receiver reads

    def read(
        self, rows: Sequence[int], kept: Mask, reach: Reach, excess: Excess, whole: bool
    ) -> Float[Tensor, "row prompt pos d_model"]:
        """What these receivers of one stage read: at all positions, or at the answer position alone."""
        stage = self.layout.stage(rows[0])
        n_readable = self.layout.n_readable(stage)
        clean, ablated = (inputs[whole][stage] for inputs in (self._clean_in, self._ablated_in))
        read, products = clean.new_empty(len(rows), *clean.shape), []
        for place, row in enumerate(kept.numpy()[list(rows), :n_readable]):
            few = self._few(row, reach)
            if few is None:
                products.append(place)
                read[place] = clean
            else:
                self._add(read[place].copy_(ablated if few else clean), row, few, excess, whole)
        if products:
            masks = kept[list(rows), :n_readable][products]
            read[products] += self._mix(masks, reach, excess, whole)
        return read

    def _few(self, shares: Float[np.ndarray, " readable"], reach: Reach) -> bool | None:
        """True: few are kept, add them to the ablated input. False: few are removed, add those to the clean input."""
        n_kept, n_removed = np.count_nonzero(shares == 1), np.count_nonzero(shares == 0)
        if n_kept + n_removed == len(shares):
            if n_kept * SPARSE <= len(shares):
                return True
            if n_removed * SPARSE <= len(shares) and not (reach.moved[: len(shares)] & (shares > 0)).any():
                return False
        return None

    def _add(
        self, total: Tensor, shares: Float[np.ndarray, " readable"], few_kept: bool, excess: Excess, whole: bool
    ) -> None:
        """Add to ``total`` what the kept senders write, or what is lost with the removed ones."""
        change = self.change(whole)
        for sender in (shares if few_kept else 1 - shares).nonzero()[0].tolist():
            if few_kept and sender in excess:
                total += self.ends(excess[sender], whole)
            elif few_kept:
                total -= change[sender]
            else:
                total += change[sender]

    def _mix(
        self, masks: Float[Tensor, "row readable"], reach: Reach, excess: Excess, whole: bool
    ) -> Float[Tensor, "row prompt pos d_model"]:
        """What receivers that keep many and lack many read beyond their clean input."""
        change = self.change(whole)[: masks.shape[1]]
        mixed = self._product(1 - masks, change)
        moved = (reach.moved[: masks.shape[1]] & (masks.numpy() > 0).any(0)).nonzero()[0].tolist()
        for sender in moved:  # one at a time: which of them move is not the same for every set of receivers
            gained = self.ends(excess[sender], whole) + change[sender]
            mixed += masks[:, sender].to(gained)[:, None, None, None] * gained
        return mixed

    def _product(
        self, weights: Float[Tensor, "row readable"], x: Float[Tensor, "sender prompt pos d"]
    ) -> Float[Tensor, "receiver prompt pos d"]:
        n_rows = len(weights)
        padded = torch.cat([weights, weights.new_zeros(-n_rows % ROWS, weights.shape[1])]).to(x)
        return (padded @ x.flatten(1))[:n_rows].reshape(n_rows, *x.shape[1:])

    def change(self, whole: bool) -> Float[Tensor, "sender prompt pos d_model"]:
        """What every sender writes ablated, less what it writes in the clean run; or that at the answer positions."""
        return self.baseline.change if whole else self._change_at_end

    @cached_property
    def _change_at_end(self) -> Float[Tensor, "sender prompt 1 d_model"]:
        return self.ends(self.baseline.change, whole=False)

    @cached_property
    def _clean_in(self) -> Inputs:
        """What each stage's receivers read in the clean run."""
        clean = self.baseline.clean
        pairs = zip(clean.attention_in, clean.mlp_in, strict=True)
        return self._both((*(x for pair in pairs for x in pair), clean.final))

    @cached_property
    def _ablated_in(self) -> Inputs:
        """What each stage's receivers read when every edge is removed."""
        total, n_added, inputs = torch.zeros_like(self.baseline.change[0]), 0, []
        for stage, clean in enumerate(self._clean_in[True]):
            n_readable = self.layout.n_readable(stage)
            total = total + self.baseline.change[n_added:n_readable].sum(0)
            n_added = n_readable
            inputs.append(clean + total)
        return self._both(tuple(inputs))

    def _both(self, whole: tuple[Tensor, ...]) -> Inputs:
        return {True: whole, False: tuple(self.ends(x, whole=False) for x in whole)}
