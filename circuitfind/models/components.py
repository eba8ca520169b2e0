"""What a transformer is made of, each part written once: norm, rotation, attention, MLP, and the readout.

A component has a ``forward``, and a ``backward`` that is autograd's by default. Where it writes its own,
for speed or for other ``Rules`` than those of calculus, that goes back from what its ``run`` keeps; a test
holds it to autograd's. Which components a block has, and how they are set, is data: ``BlockSpec``. Weights
are handed in.

Letters in shapes: as in ``models/transformer.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from circuitfind.errors import ModelError
from circuitfind.models.packed import PackedMlp, product
from circuitfind.models.sizes import MOST_SCORES

Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]
PerQuery = Float[Tensor, "*batch query d_head"]
PerKey = Float[Tensor, "*batch key d_head"]
Pattern = Float[Tensor, "*batch query key"]


@dataclass(frozen=True)
class Rules:
    """How the parts of a model that aren't linear pass a gradient on; left alone, as calculus has it.

    ``frozen_norms``: a norm multiplies by a constant, the inverse scale of the run.
    ``frozen_patterns``: who attends to whom is constant, so that nothing goes back to queries and
    keys. ``temperature``: a softmax passes it as it would if its scores were divided by so much,
    but for the factor 1 / temperature itself. ``activation_ratios``: an activation f multiplies by
    the constant f(x) / x. ``gate_share``: how much of the gradient at their product each of the two
    factors of a gated hidden layer gets; ``attention_share``: likewise of pattern and value, query
    and key.
    """

    frozen_norms: bool = False
    frozen_patterns: bool = False
    temperature: float = 1.0
    activation_ratios: bool = False
    gate_share: float = 1.0
    attention_share: float = 1.0


CALCULUS = Rules()


def autograd_backward(
    forward: Callable[..., Tensor], inputs: tuple[Any, ...], gradient: Tensor
) -> tuple[Tensor, ...]:
    """The gradient at each input that is a tensor of floats, from that at the output of ``forward``."""
    places = [i for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.is_floating_point()]

    def of_floats(*floats: Tensor) -> Tensor:
        given = dict(zip(places, floats, strict=True))
        return forward(*(given.get(i, x) for i, x in enumerate(inputs)))

    back = torch.func.vjp(of_floats, *(inputs[i] for i in places))[1]
    arrived: tuple[Tensor, ...] = back(gradient)
    return arrived


@dataclass(frozen=True)
class Ran:
    """What a component without a backward of its own keeps of a run."""

    inputs: tuple[Any, ...]
    out: Tensor


class Component:
    """A differentiable function of tensors. A subclass writes ``forward``, and may ``backward``."""

    def forward(self, *inputs: Any, **options: Any) -> Tensor:
        raise NotImplementedError

    def run(self, *inputs: Any, **options: Any) -> Any:
        """The output, and what ``backward`` needs of the run."""
        return Ran(inputs, self.forward(*inputs))

    def backward(self, *given: Any, **options: Any) -> Any:
        """The gradient at each input, ``given`` what ``run`` returned and the gradient at the output."""
        ran, gradient = given
        if (rules := options.get("rules", CALCULUS)) != CALCULUS:
            raise ModelError(
                f"{type(self).__name__} passes gradients on by calculus alone, not by {rules}."
                " Use a method without rules of its own, e.g. eap."
            )
        return autograd_backward(self.forward, ran.inputs, gradient)


# norm


@dataclass(frozen=True)
class Normed:
    """A norm's output without gain and bias, and what it has multiplied by."""

    out: Float[Tensor, "*rows d_model"]
    inverse: Float[Tensor, "*rows 1"]


