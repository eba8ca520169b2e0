"""Attribution patching that sees through saturated attention and cancelling effects (AtP*, arXiv:2403.00745).

As ``eap``, with two repairs:

- the QK fix. Where a softmax is saturated, its gradient says nothing of what a query or key does.
  So the change of the attention pattern is computed as it is: score(u -> head's q) = sum over
  queries and keys of (pattern when u's edge alone is ablated - clean pattern) . gradient at the
  pattern. Only what comes behind the pattern is linear. The paper patches a whole query, or the key
  of one position; an edge here carries one sender's part of all positions (with roles: of all of a
  role's), and so is ablated in all of them at once. The norm before the head is that of the mixed
  input, never frozen. Edges into v, an MLP and the logits score as in eap, and gradients go back
  through the softmax as in eap too. So of the roles' scores those into a k do not sum to the score
  without roles, all others do.
- GradDrop, against direct and indirect effects that cancel: one pass for each layer, in which no
  gradient goes back through this layer's heads and MLP. The paper's node scores the sum of its
  absolute scores in all L passes over L - 1, for in its own layer's pass it scores 0. Likewise an
  edge by its receiver's layer: its score is the mean of the absolute scores in the passes that
  leave its receiver in; for the logits these are all. It is never negative.

Where edges are scored together (``circuits/units.py``) their scores are added up in each pass, with
their signs, and the size of the sum counts. For a node that is the paper's own score: all passes
but that of its own layer, for the input all.

How a score between query and key moves is computed without the senders' changes being projected to
queries and keys: it is the change itself times a vector of d_model, of which each position of a
head has one for each key it sees, and each query it is seen from. Fewer than d_head of those make
it the shorter way. With n = i c(x) the norm's output, c taking the mean away in a LayerNorm and i
the inverse scale, w such a vector, b the bias's part of the score:

    score' = b + (i' / i) (n . w + i c(change) . w), (i / i')² = 1 + 2 i mean(n change) + i²
    mean(c(change)²).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from circuitfind.circuits.layout import Layout
from circuitfind.circuits.units import KvName, LevelName, Units, summed, without_defaults
from circuitfind.errors import UsageError
from circuitfind.methods.attribution.eap import AtCleanRun, Block, ByRole, Tell
from circuitfind.methods.method import Job
from circuitfind.models.components import Attention, Norm, causal, rotate, turned_back
from circuitfind.models.transformer import Transformer, kv_heads, rotary_table
from circuitfind.patching.gradients.edges import Gradients, multiply
from circuitfind.patching.gradients.sweep import HeadsRun, Sweeper
from circuitfind.patching.problem import Problem

SCORES = 2**24
"""How many attention scores, between queries and keys of all heads and senders, are held at once."""


@dataclass(frozen=True)
class AtP(AtCleanRun):
    """The gradient in the clean run, repaired. ``qk_fix``: exact patterns; ``grad_drop``: a pass
    without each layer.
    """

    qk_fix: bool = True
    grad_drop: bool = False
    level: LevelName = "edge"
    kv: KvName = "per-head"
    name: ClassVar[str] = "atp"

    def to_dict(self) -> dict[str, Any]:
        score = "(ablated - clean) . gradient, into q and k that of attention patterns"
        if not self.qk_fix:
            score = "(ablated - clean) . gradient"
        score += summed(self.level, self.kv)
        meaning = f"{score}: positive if ablation hurts"
        if self.grad_drop:
            meaning = f"mean |{score}| as each layer is dropped: never negative"
        return without_defaults(super().to_dict() | {"score": meaning})

    def score(self, problem: Problem, job: Job = Job()) -> Float[Tensor, "prompt receiver sender"]:
        """The score of every edge, or of its unit, on each prompt, as every ``Attribution``'s."""
        scores = super().score(problem, job)
        return scores if self.grad_drop else problem.units(self.level, self.kv).sum(scores)

    def _check(self, model: Transformer) -> None:
        if self.grad_drop and model.architecture.n_layers < 2:
            raise UsageError(
                f"--grad-drop drops one layer after the other, and {model.architecture.name} has 1 layer:"
                " nothing would be left.\nLeave out --grad-drop."
            )

    def _n_sweeps(self, sweeper: Sweeper) -> int:
        return sweeper.model.architecture.n_layers

    def _score(self, block: Block, tell: Tell) -> ByRole:
        layout = block.sweeper.layout
        units = Units.of(
            block.sweeper.model.architecture.graph,
            block.sweeper.model.architecture.n_kv_heads,
            self.level,
            self.kv,
        )
        into_logits = multiply(block.slope(block.clean).unsqueeze(0), block.change, block.places)
        scores = into_logits.new_zeros(*into_logits.shape[:2], *units.edges.shape)
        if self.grad_drop and self.level == "node":  # where positions are not told apart
            of_nodes = _NodePasses(units, into_logits[:, 0])
            for layer, passes in self._passes(block, tell):
                of_nodes.add(layer, passes[:, 0])
            return of_nodes.scores()[:, None, None].expand_as(scores).to(scores.dtype)
        scores[..., -1:, :] = into_logits.abs() if self.grad_drop else into_logits
        for layer, passes in self._passes(block, tell):
            rows = slice(layout.row(layer, 0), layout.row(layer + 1, 0))
            together = _together(passes, units.leader[rows, 0]) if self.grad_drop else passes
            scores[..., rows, : passes.shape[-1]] = self._over_passes(together, layer)
        return scores

    def _passes(
        self, block: Block, tell: Tell
    ) -> Iterator[tuple[int, Float[Tensor, "prompt role pass receiver readable"]]]:
        """The scores of all edges into each layer in each pass, from the last layer to the first."""
        sweeper = block.sweeper
        gradients = [block.slope(block.clean)]  # the true one, then one for each layer that was dropped
        spread = sweeper.model.architecture.blocks[0].norm.spread(block.change)
        for layer in reversed(range(sweeper.layout.graph.n_layers)):
            past = gradients[0]
            found = [Gradients(sweeper.model, at_patterns=self.qk_fix) for _ in gradients]
            gradients = [
                sweeper.sweep(block.clean, gradient, into, *_steps(sweeper, layer))
                for gradient, into in zip(gradients, found, strict=True)
            ]
            if self.grad_drop:
                gradients.append(past)
            yield layer, self._of_layer(block, layer, found, spread)
            tell()

    def _of_layer(
        self,
        block: Block,
        layer: int,
        found: Sequence[Gradients],
        spread: Float[Tensor, "sender prompt pos"],
    ) -> Float[Tensor, "prompt role pass receiver readable"]:
        """The scores of all edges into a layer in each pass; ``readable``: the senders that its MLP reads."""
        heads, mlp = block.sweeper.layout.graph.layer(layer)
        n_readable, n_earlier = mlp.n_readable, heads.n_readable
        stages = (heads.number, mlp.number)
        rows = torch.cat([gradients.stack(stages, block.stream) for gradients in found])
        products = multiply(rows, block.change[:n_readable], block.places)
        products = products.reshape(*products.shape[:2], len(found), -1, n_readable)
        if not self.qk_fix:
            return products
        patterns = torch.stack([gradients.patterns[layer] for gradients in found])
        effects = _effects(block, layer, patterns, spread[:n_earlier])
        return torch.cat((functional.pad(effects, (0, n_readable - n_earlier)), products), dim=3)

    def _over_passes(
        self, scores: Float[Tensor, "prompt role pass receiver sender"], layer: int
    ) -> ByRole:
        """One score of those in all passes: the first as if no layer were dropped, each other with
        a later one dropped.

        What is dropped before a receiver doesn't matter to it: the first pass stands for ``layer``
        others.
        """
        if not self.grad_drop:
            return scores[:, :, 0]
        total = scores.abs()
        return (layer * total[:, :, 0] + total[:, :, 1:].sum(2)) / (layer + total.shape[2] - 1)


