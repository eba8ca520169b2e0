"""Gradients at every receiver's input, and what they make of the senders' changes: the scores of
all edges at once.

A layer's gradients are held at its queries, keys and values, d_head wide, and summed over runs
there. Only ``contract`` brings them to the d_model of what each head's inputs read, once however
many runs there were. For a norm n = x / |x| (and x less its mean, in a LayerNorm) of inverse scale
i, a head's gradient at x is

    i (W g - n <n, W g> / d_model), where <n, W g> = <n W, g> is a product of d_head numbers,

g being the gradient at its q, k or v and W the projection (its columns less their mean, in a
LayerNorm). So W applies to the sum of i g over runs, and each run adds no more than a multiple of
its n.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitfind.circuits.layout import Layout
from circuitfind.models.components import CALCULUS, Rules
from circuitfind.models.transformer import Transformer, kv_heads
from circuitfind.patching.gradients.sweep import (
    Collector,
    HeadsGradient,
    HeadsRun,
    PerHead,
    Stream,
)

T = TypeVar("T")
RECEIVERS = 96
"""How many receivers' gradients meet the senders' changes in one product: with fewer it waits for
memory, and with more it multiplies more of what no edge needs."""
Places = Sequence[Sequence[slice | Int[Tensor, " _"]]]
"""For each prompt, the positions of each role that count; one span where there are no roles."""


class Gradients(Collector):
    """Gradients at receivers' inputs, summed over runs; a stage that no run has come through has none.

    With ``at_patterns`` heads have those at their v inputs alone, and in place of those at q and k
    ``patterns``: for each layer the gradients at its patterns, less their mean under the pattern,
    of the last run.
    """

    def __init__(self, model: Transformer, rules: Rules = CALCULUS, at_patterns: bool = False) -> None:
        self._model = model
        self._frozen_norms = rules.frozen_norms
        self._at_patterns = at_patterns
        self.patterns: dict[int, Float[Tensor, "head prompt pos key"]] = {}
        self._slots: dict[int, list[PerHead]] = {}
        self._norms: dict[int, list[tuple[Stream, Float[Tensor, "receiver prompt pos 1"]]]] = {}
        self._mlps: dict[int, Stream] = {}
        self._final: Stream | None = None

    def add_heads(self, layer: int, ran: HeadsRun, found: HeadsGradient, weight: float) -> None:
        """The gradients within each head of a layer."""
        if self._at_patterns:
            self.patterns[layer] = found.pattern * weight
        scale = ran.normed.inverse * weight
        scaled = [x * scale for x in self._kept(found.slots)]
        if not self._frozen_norms:
            along = [
                (x * plain.repeat_interleave(len(x) // len(plain), dim=0)).sum(-1, keepdim=True)
                for x, plain in zip(scaled, self._kept(ran.plain), strict=True)
            ]
            self._norms.setdefault(layer, []).append(
                (ran.normed.out, torch.cat(along) / ran.normed.out.shape[-1])
            )
        if layer in self._slots:
            for total, x in zip(self._slots[layer], scaled, strict=True):
                total.add_(x)
        else:
            self._slots[layer] = scaled

    def add_mlp(self, layer: int, gradient: Stream, weight: float) -> None:
        """The gradient at what an MLP reads."""
        if layer in self._mlps:
            self._mlps[layer].add_(gradient, alpha=weight)
        else:
            self._mlps[layer] = gradient * weight

    def add_final(self, gradient: Stream, weight: float = 1.0) -> None:
        """The gradient at what the logits read."""
        self._final = (
            gradient * weight if self._final is None else self._final.add_(gradient, alpha=weight)
        )

    def has(self, stage: int) -> bool:
        """Whether a run has come through the stage; the one behind the last is the logits."""
        if stage == 2 * self._model.architecture.n_layers:
            return self._final is not None
        return stage // 2 in (self._mlps if stage % 2 else self._slots)

    def stack(self, stages: Sequence[int], like: Stream) -> Float[Tensor, "receiver prompt pos d_model"]:
        """The gradients at the inputs of stages that have some, one stage after the other."""
        n_slots = (1 if self._at_patterns else 3) * self._model.architecture.n_heads
        logits = 2 * self._model.architecture.n_layers
        counts = [1 if stage % 2 or stage == logits else n_slots for stage in stages]
        stacked = like.new_empty(sum(counts), *like.shape)
        for stage, part in zip(stages, torch.split(stacked, counts), strict=True):
            self._write(stage, part)
        return stacked

    def _kept(self, slots: tuple[T, T, T]) -> tuple[T, ...]:
        return slots[2:] if self._at_patterns else slots

    def _write(self, stage: int, to: Float[Tensor, "receiver prompt pos d_model"]) -> None:
        if stage == 2 * self._model.architecture.n_layers:
            assert self._final is not None
            to[0] = self._final
        elif stage % 2:
            to[0] = self._mlps[stage // 2]
        else:
            self._write_heads(stage // 2, to)

    def _write_heads(self, layer: int, to: Float[Tensor, "receiver prompt pos d_model"]) -> None:
        architecture, weights = self._model.architecture, self._model.layers[layer]
        own = kv_heads(architecture, range(architecture.n_heads))
        reads = self._kept((weights.W_Q, weights.W_K[own], weights.W_V[own]))
        for x, W, part in zip(
            self._slots[layer], reads, torch.split(to, architecture.n_heads), strict=True
        ):
            centred = architecture.blocks[layer].norm.centre(W, dim=-2)
            torch.bmm(x.flatten(1, 2), centred.transpose(1, 2), out=part.flatten(1, 2))
        for normed, along in self._norms.get(layer, ()):
            to.addcmul_(normed, along, value=-1)


def contract(
    gradients: Gradients,
    layout: Layout,
    change: Float[Tensor, "sender prompt pos d_model"],
    places: Places,
) -> Float[Tensor, "prompt role receiver sender"]:
    """Each receiver's gradient times each readable sender's change, over each prompt's positions of
    each role.

    0 where there is no gradient; what stands where the graph has no edge means nothing.
    """
    dtype = torch.promote_types(change.dtype, torch.float32)
    shape = (change.shape[1], len(places[0]), layout.rows(layout.n_stages - 1).stop, len(change))
    scores = torch.zeros(shape, dtype=dtype, device=change.device)
    for stages in _groups([stage for stage in range(layout.n_stages) if gradients.has(stage)], layout):
        first, last = layout.rows(stages[0]).start, layout.rows(stages[-1]).stop
        n_readable = max(map(layout.n_readable, stages))
        gradient = gradients.stack(stages, change[0])
        scores[:, :, first:last, :n_readable] = multiply(gradient, change[:n_readable], places)
    return scores


def multiply(
    gradient: Float[Tensor, "receiver prompt pos d_model"],
    change: Float[Tensor, "sender prompt pos d_model"],
    places: Places,
) -> Float[Tensor, "prompt role receiver sender"]:
    """Each gradient times each change, summed over each prompt's positions of each role, in float32
    or better.
    """
    dtype = torch.promote_types(change.dtype, torch.float32)

    def product(prompt: int, positions: slice | Int[Tensor, " _"]) -> Float[Tensor, "receiver sender"]:
        left, right = (x[:, prompt, positions].flatten(1).to(dtype) for x in (gradient, change))
        return left @ right.T

    return torch.stack(
        [
            torch.stack([product(prompt, of_role) for of_role in roles])
            for prompt, roles in enumerate(places)
        ]
    )


def _groups(stages: Sequence[int], layout: Layout) -> Iterator[list[int]]:
    """The stages, from the first to the last without a gap, in groups of about RECEIVERS receivers."""
    group: list[int] = []
    for stage in stages:
        group.append(stage)
        if layout.rows(stage).stop - layout.rows(group[0]).start >= RECEIVERS:
            yield group
            group = []
    if group:
        yield group