@dataclass(frozen=True)
class Norm(Component):
    """LayerNorm or RMSNorm of the last dimension, without gain and bias."""

    kind: Literal["layer", "rms"]
    eps: float

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "layer":
            return functional.layer_norm(x, x.shape[-1:], eps=self.eps)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)

    def run(self, x: Float[Tensor, "*rows d_model"]) -> Normed:
        if self.kind == "layer":
            out, _, inverse = torch.native_layer_norm(x, x.shape[-1:], None, None, self.eps)
            return Normed(out, inverse)
        inverse = torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        return Normed(x * inverse, inverse)

    def backward(
        self, ran: Normed, gradient: Float[Tensor, "*rows d_model"], rules: Rules = CALCULUS
    ) -> Float[Tensor, "*rows d_model"]:
        along = None if rules.frozen_norms else (gradient * ran.out).mean(-1, keepdim=True)
        if self.kind == "layer":
            gradient = gradient - gradient.mean(-1, keepdim=True)
        if along is None:
            return gradient * ran.inverse
        return torch.addcmul(gradient, ran.out, along, value=-1).mul_(ran.inverse)

    def centre(self, x: Tensor, dim: int = -1) -> Tensor:
        """``x`` as far as the norm reads it: without its mean over ``dim``, if it takes that away."""
        return x - x.mean(dim, keepdim=True) if self.kind == "layer" else x

    def length(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows 1"]:
        """What the norm divides a centred ``x`` by."""
        return (x.square().mean(-1, keepdim=True) + self.eps).sqrt()

    def inverse(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows 1"]:
        """What the norm multiplies a centred ``x`` by; takes no memory of the size of ``x``."""
        inverse: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return inverse.square_().div_(x.shape[-1]).add_(self.eps).rsqrt_()

    def spread(self, change: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows"]:
        """The mean square of each centred change."""
        spread: Tensor = torch.linalg.vector_norm(change, dim=-1).square() / change.shape[-1]
        return spread - change.mean(-1).square() if self.kind == "layer" else spread

    def rescaled(self, inverse: Tensor, along: Tensor, spread: Tensor) -> Tensor:
        """By what factor ``inverse`` grows as the input changes.

        ``along``: the mean product of the norm's output with ``inverse`` times the change; ``spread``: the
        change's.
        """
        grown: Tensor = (1 + 2 * along + inverse**2 * spread).clamp_min(self.eps * inverse**2).rsqrt()
        return grown


# rotation


def rotate(
    x: Float[Tensor, "*rows d_head"], table: tuple[Tensor, Tensor] | None
) -> Float[Tensor, "*rows d_head"]:
    """Rotary position embedding (arXiv:2104.09864) of the first dimensions, in halves as Llama and
    Pythia have it.
    """
    if table is None:
        return x
    cos, sin = table
    turned, passed = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat((-second, first), dim=-1) * sin
    return torch.cat((turned, passed), dim=-1) if passed.shape[-1] else turned


def turned_back(table: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor] | None:
    """The table that takes a gradient back through ``rotate``: a rotation's transpose is its inverse.

    Both halves of a table's row are alike, which makes this exact.
    """
    return None if table is None else (table[0], -table[1])


# attention


def visible(n_pos: int, device: torch.device) -> Bool[Tensor, "pos pos"]:
    """Which key each query may see: itself and what came before."""
    return causal(n_pos, n_pos, 0, device)


def causal(n_query: int, n_key: int, n_before: int, device: torch.device) -> Bool[Tensor, "query key"]:
    """The same where the first query stands behind ``n_before`` keys."""
    return torch.ones(n_query, n_key, dtype=torch.bool, device=device).tril(n_before)


def visible_at_end(end: Int[Tensor, " prompt"], n_pos: int) -> Bool[Tensor, "prompt 1 pos"]:
    """Which key the query at each prompt's answer position may see."""
    return (torch.arange(n_pos, device=end.device) <= end.unsqueeze(1)).unsqueeze(1)


def soften(pattern: Float[Tensor, "*rows key"], temperature: float) -> Float[Tensor, "*rows key"]:
    """What a softmax would put out if its scores were divided by ``temperature``."""
    raised = pattern.pow(1 / temperature)
    return raised / raised.sum(-1, keepdim=True)


@dataclass(frozen=True)
class AttentionRun:
    """What attention keeps of a run: queries and keys rotated; ``z``: what each query gathers."""

    q: PerQuery
    k: PerKey
    v: PerKey
    pattern: Pattern
    z: PerQuery


@dataclass(frozen=True)
class AttentionGradient:
    """The gradients at queries, and at keys and values of the same positions.

    ``pattern``: that at the pattern, less its mean under the pattern, which changes nothing: a row's changes
    sum to 0.
    """

    q: PerQuery
    k: PerQuery
    v: PerQuery
    pattern: Pattern


@dataclass(frozen=True)
class Attention(Component):
    """What queries gather from the values that they may see. ``scale`` multiplies the scores."""

    scale: float

    def forward(
        self, q: PerQuery, k: PerKey, v: PerKey, visible: Bool[Tensor, "*#batch query key"]
    ) -> PerQuery:
        """What each query gathers from the values that it may see.

        Of long prompts the scores of one head (or of whatever comes first) stand in memory at a time.
        """
        batch = q.shape[:-2]
        if len(batch) > 1 and batch.numel() * q.shape[-2] * k.shape[-2] > MOST_SCORES:
            masks = visible.expand(*batch, *visible.shape[-2:])
            return torch.stack([self.forward(*each) for each in zip(q, k, v, masks, strict=True)])
        return self.pattern(q @ k.transpose(-1, -2), visible) @ v

    def scores(self, products: Pattern, visible: Bool[Tensor, "*#batch query key"]) -> Pattern:
        """What the softmax reads, in the place of the products of queries with keys; -inf is out of sight."""
        return products.mul_(self.scale).masked_fill_(~visible, -math.inf)

    def pattern(self, products: Pattern, visible: Bool[Tensor, "*#batch query key"]) -> Pattern:
        """How much each query looks at each key, from their products, whose memory is used."""
        return self.weigh(self.scores(products, visible))

    def weigh(self, scores: Tensor, dim: int = -1) -> Tensor:
        """How much each query looks at each of the keys along ``dim``."""
        return scores.softmax(dim)

    def run(self, q: PerQuery, k: PerKey, v: PerKey) -> AttentionRun:
        """Queries of the last positions of those that have keys."""
        n_query, n_key = q.shape[-2], k.shape[-2]
        pattern = self.pattern(q @ k.transpose(-1, -2), causal(n_query, n_key, n_key - n_query, q.device))
        return AttentionRun(q, k, v, pattern, pattern @ v)

    def backward(
        self, ran: AttentionRun, gradient: PerQuery, rules: Rules = CALCULUS, keep_pattern: bool = True
    ) -> AttentionGradient:
        """The gradients at queries, and at keys and values of positions that have queries, from that at z.

        Without ``keep_pattern`` the gradient at the pattern is lost: that at the scores takes its memory.
        """
        pattern = (gradient @ ran.v.transpose(-1, -2)).sub_((gradient * ran.z).sum(-1, keepdim=True))
        scores = self._to_scores(ran.pattern, pattern, rules, None if keep_pattern else pattern)
        scores.mul_(self.scale * rules.attention_share**2)
        n_before = ran.k.shape[-2] - ran.q.shape[-2]
        v = ran.pattern[..., n_before:].transpose(-1, -2) @ gradient
        if rules.attention_share != 1:
            v.mul_(rules.attention_share)
        return AttentionGradient(
            scores @ ran.k, scores[..., n_before:].transpose(-1, -2) @ ran.q, v, pattern
        )

    def _to_scores(
        self, pattern: Pattern, gradient: Pattern, rules: Rules, out: Tensor | None
    ) -> Pattern:
        """The gradient at the scores, from that at the pattern less its mean under it."""
        if rules.frozen_patterns:
            return torch.zeros_like(gradient)
        if rules.temperature == 1:
            return torch.mul(gradient, pattern, out=out)
        softened = soften(pattern, rules.temperature)
        return (gradient - (gradient * softened).sum(-1, keepdim=True)) * softened


# MLP


@dataclass(frozen=True)
class Layer:
    """One block's weights, as [reads, writes]; the norms before q, k, v and the MLP folded in. A
    bias of 0 is None.

    ``packed``: while a search runs, the MLP's once more, in order for products of few rows
    (``patching/packing.py``).
    """

    W_Q: Float[Tensor, "head d_model d_head"]
    W_K: Float[Tensor, "kv_head d_model d_head"]
    W_V: Float[Tensor, "kv_head d_model d_head"]
    W_O: Float[Tensor, "head d_head d_model"]
    b_Q: Float[Tensor, "head d_head"] | None
    b_K: Float[Tensor, "kv_head d_head"] | None
    b_V: Float[Tensor, "kv_head d_head"] | None
    b_O: Float[Tensor, " d_model"]
    W_in: Float[Tensor, "d_model d_mlp"]
    b_in: Float[Tensor, " d_mlp"] | None
    W_gate: Float[Tensor, "d_model d_mlp"] | None
    b_gate: Float[Tensor, " d_mlp"] | None
    W_out: Float[Tensor, "d_mlp d_model"]
    b_out: Float[Tensor, " d_model"]
    packed: PackedMlp | None = None


def activate(activation: Activation, x: Tensor) -> Tensor:
    """The MLP's nonlinearity, which may take the place of ``x``."""
    if activation == "gelu":
        return functional.gelu(x)
    if activation == "gelu_tanh":
        return functional.gelu(x, approximate="tanh")
    return functional.silu(x, inplace=True) if activation == "silu" else functional.relu(x, inplace=True)


def activate_back(activation: Activation, x: Tensor, gradient: Tensor, rules: Rules = CALCULUS) -> Tensor:
    """The gradient at ``x``, which the activation reads."""
    if rules.activation_ratios:
        return gradient * activation_ratio(activation, x)
    if activation == "relu":
        return gradient * (x > 0)
    if activation == "silu":
        arrived: Tensor = torch.ops.aten.silu_backward(gradient, x)
    elif activation in ("gelu", "gelu_tanh"):
        approximate = "tanh" if activation == "gelu_tanh" else "none"
        arrived = torch.ops.aten.gelu_backward(gradient, x, approximate=approximate)
    else:
        (arrived,) = autograd_backward(lambda x: activate(activation, x.clone()), (x,), gradient)
    return arrived


def activation_ratio(activation: Activation, x: Tensor) -> Tensor:
    """f(x) / x, continued to where x is 0. For ReLU, which has no such limit, it is 0 there."""
    if activation == "relu":
        return (x > 0).to(x.dtype)
    if activation == "silu":
        return x.sigmoid()
    if activation == "gelu":
        below: Tensor = torch.special.ndtr(x)
        return below
    # gelu_tanh is x (1 + tanh u) / 2, and (1 + tanh u) / 2 the logistic function of 2 u
    return torch.sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x**3))


def affine(
    x: Float[Tensor, "row i"],
    W: Float[Tensor, "i o"],
    b: Float[Tensor, " o"] | None,
    packed: Tensor | None = None,
) -> Float[Tensor, "row o"]:
    """x W + b; by ``packed``, the same matrix, where there is one and no gradient is asked for."""
    if packed is not None and not torch.is_grad_enabled():
        return product(x, packed, b)
    return torch.mm(x, W) if b is None else torch.addmm(b, x, W)


@dataclass(frozen=True)
class HiddenRun:
    """What an MLP keeps of a run: its hidden layer and gate before the activation, and what it writes."""

    hidden: Float[Tensor, "row d_mlp"]
    gate: Float[Tensor, "row d_mlp"] | None
    out: Float[Tensor, "row d_model"]


@dataclass(frozen=True)
class Mlp(Component):
    """An MLP behind its norm, without b_out.

    ``gated``: its hidden layer is multiplied by a gate, which is what the activation reads then.
    """

    activation: Activation
    gated: bool = False

    def forward(self, rows: Float[Tensor, "row d_model"], weights: Layer) -> Float[Tensor, "row d_model"]:
        packed = None if weights.packed is None else weights.packed.W_out
        return affine(self.hold(rows, weights), weights.W_out, None, packed)

    def hold(self, rows: Float[Tensor, "row d_model"], weights: Layer) -> Float[Tensor, "row d_mlp"]:
        """What the neurons hold, behind activation and gate."""
        packed_in, packed_gate = (
            (None, None) if (packed := weights.packed) is None else (packed.W_in, packed.W_gate)
        )
        hidden = affine(rows, weights.W_in, weights.b_in, packed_in)
        if not self.gated:
            return activate(self.activation, hidden)
        assert weights.W_gate is not None
        gate = affine(rows, weights.W_gate, weights.b_gate, packed_gate)
        return hidden.mul_(activate(self.activation, gate))

    def run(self, rows: Float[Tensor, "row d_model"], weights: Layer) -> HiddenRun:
        hidden = affine(rows, weights.W_in, weights.b_in)
        gate = None if weights.W_gate is None else affine(rows, weights.W_gate, weights.b_gate)
        return HiddenRun(hidden, gate, self.active(hidden, gate) @ weights.W_out)

    def active(
        self, hidden: Float[Tensor, "row d_mlp"], gate: Float[Tensor, "row d_mlp"] | None
    ) -> Float[Tensor, "row d_mlp"]:
        """What the neurons hold, from what ``run`` keeps."""
        if gate is None:
            return activate(self.activation, hidden.clone())
        return hidden * activate(self.activation, gate.clone())

    def backward(
        self,
        ran: HiddenRun,
        gradient: Float[Tensor, "row d_model"],
        weights: Layer,
        rules: Rules = CALCULUS,
    ) -> Float[Tensor, "row d_model"]:
        active = gradient @ weights.W_out.T
        if ran.gate is None or weights.W_gate is None:
            return activate_back(self.activation, ran.hidden, active, rules) @ weights.W_in.T
        active.mul_(rules.gate_share)
        rows = active * activate(self.activation, ran.gate.clone()) @ weights.W_in.T
        at_gate = activate_back(self.activation, ran.gate, active.mul_(ran.hidden), rules)
        return rows.addmm_(at_gate, weights.W_gate.T)


# blocks and readout, as data


@dataclass(frozen=True)
class BlockSpec:
    """What one block is made of, weights aside.

    ``norm`` stands before attention and before the MLP; ``parallel``: both read the stream before the block.
    ``norm_after`` (of what attention and MLP write), ``norm_qk`` (of queries and keys), ``soft_cap`` (of
    scores) and ``window`` (how many keys a query sees at most) are named so that a block which has them is
    refused: no engine computes them yet.
    """

    norm: Norm
    attention: Attention
    mlp: Mlp
    parallel: bool = False
    norm_after: Norm | None = None
    norm_qk: Norm | None = None
    soft_cap: float | None = None
    window: int | None = None

    def __post_init__(self) -> None:
        for name in ("norm_after", "norm_qk", "soft_cap", "window"):
            if (value := getattr(self, name)) is not None:
                raise ModelError(
                    f"Blocks with {name} = {value} are not supported yet. Use a model whose blocks have none."
                )


@dataclass(frozen=True)
class Readout(Component):
    """What stands behind the last block: a norm with gain and bias, then the unembedding.

    ``linear``: whether logits are linear in the normed stream. KL's dot product and the enclosure of log Z
    rest on that (``metrics/objective.py``), and no other readout is supported yet.
    """

    norm: Norm
    linear: bool = True

    def __post_init__(self) -> None:
        if not self.linear:
            raise ModelError(
                "Logits that are not linear in the normed stream (a final soft cap) are not supported yet."
                " Use a model without one."
            )

    def normed(self, x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        """What the unembedding reads."""
        return self.norm.forward(x.to(gain)) * gain + bias

    def forward(
        self,
        x: Float[Tensor, "*rows d_model"],
        gain: Float[Tensor, " d_model"],
        bias: Float[Tensor, " d_model"],
        W_U: Float[Tensor, "d_model d_vocab"],
        b_U: Float[Tensor, " d_vocab"] | None,
    ) -> Float[Tensor, "*rows d_vocab"]:
        """Logits of the residual stream after the last block."""
        logits = (self.normed(x, gain, bias).reshape(-1, x.shape[-1]) @ W_U).reshape(*x.shape[:-1], -1)
        return logits if b_U is None else logits + b_U