def _together(
    passes: Float[Tensor, "prompt role pass receiver sender"], leader: Int[Tensor, " receiver"]
) -> Float[Tensor, "prompt role pass receiver sender"]:
    """Every receiver with the sum over those of the same leader."""
    if len(set(leader.tolist())) == len(leader):
        return passes
    same = (leader == leader.unsqueeze(1)).to(passes)
    return torch.einsum("rs,bopsn->boprn", same, passes)


class _NodePasses:
    """What each sender scores in the pass that drops each layer: the sum over the edges that leave
    it, which is 0 over those into that layer."""

    def __init__(self, units: Units, into_logits: Float[Tensor, "prompt 1 sender"]) -> None:
        self._units, self._layout = units, Layout(units.graph)
        self._totals: Float[Tensor, "prompt layer sender"] = into_logits.double().repeat(
            1, units.graph.n_layers, 1
        )

    def add(self, layer: int, passes: Float[Tensor, "prompt pass receiver readable"]) -> None:
        """Add the edges into a layer. The first pass drops nothing behind it, the others its later
        layers, from the last: the first stands for those that drop an earlier one."""
        rows, n_senders = (
            slice(self._layout.row(layer, 0), self._layout.row(layer + 1, 0)),
            passes.shape[3],
        )
        edges = self._units.edges[rows, :n_senders].to(passes.device)
        sums = passes.double().masked_fill(~edges, 0.0).sum(2)
        self._totals[:, :layer, :n_senders] += sums[:, :1]
        self._totals[:, layer + 1 :, :n_senders] += sums[:, 1:].flip(1)

    def scores(self) -> Float[Tensor, "prompt sender"]:
        """The mean size over the passes that do not drop a sender's own layer."""
        layers = torch.tensor(
            [node.layer for node in self._units.graph.senders], device=self._totals.device
        )
        counts = layers != torch.arange(self._units.graph.n_layers, device=layers.device).unsqueeze(1)
        return (self._totals.abs() * counts).sum(1) / counts.sum(0)


