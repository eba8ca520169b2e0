"""Runs under a share of every edge at once, and the way back to the gradient of each share.

A receiver reads ``base + sum over senders of share * excess``: base is what it reads when every
edge is removed, a sender's excess what it writes in this very run beyond its ablated output. So the
gradient of the objective with respect to a share is <gradient at what the receiver reads, excess of
the sender>, and that with respect to an excess the sum of share times gradient over the receivers
that read it. All of it is written out by hand, a stage at a time, as in
``patching/gradients/sweep.py`` (what ``patching/gradients/edges.py`` says of the norm holds here
too); but no two receivers read the same stream.

What keeps it small: only the positions that ablation changes are computed, side by side for a whole
block of prompts (``blocks.Rows``); a sender that no receiver looks at is not computed; a
receiver's gradient takes the place of what it read; and in a model of LayerNorms, which read no
stream's mean, what is written is without it from the beginning, so that a LayerNorm is a division
by a length.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from circuitfind.circuits.graph import SLOTS
from circuitfind.models.components import AttentionRun, rotate, turned_back
from circuitfind.models.transformer import Transformer, kv_heads
from circuitfind.patching.gradients.edges import RECEIVERS
from circuitfind.patching.gradients.sweep import MlpRun, Sweeper
from circuitfind.patching.soft.block import Block
from circuitfind.patching.soft.plan import BASES, LayerPlan, Plan, Shares


@dataclass
class Workspace:
    """Memory that one block after another is computed in: fresh memory costs more than what is
    written there.
    """

    kept: dict[str, Tensor] = field(default_factory=dict)

    def take(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """Memory of that shape, with whatever was left there."""
        size = math.prod(shape)
        if name not in self.kept or len(self.kept[name]) < size:
            self.kept[name] = like.new_empty(size)
        return self.kept[name][:size].view(*shape)


@dataclass(frozen=True)
class _Heads(AttentionRun):
    """A layer's live heads in a run; ``plain``: queries, keys and values before bias and rotation."""

    inverse: Float[Tensor, "receiver row 1"]
    plain: Float[Tensor, "receiver row d_head"]


@dataclass(frozen=True)
class Mixed:
    """One run. ``excess``: the bases of the last layer's heads and MLP, then each live sender's
    excess. ``receivers``: what each live receiver reads. Both lie in a workspace, and last until
    the next run there."""

    block: Block
    plan: Plan
    workspace: Workspace
    excess: Float[Tensor, "slot row d_model"]
    receivers: Float[Tensor, "receiver row d_model"]
    heads: dict[int, _Heads]
    mlps: dict[int, MlpRun]
    final: Float[Tensor, "prompt d_model"]


