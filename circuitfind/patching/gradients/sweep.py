"""Unpatched runs and the way back through them, written out by hand: what attribution over all
edges costs least with.

A run's components are the stages of ``Graph``: a layer's heads, then its MLP. What reads
the same stream is one *step*: a stage in sequential blocks, a whole layer in parallel ones. Runs
may begin at any step, from any stream, and at any position: keys and values of the positions before
are taken from another run (``before``).

On the way back a layer's gradients are at its queries, keys and values, d_head wide; a
``Collector`` takes what it is for (``patching/gradients/edges.py``: those at every receiver's
input).

Some methods pass the gradient on by other ``Rules`` than those of calculus.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitfind.circuits.layout import Layout
from circuitfind.circuits.outputs import Outputs
from circuitfind.models.components import (
    CALCULUS,
    AttentionRun,
    BlockSpec,
    HiddenRun,
    Norm,
    Normed,
    Readout,
    Rules,
    rotate,
    turned_back,
)
from circuitfind.models.transformer import Transformer, rotary_table

T = TypeVar("T")
Stream = Float[Tensor, "prompt pos d_model"]
PerHead = Float[Tensor, "head prompt pos d_head"]
PerKvHead = Float[Tensor, "kv_head prompt pos d_head"]


def without_final_norm(model: Transformer) -> Transformer:
    """The model that reads at its end what is normed already.

    Its final norm has an epsilon E beside which all it reads is nothing: x / sqrt(mean x² + E) is x
    / sqrt(E), exactly, since E is a power of 4; the gain takes sqrt(E) back.
    """
    root = 2.0**40
    architecture = replace(model.architecture, readout=Readout(Norm("rms", root**2)))
    return replace(model, architecture=architecture, final_gain=model.final_gain * root)


@dataclass(frozen=True)
class HeadsRun(AttentionRun):
    """A layer's heads in one run, [head, prompt, pos, d_head]. ``plain``: queries, keys and values before
    bias and rotation, per key/value head.

    Keys, and what k and v hold, begin at the first position of the run before, every query head
    having its own.
    """

    normed: Normed
    plain: tuple[PerHead, PerKvHead, PerKvHead]


@dataclass(frozen=True)
class HeadsGradient:
    """The gradients at a layer's queries, keys and values before bias and rotation, of each query
    head its own.

    ``pattern``: that at its pattern, less its mean under the pattern, which changes nothing: a
    row's changes sum to 0.
    """

    slots: tuple[PerHead, PerHead, PerHead]
    pattern: Float[Tensor, "head prompt pos key"]


@dataclass(frozen=True)
class MlpRun:
    """An MLP in one run, and its output without the bias."""

    normed: Normed
    hidden: HiddenRun
    out: Stream


@dataclass(frozen=True)
class Run:
    """One run from some step on: what each step reads, its stages by their numbers, and what the
    logits read.
    """

    reads: dict[int, Stream]
    stages: dict[int, HeadsRun | MlpRun]
    final: Stream


class Sweeper:
    """Runs a model and goes back through its runs, by ``rules``; ``of_neurons``: outputs come with
    hidden layers.
    """

    def __init__(self, model: Transformer, rules: Rules = CALCULUS, of_neurons: bool = False) -> None:
        self.model = model
        self.rules = rules
        self._of_neurons = of_neurons
        self.layout = Layout(model.architecture.graph)
        stages = range(2 * model.architecture.n_layers)
        width = 2 if model.architecture.parallel else 1
        self.steps = [list(stages[i : i + width]) for i in range(0, len(stages), width)]
        self._reads = [
            torch.cat([W.transpose(0, 1).flatten(1) for W in (layer.W_Q, layer.W_K, layer.W_V)], dim=1)
            for layer in model.layers
        ]

    def run(self, stream: Stream, before: Run | None = None, first: int = 0) -> Run:
        """The run from step ``first`` on, which reads ``stream``; ``before`` is that of the
        positions before.
        """
        stages: dict[int, HeadsRun | MlpRun] = {}
        return replace(self._walk(stream, before, first, stages.__setitem__), stages=stages)

    def run_for_outputs(
        self, embedding: Stream, stream: Stream, before: Run | None = None
    ) -> tuple[Outputs, Run]:
        """What every sender writes in the run that reads ``stream``, and the run, of whose stages
        nothing is held.
        """
        written: list[Written] = []
        run = self._walk(stream, before, 0, lambda stage, ran: written.append(self._written(stage, ran)))
        return _outputs(embedding, written), run

    def outputs_of(self, embedding: Stream, run: Run) -> Outputs:
        """What every sender writes in a whole run."""
        return _outputs(
            embedding, [self._written(stage, ran) for stage, ran in sorted(run.stages.items())]
        )

    def _written(self, stage: int, ran: HeadsRun | MlpRun) -> Written:
        if isinstance(ran, HeadsRun):
            return ran.z, None
        if not self._of_neurons:
            return ran.out, None
        held = self._block(stage // 2).mlp.active(ran.hidden.hidden, ran.hidden.gate)
        return ran.out, held.reshape(*ran.out.shape[:2], -1)

    def _walk(
        self,
        stream: Stream,
        before: Run | None,
        first: int,
        see: Callable[[int, HeadsRun | MlpRun], None],
    ) -> Run:
        """A run without stages: each is shown to ``see`` as it comes."""
        reads = {first: stream}
        for number, step in enumerate(self.steps[first:], start=first + 1):
            after = stream
            for stage in step:
                weights = self.model.layers[stage // 2]
                if stage % 2:
                    ran = self._run_mlp(stage // 2, stream)
                    after = after + (ran.out + weights.b_out)
                    see(stage, ran)
                else:
                    heads = self._run_heads(stage // 2, stream, before)
                    after = after + (self._write(stage // 2, heads.z) + weights.b_O)
                    see(stage, heads)
            reads[number] = stream = after
        return Run(reads, {}, stream)

    def back(
        self, stage: int, run: Run, gradient: Stream, into: Collector | None, weight: float = 1.0
    ) -> Stream:
        """From the gradient at the stream that a stage writes to: what the stage adds to it at the
        one it reads.

        It and the gradients of its receivers, ``weight`` times, are added to ``into``.
        """
        ran = run.stages[stage]
        if into is not None:
            into.add_written(stage, gradient, weight)
        if isinstance(ran, MlpRun):
            arrived = self._back_mlp(stage // 2, ran, gradient)
            if into is not None:
                into.add_mlp(stage // 2, arrived, weight)
            return arrived
        found = self._back_heads(stage // 2, ran, gradient)
        if into is not None:
            into.add_heads(stage // 2, ran, found, weight)
        grouped = (_grouped(x, len(plain)) for x, plain in zip(found.slots, ran.plain, strict=True))
        wide = torch.cat([_side_by_side(x) for x in grouped], dim=1)
        arrived = (wide @ self._reads[stage // 2].T).reshape(gradient.shape)
        return self._block(stage // 2).norm.backward(ran.normed, arrived, self.rules)

    def sweep(
        self, run: Run, gradient: Stream, into: Collector | None, first: int = 0, last: int | None = None
    ) -> Stream:
        """Back to the stream that step ``first`` reads from the gradient at the one that step
        ``last`` reads, which is not gone through; None: at what the logits read."""
        for step in reversed(self.steps[first:last]):
            gradient = sum((self.back(stage, run, gradient, into) for stage in step), gradient)
        return gradient

    def changes(self, clean: Outputs, ablated: Outputs) -> Float[Tensor, "sender prompt pos d_model"]:
        """What each sender writes in ``ablated`` less what it writes in ``clean``."""
        graph = self.model.architecture.graph
        change = clean.embedding.new_empty(len(graph.senders), *clean.embedding.shape)
        change[0] = ablated.embedding - clean.embedding
        for layer in range(graph.n_layers):
            heads, mlp = self.layout.heads(layer), self.layout.mlp(layer)
            change[heads] = self._write_each(layer, ablated.z[layer] - clean.z[layer])
            change[mlp] = ablated.mlp_out[layer] - clean.mlp_out[layer]
        return change

    def _write(self, layer: int, z: PerHead) -> Stream:
        """What a layer's heads write together, without b_O."""
        W_O = self.model.layers[layer].W_O
        return (_side_by_side(z) @ W_O.flatten(0, 1)).reshape(*z.shape[1:3], W_O.shape[-1])

    def _write_each(self, layer: int, z: PerHead) -> Float[Tensor, "head prompt pos d_model"]:
        W_O = self.model.layers[layer].W_O
        return torch.bmm(z.flatten(1, 2), W_O).reshape(*z.shape[:3], W_O.shape[-1])

    def _run_heads(self, layer: int, stream: Stream, before: Run | None) -> HeadsRun:
        architecture, weights, block = (
            self.model.architecture,
            self.model.layers[layer],
            self._block(layer),
        )
        normed = block.norm.run(stream)
        wide = normed.out.flatten(0, 1) @ self._reads[layer]
        n_each = [architecture.n_heads, architecture.n_kv_heads, architecture.n_kv_heads]
        heads = wide.reshape(*stream.shape[:2], sum(n_each), -1).permute(2, 0, 1, 3)
        plain_q, plain_k, plain_v = torch.split(heads, n_each)
        biases = (weights.b_Q, weights.b_K, weights.b_V)
        q, k, v = (
            x if b is None else x + b[:, None, None]
            for x, b in zip((plain_q, plain_k, plain_v), biases, strict=True)
        )
        earlier = before.stages[2 * layer] if before is not None else None
        n_before = earlier.k.shape[-2] if isinstance(earlier, HeadsRun) else 0
        table = rotary_table(self.model, self._positions(n_before, stream.shape[1]))
        k, v = self._ungrouped(rotate(k, table)), self._ungrouped(v)
        if isinstance(earlier, HeadsRun):
            k, v = torch.cat((earlier.k, k), dim=-2), torch.cat((earlier.v, v), dim=-2)
        ran = block.attention.run(rotate(q, table).contiguous(), k, v)
        return HeadsRun(ran.q, ran.k, ran.v, ran.pattern, ran.z, normed, (plain_q, plain_k, plain_v))

    def _back_heads(self, layer: int, ran: HeadsRun, gradient: Stream) -> HeadsGradient:
        """The gradients within each head from that at what they write to."""
        W_O, n_pos = self.model.layers[layer].W_O, gradient.shape[1]
        wide = gradient.flatten(0, 1) @ W_O.flatten(0, 1).T
        z = wide.reshape(*gradient.shape[:2], len(W_O), -1).permute(2, 0, 1, 3).contiguous()
        found = self._block(layer).attention.backward(ran, z, self.rules)
        table = turned_back(rotary_table(self.model, self._positions(ran.k.shape[-2] - n_pos, n_pos)))
        return HeadsGradient((rotate(found.q, table), rotate(found.k, table), found.v), found.pattern)

    def _run_mlp(self, layer: int, stream: Stream) -> MlpRun:
        block = self._block(layer)
        normed = block.norm.run(stream)
        hidden = block.mlp.run(normed.out.flatten(0, 1), self.model.layers[layer])
        return MlpRun(normed, hidden, hidden.out.reshape(stream.shape))

    def _back_mlp(self, layer: int, ran: MlpRun, gradient: Stream) -> Stream:
        """The gradient at what the MLP reads, from that at what it writes to."""
        block = self._block(layer)
        rows = block.mlp.backward(
            ran.hidden, gradient.flatten(0, 1), self.model.layers[layer], self.rules
        )
        return block.norm.backward(ran.normed, rows.reshape(gradient.shape), self.rules)

    def _block(self, layer: int) -> BlockSpec:
        return self.model.architecture.blocks[layer]

    def _positions(self, n_before: int, n_pos: int) -> Int[Tensor, " pos"]:
        return torch.arange(n_before, n_before + n_pos, device=self.model.device)

    def _ungrouped(self, x: PerKvHead) -> PerHead:
        """Every query head's own copy."""
        return x.repeat_interleave(self.model.architecture.n_heads // len(x), dim=0)


Written = tuple[Tensor, Tensor | None]
"""z of a layer's heads; or what an MLP writes, and its hidden layer where that is asked for."""


def _outputs(embedding: Stream, written: Sequence[Written]) -> Outputs:
    """``written``: stage by stage."""
    z, out = (tuple(x for x, _ in written[kind::2]) for kind in (0, 1))
    return Outputs(embedding, z, out, tuple(x for _, x in written if x is not None))


def _grouped(x: PerHead, n_kv_heads: int) -> PerKvHead:
    """The sum over the query heads that share a key/value head."""
    return x if len(x) == n_kv_heads else x.reshape(n_kv_heads, -1, *x.shape[1:]).sum(1)


def _side_by_side(x: Float[Tensor, "head prompt pos d_head"]) -> Float[Tensor, "row wide"]:
    """Heads one beside the other in each row."""
    return x.permute(1, 2, 0, 3).reshape(x.shape[1] * x.shape[2], -1)


class Collector:
    """What a way back hands its gradients to. This one takes none: each kind takes what it is for."""

    def add_written(self, stage: int, gradient: Stream, weight: float = 1.0) -> None:
        """The gradient at the stream that a stage writes to."""

    def add_heads(self, layer: int, ran: HeadsRun, found: HeadsGradient, weight: float) -> None:
        """The gradients within each head of a layer."""

    def add_mlp(self, layer: int, gradient: Stream, weight: float) -> None:
        """The gradient at what an MLP reads."""

    def add_final(self, gradient: Stream, weight: float = 1.0) -> None:
        """The gradient at what the logits read."""