def _steps(sweeper: Sweeper, layer: int) -> tuple[int, int]:
    """The first step of a layer and that of the next."""
    n_each = len(sweeper.steps) // sweeper.model.architecture.n_layers
    return layer * n_each, (layer + 1) * n_each


@dataclass(frozen=True)
class _Slot:
    """The queries or keys of a layer's heads, the keys' once for each query head.

    ``W`` and ``b`` make them of what the norm puts out; ``plain`` ones lack bias and rotation,
    ``full`` ones have both. Before the block's first position there are only full keys.
    """

    W: Float[Tensor, "head d_head d_model"]
    b: Float[Tensor, "head d_head"] | None
    plain: Float[Tensor, "head pos d_head"]
    full: Float[Tensor, "head key d_head"]

    def read(
        self, position: int, others: Float[Tensor, "head other d_head"]
    ) -> tuple[Float[Tensor, "wide d_model"], Float[Tensor, "wide 1"], Float[Tensor, "wide 1"]]:
        """What a normed stream at ``position`` is multiplied by to give the scores with ``others``,
        turned as if it stood at 0; those of the run without the bias; the bias's part."""
        rows = (others @ self.W).flatten(0, 1)
        plain = (others @ self.plain[:, position].unsqueeze(-1)).flatten(0, 1)
        bias = (
            torch.zeros_like(plain) if self.b is None else (others @ self.b.unsqueeze(-1)).flatten(0, 1)
        )
        return rows, plain, bias