class Mixer(Sweeper):
    """Runs a model under shares of its edges."""

    def __init__(self, model: Transformer) -> None:
        super().__init__(model)
        self._centre = model.architecture.centre
        self._writes = [self._centre(layer.W_O) for layer in model.layers]

    # forwards

    def mix(self, block: Block, plan: Plan, workspace: Workspace) -> Mixed:
        """The block's run under a plan."""
        shape = (len(block.rows), block.source.shape[-1])
        excess = workspace.take("excess", (BASES + len(plan.senders), *shape), block.source)
        receivers = workspace.take("receivers", (len(plan.rows), *shape), block.source)
        if len(plan.senders) and plan.senders[0] == 0:
            excess[BASES] = block.source
        mixed = Mixed(block, plan, workspace, excess, receivers, {}, {}, block.base[-1][block.rows.ends])
        for layer, todo in enumerate(plan.layers):
            if todo.rows:
                self._mix_layer(layer, todo, mixed)
        mixed.final.add_(torch.tensordot(plan.final, excess[BASES:, block.rows.ends], dims=1))
        return mixed

    def _mix_layer(self, layer: int, todo: LayerPlan, mixed: Mixed) -> None:
        mixed.excess[0], mixed.excess[1] = mixed.block.base[2 * layer], mixed.block.base[2 * layer + 1]
        x = mixed.receivers[todo.place : todo.place + len(todo.rows)]
        torch.mm(todo.reads, mixed.excess[: todo.reads.shape[1]].flatten(1), out=x.flatten(1))
        written = mixed.excess[BASES + todo.sender :][: len(todo.heads) + todo.has_mlp]
        if todo.heads:
            self._mix_heads(
                layer, todo.heads, mixed, x[: len(SLOTS) * len(todo.heads)], written[: len(todo.heads)]
            )
        if todo.has_mlp:
            x[-1].add_(torch.tensordot(todo.own, written[: len(todo.heads)], dims=1))
            ran = mixed.mlps[layer] = self._run_mlp(layer, x[-1:])
            torch.sub(self._centre(ran.out[0]), mixed.block.out[layer], out=written[-1])

    def _mix_heads(
        self,
        layer: int,
        heads: list[int],
        mixed: Mixed,
        x: Float[Tensor, "receiver row d_model"],
        written: Float[Tensor, "head row d_model"],
    ) -> None:
        """From what a layer's live heads read to their excess."""
        rows, block = mixed.block.rows, mixed.block
        inverse, weights = self._block(layer).norm.inverse(x), self._weights(layer, heads)
        plain = torch.cat(
            [_product(part, W) for part, (W, _) in zip(x.chunk(3), weights, strict=True)]
        ).mul_(inverse)
        biased = [
            part if b is None else part + b.unsqueeze(1)
            for part, (_, b) in zip(plain.chunk(3), weights, strict=True)
        ]
        clean_k, clean_v = block.keys[layer][heads], block.values[layer][heads]
        q = rows.put(rotate(biased[0], block.rotary), torch.zeros_like(clean_k))
        k, v = rows.put(rotate(biased[1], block.rotary), clean_k), rows.put(biased[2], clean_v)
        ran = self._block(layer).attention.run(q, k, v)
        mixed.heads[layer] = _Heads(q, k, v, ran.pattern, ran.z, inverse, plain)
        torch.bmm(rows.take(ran.z) - block.z[layer][heads], _of(self._writes[layer], heads), out=written)

    # backwards

    def gradient(self, mixed: Mixed, slope: Float[Tensor, "prompt d_model"]) -> Shares:
        """The gradient of the objective's sum with respect to each share, where it is wanted (0 elsewhere).

        ``slope`` is that with respect to what the logits read. What receivers read is lost.
        """
        slope = self._centre(slope)
        self._to_reads(mixed, slope)
        return self._contract(mixed, slope)

    def gradient_read(
        self, mixed: Mixed, slope: Float[Tensor, "prompt d_model"]
    ) -> Float[Tensor, "receiver d_model"]:
        """The gradient of the objective's sum at what each receiver reads, summed over prompts and
        positions; float64, on the CPU. A receiver that no kept path leads on from has none. What
        receivers read is lost."""
        slope = self._centre(slope)
        self._to_reads(mixed, slope)
        read = torch.zeros(len(mixed.plan.wanted), slope.shape[-1], dtype=torch.float64)
        for row, x in zip(
            mixed.plan.rows.tolist(), mixed.receivers, strict=True
        ):  # a copy in float64 one at a time
            read[row] = self._centre(x.double().sum(0)).cpu()
        read[-1] = slope.double().sum(0).cpu()
        return read

    def _to_reads(self, mixed: Mixed, slope: Float[Tensor, "prompt d_model"]) -> None:
        """Put the gradients at what all live receivers but the logits read in the place of that."""
        senders = mixed.excess[BASES:]
        given = mixed.workspace.take("given", senders.shape, senders).zero_()
        given[:, mixed.block.rows.ends] = mixed.plan.final[:, None, None] * slope
        for layer, todo in reversed(list(enumerate(mixed.plan.layers))):
            if todo.rows:
                self._layer_to_reads(layer, todo, mixed, given)

    def _layer_to_reads(
        self, layer: int, todo: LayerPlan, mixed: Mixed, given: Float[Tensor, "live row d_model"]
    ) -> None:
        """Put the gradients at what a layer's receivers read in the place of that, and add to what
        earlier senders are ``given``: the gradients at their excess."""
        x, n_heads = mixed.receivers[todo.place : todo.place + len(todo.rows)], len(todo.heads)
        heads = given[todo.sender : todo.sender + n_heads]
        if todo.has_mlp:
            arrived = self._centre(given[todo.sender + n_heads].unsqueeze(0))
            x[-1:] = self._back_mlp(layer, mixed.mlps.pop(layer), arrived)
            heads.addcmul_(todo.own[:, None, None], x[-1:])
        if todo.heads:
            self._heads_to_reads(layer, todo.heads, mixed, heads, x[: len(SLOTS) * n_heads])
        given[: todo.sender].flatten(1).addmm_(todo.reads[:, BASES:].T, x.flatten(1))

    def _heads_to_reads(
        self,
        layer: int,
        heads: list[int],
        mixed: Mixed,
        given: Float[Tensor, "head row d_model"],
        x: Float[Tensor, "receiver row d_model"],
    ) -> None:
        """The gradient at a norm's input is W g / length - x (W g . x) / length^3 d_model, at the
        queries' g say.
        """
        block, ran = mixed.block, mixed.heads.pop(layer)
        z = torch.bmm(given, _of(self._writes[layer], heads).transpose(1, 2))
        z = block.rows.put(z, torch.zeros_like(ran.z))
        found = self._block(layer).attention.backward(ran, z, keep_pattern=False)
        q, k, v = (block.rows.take(part) * block.real_rows for part in (found.q, found.k, found.v))
        back = turned_back(block.rotary)
        slots = torch.cat((rotate(q, back), rotate(k, back), v)).mul_(ran.inverse)
        x.mul_((slots * ran.plain).sum(-1, keepdim=True).mul_(ran.inverse).div_(-x.shape[-1]))
        for part, slot, (W, _) in zip(
            x.chunk(3), slots.chunk(3), self._weights(layer, heads), strict=True
        ):
            grouped = part.view(len(W), -1, part.shape[-1])
            grouped.baddbmm_(slot.reshape(len(W), -1, slot.shape[-1]), W.transpose(1, 2))

    def _contract(self, mixed: Mixed, slope: Float[Tensor, "prompt d_model"]) -> Shares:
        """Each live receiver's gradient times each live sender's excess."""
        plan, dtype = mixed.plan, torch.promote_types(mixed.excess.dtype, torch.float32)
        excess, ends = mixed.excess[BASES:], mixed.block.rows.ends
        live = torch.zeros(len(plan.rows) + 1, len(plan.senders), dtype=dtype, device=excess.device)
        live[-1] = excess[:, ends].flatten(1).to(dtype) @ slope.flatten().to(dtype)
        for place, n_read, n_rows in self._groups(plan):
            left, right = mixed.receivers[place : place + n_rows], excess[:n_read]
            live[place : place + n_rows, :n_read] = (
                left.flatten(1).to(dtype) @ right.flatten(1).to(dtype).T
            )
        gradient = torch.zeros(plan.wanted.shape, dtype=dtype)
        rows = torch.cat((plan.rows, torch.tensor([len(gradient) - 1])))
        gradient[rows.unsqueeze(1), plan.senders] = live.cpu()
        return gradient * plan.wanted

    def _groups(self, plan: Plan) -> Iterator[tuple[int, int, int]]:
        """Live receivers that stand together, about RECEIVERS: the place of the first, how many
        live senders they read at most, and how many they are."""
        place = n_rows = 0
        for todo in plan.layers:
            n_rows += len(todo.rows)
            is_last = todo is plan.layers[-1]
            if n_rows >= RECEIVERS or (is_last and n_rows):
                yield place, todo.sender + len(todo.heads), n_rows
                place, n_rows = place + n_rows, 0

    def _weights(self, layer: int, heads: list[int]) -> list[tuple[Tensor, Tensor | None]]:
        """Weights and bias of these heads' q, k and v; where all are live, the weights of each
        key/value head once.
        """
        weights, architecture = self.model.layers[layer], self.model.architecture
        own = kv_heads(architecture, heads)
        pairs = (
            (weights.W_Q, weights.b_Q, heads),
            (weights.W_K, weights.b_K, own),
            (weights.W_V, weights.b_V, own),
        )
        is_all = len(heads) == architecture.n_heads
        return [(W if is_all else W[index], None if b is None else b[index]) for W, b, index in pairs]


def _of(W: Float[Tensor, "head i o"], heads: list[int]) -> Float[Tensor, "live i o"]:
    return W if len(heads) == len(W) else W[heads]


def _product(
    x: Float[Tensor, "head row i"], W: Float[Tensor, "group i o"]
) -> Float[Tensor, "head row o"]:
    """Each head's rows times its weights, which neighbouring heads may share."""
    return torch.bmm(x.reshape(len(W), -1, x.shape[-1]), W).reshape(*x.shape[:-1], W.shape[-1])
