"""The reference run: any set of edges ablated, every component computed.

In a patched run (on clean tokens) a receiver reads, for every kept edge, what the sender writes in
this same run, and for every removed edge what it writes when ablated: its output in the corrupted
run (interchange, arXiv:2304.14997), zero, its mean over other prompts
(``patching/mean_ablation.py``) or a learned constant (``patching/learned_ablation.py``). All of it
is held as differences from the clean run: a receiver's input is its clean input, plus ``ablated -
clean`` for each removed edge, plus ``now - clean`` for each kept one. So a run with every edge kept
is the clean run to the last bit, and position embeddings and output biases, which are no sender's,
are never ablated.

``run_patched`` computes a whole patched run for any set of edges; ``patching/incremental.py`` only
what a change reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from circuitfind.circuits.graph import Graph, Receiver
from circuitfind.circuits.layout import Layout
from circuitfind.circuits.masks import readable
from circuitfind.circuits.outputs import Outputs
from circuitfind.models.forward import Trace, at_end, run_attention, trace
from circuitfind.models.transformer import (
    Transformer,
    embed_positions,
    mlp,
    write_all_heads,
    write_heads,
)
from circuitfind.patching.ablation import AblationName, ablated_outputs
from circuitfind.prompts.batch import Batch
from circuitfind.prompts.roles import by_role

Stream = Float[Tensor, "#prompt #pos d_model"]
"""A residual stream; of one constant for all, prompts and positions may be 1."""


@dataclass(frozen=True)
class Baseline:
    """What every patched run of one block of prompts starts from.

    ``ablated``: what every sender writes when it is ablated. ``graph`` is the model's, whatever the
    roles of the batch.
    """

    model: Transformer
    batch: Batch
    clean: Trace
    ablated: Outputs
    ablation: AblationName

    @property
    def graph(self) -> Graph:
        return self.model.architecture.graph

    @cached_property
    def change(self) -> Float[Tensor, "sender prompt pos d_model"]:
        """What the stream gains at a receiver when its edge from each sender is removed: ablated -
        clean output.
        """
        return ablation_changes(self.model, self.clean, self.ablated)

    @cached_property
    def emptied(self) -> tuple[Stream, ...]:
        """What the receivers of each stage read with every edge removed: each layer's heads, its
        MLP, then the logits.

        A sum of what is left, never of the clean stream less what goes: rounding would leave a rest
        of the clean one.
        """
        return ablated_streams(self.model, self.ablated, self.batch.n_pos)

    def senders_of(self, receiver: Receiver) -> Sequence[int]:
        """Whose outputs the receiver reads in the clean run."""
        return range(self.graph.n_readable(receiver))

    def summed(self, stage: int, senders: Sequence[int]) -> Float64[Tensor, "prompt pos d_model"]:
        """What a stage's receiver reads of these senders in the clean run, summed in float64.

        The clean stream less all that goes leaves what rounding makes of it, which a norm blows up;
        this leaves nothing.
        """
        total = self.emptied[stage].double().expand(self.clean.final.shape).clone()
        for sender in senders:
            total -= self.change[sender]
        return total

    def change_at(
        self, receiver: Receiver, senders: Sequence[int]
    ) -> Float[Tensor, "edge prompt pos d_model"]:
        """What the stream gains at a receiver, if it is at a role there alone, as its edge from
        each sender goes.
        """
        change = self.change[list(senders)]
        if receiver.role is None or self.batch.roles is None:
            return change
        return change.masked_fill(~self.batch.roles.here(receiver.role).unsqueeze(-1), 0.0)

    @property
    def final(self) -> Float[Tensor, "prompt d_model"]:
        """What the logits read at the answer position in the clean run."""
        return at_end(self.clean.final, self.batch.end)

    def read(self, receiver: Receiver) -> Float[Tensor, "prompt pos d_model"]:
        """What the receiver reads in the clean run."""
        streams = {
            "head": self.clean.attention_in,
            "mlp": self.clean.mlp_in,
            "logits": (self.clean.final,),
        }
        return streams[receiver.node.kind][receiver.node.layer]


def prepare(model: Transformer, batch: Batch, ablation: AblationName) -> Baseline:
    """The clean run of a block of prompts, and what every sender writes when it is ablated."""
    return Baseline(
        model, batch, trace(model, batch.clean), ablated_outputs(model, batch, ablation), ablation
    )


def ablation_changes(
    model: Transformer, clean: Trace, ablated: Outputs
) -> Float[Tensor, "sender prompt pos d_model"]:
    """Each sender's output in ``ablated`` minus that in ``clean``."""
    graph = model.architecture.graph
    layout = Layout(graph)
    change = clean.embedding.new_empty(len(graph.senders), *clean.embedding.shape)
    change[0] = ablated.embedding - clean.embedding
    for layer in range(graph.n_layers):
        gained = ablated.z[layer] - clean.attention[layer].z
        change[layout.heads(layer)] = write_heads(model, layer, gained, range(graph.n_heads))
        change[layout.mlp(layer)] = ablated.mlp_out[layer] - clean.mlp_out[layer]
    return change