@dataclass(frozen=True)
class _Attention:
    """A layer's attention in one prompt: how its scores depend on what its heads read.

    Queries, the norm's output and its inverse scale, and ``table``, cosine and sine, begin at the
    block's first position; keys ``n_before`` positions before.
    """

    q: _Slot
    k: _Slot
    normed: Float[Tensor, "pos d_model"]
    inverse: Float[Tensor, "pos 1"]
    table: tuple[Tensor, Tensor] | None
    attention: Attention
    norm: Norm

    @property
    def n_before(self) -> int:
        return self.k.full.shape[1] - self.q.full.shape[1]

    def patterns(
        self,
        change: Float[Tensor, "sender pos d_model"],
        spread: Float[Tensor, "sender pos"],
        span: tuple[int, int],
        places: Sequence[slice | Int[Tensor, " _"]],
    ) -> tuple[Float[Tensor, "head query key sender"], list[Float[Tensor, "head query key sender"]]]:
        """The patterns of the span's queries when each sender's edge into q is ablated, and for
        each role when that into k is ablated at its places.

        A query's row depends on no other query, so that of q one pattern serves all roles.
        """
        start, stop = span
        clean = self._clean_scores(start, stop).unsqueeze(-1)
        of_q = clean.repeat(1, 1, 1, len(change))
        of_k: list[Tensor] = [clean.repeat(1, 1, 1, len(change)) for _ in places]
        roles = _role_of_each(span, places)
        for position in range(start, stop):
            key = self.n_before + position
            moved_q, moved_k = self._moved_scores(
                change[:, position], spread[:, position], position, stop
            )
            of_q[:, position - start, : key + 1] = moved_q
            of_k[roles[position - start]][:, position - start :, key] = moved_k
        weigh = self.attention.weigh
        return weigh(of_q, 2), [
            weigh(scores, 2) for scores in of_k
        ]  # not innermost: several times as fast

    def _clean_scores(self, start: int, stop: int) -> Float[Tensor, "head query key"]:
        products = self.q.full[:, start:stop] @ self.k.full.transpose(-1, -2)
        seen = causal(stop - start, products.shape[-1], self.n_before + start, products.device)
        return self.attention.scores(products, seen)

    def _moved_scores(
        self,
        change: Float[Tensor, "sender d_model"],
        spread: Float[Tensor, " sender"],
        position: int,
        stop: int,
    ) -> tuple[Float[Tensor, "head seen sender"], Float[Tensor, "head seeing sender"]]:
        """The scores of each head's query at ``position`` with the keys that it sees, and of its
        key there with the queries that see it, as what they read is changed."""
        seen, seeing = self.k.full[:, : self.n_before + position + 1], self.q.full[:, position:stop]
        table = None if self.table is None else (self.table[0][position], self.table[1][position])
        turn = turned_back(table)
        both = [
            slot.read(position, rotate(others, turn) * self.attention.scale)
            for slot, others in ((self.q, seen), (self.k, seeing))
        ]
        inverse = self.inverse[position]
        vectors = torch.cat((both[0][0], both[1][0], self.normed[position : position + 1]))
        products = (vectors @ change.T).mul_(inverse)
        along = products[-1] / change.shape[-1]
        ratio = self.norm.rescaled(inverse, along, spread)
        parts = torch.split(products[:-1], [len(rows) for rows, _, _ in both])
        moved_q, moved_k = (
            part.add_(plain).mul_(ratio).add_(bias).reshape(len(self.q.full), -1, len(change))
            for part, (_, plain, bias) in zip(parts, both, strict=True)
        )
        return moved_q, moved_k


def _role_of_each(span: tuple[int, int], places: Sequence[slice | Int[Tensor, " _"]]) -> list[int]:
    """The number of the role of each position of a span; each has one."""
    start, stop = span
    roles = torch.zeros(stop, dtype=torch.long)
    for number, of_role in enumerate(places):
        roles[of_role if isinstance(of_role, slice) else of_role.cpu()] = number
    return roles[start:].tolist()


Weights = tuple[Float[Tensor, "head d_head d_model"], Float[Tensor, "head d_head"] | None]


