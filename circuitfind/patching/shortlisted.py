"""A run that has lost all edges but a shortlist: where a search that tests no other edges starts.

With every edge removed a receiver reads what all its senders write when they are ablated. With some
kept it reads that,

    less ``ablated - now`` for each kept edge,

so that nothing of the clean run is needed. ``patching/incremental.py`` takes such a run for the
clean one: while a receiver is visited what comes before it still reads as it does here, and
removing its edge from sender s adds ``change[s]`` to its input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitfind.circuits.graph import SLOTS, Receiver
from circuitfind.circuits.layout import Layout
from circuitfind.models.forward import Attention, Trace, run_attention
from circuitfind.models.transformer import Transformer, embed, mlp, write_heads
from circuitfind.patching.ablation import AblationName, ablated_outputs
from circuitfind.patching.reference import Baseline, Stream, ablated_streams
from circuitfind.prompts.batch import Batch


@dataclass(frozen=True)
class Reduced(Baseline):
    """A baseline whose ``clean`` run is one in which the ``kept`` edges alone are left.

    What the heads of a layer read is each input's own: it follows from what they would read with
    every edge removed.
    """

    kept: Bool[Tensor, "receiver sender"]

    def read(self, receiver: Receiver) -> Float[Tensor, "prompt pos d_model"]:
        """What the receiver reads in the reduced run."""
        if receiver.node.kind != "head":
            return super().read(receiver)
        row = self.graph.receiver_index[receiver]
        return refill(self.emptied[2 * receiver.node.layer], self.change, self.kept[row])

    def senders_of(self, receiver: Receiver) -> Sequence[int]:
        """Whose outputs the receiver reads in the reduced run."""
        return self.kept[self.graph.receiver_index[receiver]].nonzero().flatten().tolist()


def refill(
    emptied: Stream, change: Float[Tensor, "sender prompt pos d_model"], kept: Bool[Tensor, " sender"]
) -> Float[Tensor, "prompt pos d_model"]:
    """What a receiver reads that reads ``emptied`` with every edge removed, and keeps these."""
    total = emptied.expand(change.shape[1:]).clone()
    for sender in kept.nonzero().flatten().tolist():
        total -= change[sender]
    return total


def prepare_reduced(
    model: Transformer, batch: Batch, ablation: AblationName, kept: Bool[Tensor, "receiver sender"]
) -> Reduced:
    """The run of a block of prompts with the ``kept`` edges alone, and every sender's change from there."""
    layout, heads = Layout(model.architecture.graph), range(model.architecture.n_heads)
    ablated, embedding = ablated_outputs(model, batch, ablation), embed(model, batch.clean)
    change = embedding.new_empty(len(layout.graph.senders), *embedding.shape)
    change[0] = ablated.embedding - embedding
    emptied = ablated_streams(model, ablated, batch.n_pos)
    attentions: list[Attention] = []
    reads_mlp: list[Tensor] = []
    writes_mlp: list[Tensor] = []
    for layer in range(len(model.layers)):
        reads = torch.stack(
            [refill(emptied[2 * layer], change, row) for row in kept[layout.slots(layer)]]
        )
        attentions.append(run_attention(model, layer, reads.chunk(len(SLOTS))))
        change[layout.heads(layer)] = write_heads(
            model, layer, ablated.z[layer] - attentions[-1].z, heads
        )
        reads_mlp.append(refill(emptied[2 * layer + 1], change, kept[layout.row(layer, len(SLOTS))]))
        writes_mlp.append(mlp(model, layer, reads_mlp[-1]))
        change[layout.mlp(layer)] = ablated.mlp_out[layer] - writes_mlp[-1]
    final = refill(emptied[-1], change, kept[-1])
    run = Trace(embedding, (), tuple(attentions), tuple(reads_mlp), tuple(writes_mlp), final)
    return Reduced(model, batch, run, ablated, ablation, kept)