def ablated_streams(model: Transformer, ablated: Outputs, n_pos: int) -> tuple[Stream, ...]:
    """What each stage's receivers read where every sender writes what it writes ablated, position
    by position.
    """
    stream = embed_positions(model, n_pos) + ablated.embedding
    stages: list[Stream] = []
    for layer, weights in enumerate(model.layers):
        after_heads = stream + write_all_heads(model, layer, ablated.z[layer]) + weights.b_O
        stages += [stream, stream if model.architecture.parallel else after_heads]
        stream = after_heads + ablated.mlp_out[layer] + weights.b_out
    return (*stages, stream)


def run_patched(
    baseline: Baseline, kept: Bool[Tensor, "receiver sender"]
) -> Float[Tensor, "prompt d_model"]:
    """What the logits read at the answer position when only the ``kept`` edges carry the run.

    The receivers are those of the graph that the batch has: where it has roles, each at its own
    positions.
    """
    graph, clean, model, roles = baseline.graph, baseline.clean, baseline.model, baseline.batch.roles
    layout = Layout(graph)
    kept_each = by_role(baseline.batch.graph_of(graph), kept)
    removed_each = readable(graph, kept.device) & ~kept_each
    gained = torch.zeros_like(baseline.change)

    def mix_all(role: int, receivers: slice, n_senders: int) -> Tensor:
        """What these receivers read beyond the clean run, if everywhere as at this role."""
        flat = (slice(n_senders), slice(None))
        now, ablated = (x.flatten(1)[flat] for x in (gained, baseline.change))
        weights = [mask[role, receivers, :n_senders].to(now.dtype) for mask in (kept_each, removed_each)]
        return (weights[0] @ now + weights[1] @ ablated).reshape(-1, *gained.shape[1:])

    def mix(receivers: slice, n_senders: int) -> Tensor:
        """What these receivers read beyond the clean run."""
        if roles is None:
            return mix_all(0, receivers, n_senders)
        mixed = gained.new_zeros(receivers.stop - receivers.start, *gained.shape[1:])
        for number in range(len(roles.names)):
            here = (roles.of == number).unsqueeze(-1)
            mixed = torch.where(here, mix_all(number, receivers, n_senders), mixed)
        return mixed

    for layer in range(graph.n_layers):
        heads, mlp_stage = graph.layer(layer)
        reads = clean.attention_in[layer] + mix(layout.slots(layer), heads.n_readable)
        attention = run_attention(model, layer, reads.chunk(3))
        z_gained = attention.z - clean.attention[layer].z
        gained[heads.senders] = write_heads(model, layer, z_gained, range(heads.n))
        row = mlp_stage.first_receiver
        x = clean.mlp_in[layer] + mix(slice(row, row + 1), mlp_stage.n_readable)[0]
        gained[mlp_stage.first_sender] = mlp(model, layer, x) - clean.mlp_out[layer]
    last = len(graph.receivers) - 1
    return baseline.final + at_end(mix(slice(last, last + 1), len(graph.senders))[0], baseline.batch.end)