def _weights(model: Transformer, layer: int, dtype: torch.dtype) -> tuple[Weights, Weights]:
    """What makes a layer's queries and keys, the latter once for each query head."""
    architecture, weights = model.architecture, model.layers[layer]
    own, norm = kv_heads(architecture, range(architecture.n_heads)), architecture.blocks[layer].norm
    b_K = None if weights.b_K is None else weights.b_K[own]

    def prepared(W: Tensor, b: Tensor | None) -> Weights:
        turned = norm.centre(W, dim=-2).transpose(1, 2).to(dtype).contiguous()
        return turned, None if b is None else b.to(dtype)

    return prepared(weights.W_Q, weights.b_Q), prepared(weights.W_K[own], b_K)


def _attention(
    model: Transformer, layer: int, ran: HeadsRun, prompt: int, weights: tuple[Weights, Weights]
) -> _Attention:
    (W_Q, b_Q), (W_K, b_K) = weights
    n_keys, n_pos, block = ran.k.shape[2], ran.q.shape[2], model.architecture.blocks[layer]
    plain_k = ran.plain[1][kv_heads(model.architecture, range(len(W_Q))), prompt]
    return _Attention(
        _Slot(W_Q, b_Q, ran.plain[0][:, prompt].to(W_Q.dtype), ran.q[:, prompt].to(W_Q.dtype)),
        _Slot(W_K, b_K, plain_k.to(W_Q.dtype), ran.k[:, prompt].to(W_Q.dtype)),
        ran.normed.out[prompt].to(W_Q.dtype),
        ran.normed.inverse[prompt].to(W_Q.dtype),
        rotary_table(model, torch.arange(n_keys - n_pos, n_keys, device=model.device)),
        block.attention,
        block.norm,
    )


def _effects(
    block: Block,
    layer: int,
    gradients: Float[Tensor, "pass head prompt pos key"],
    spread: Float[Tensor, "sender prompt pos"],
) -> Float[Tensor, "prompt role pass receiver sender"]:
    """What ablating each sender's edge into each head's q, then into each k, at each role does to
    the pattern, times the gradient there."""
    model, ran = block.sweeper.model, block.clean.stages[2 * layer]
    assert isinstance(ran, HeadsRun)
    dtype = torch.promote_types(gradients.dtype, torch.float32)
    weights, found = _weights(model, layer, dtype), []
    for prompt, (span, places) in enumerate(zip(block.spans, block.places, strict=True)):
        attention = _attention(model, layer, ran, prompt, weights)
        at_pattern = gradients[:, :, prompt, slice(*span)].transpose(0, 1).to(dtype)
        change = block.change[: len(spread), prompt].to(dtype)
        at_once = max(1, SCORES // ((1 + len(places)) * len(at_pattern) * at_pattern[0, 0].numel()))
        of_senders = [
            _at_roles(at_pattern, *attention.patterns(*some, span, places), span, places)
            for some in zip(
                torch.split(change, at_once),
                torch.split(spread[:, prompt].to(dtype), at_once),
                strict=True,
            )
        ]
        found.append(torch.cat(of_senders, dim=-1))
    return torch.stack(found)


def _at_roles(
    gradient: Float[Tensor, "head pass query key"],
    of_q: Float[Tensor, "head query key sender"],
    of_k: Sequence[Float[Tensor, "head query key sender"]],
    span: tuple[int, int],
    places: Sequence[slice | Int[Tensor, " _"]],
) -> Float[Tensor, "role pass receiver sender"]:
    """The gradient at the patterns times them: of q the queries of each role, of k the patterns of
    each role.
    """
    each = []
    for of_role, pattern in zip(places, of_k, strict=True):
        rows = slice(None) if isinstance(of_role, slice) else of_role - span[0]
        to_q = gradient[:, :, rows].flatten(2) @ of_q[:, rows].flatten(1, 2)
        to_k = gradient.flatten(2) @ pattern.flatten(1, 2)
        each.append(torch.cat((to_q, to_k)).transpose(0, 1))
    return torch.stack(each)
