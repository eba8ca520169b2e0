"""What a run under shares of all edges must compute (``patching/soft/run.py``)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitfind.circuits.graph import SLOTS
from circuitfind.circuits.layout import Layout
from circuitfind.circuits.masks import readable
from circuitfind.models.transformer import Transformer
from circuitfind.patching.masked import find_reach

BASES = 2
"""What stands before the senders' excess: what the layer's heads read when every edge is removed,
and its MLP.
"""
Shares = Float[Tensor, "receiver sender"]


@dataclass(frozen=True)
class LayerPlan:
    """What a layer computes. Its receivers stand from ``place`` on among the live ones: the q, k
    and v inputs of its live heads, then the MLP's; its senders likewise from ``sender`` on.

    ``reads``: the receivers' shares of what stands before the layer, the two bases first. ``own``:
    the MLP's shares of its own layer's heads.
    """

    heads: list[int]
    has_mlp: bool
    rows: list[int]
    place: int
    sender: int
    reads: Float[Tensor, "receiver slot"]
    own: Float[Tensor, " head"]


@dataclass(frozen=True)
class Plan:
    """One mask for every block: each edge's share, and of which ones the gradient is wanted.

    ``senders``: those that must be computed; the others write nothing that is looked at. ``rows``:
    the receivers that read for them; the logits, which come beside, read ``final``.
    """

    wanted: Bool[Tensor, "receiver sender"]
    senders: Int[Tensor, " live"]
    rows: Int[Tensor, " read"]
    layers: list[LayerPlan]
    final: Float[Tensor, " live"]


def make_plan(
    model: Transformer, shares: Shares, wanted: Bool[Tensor, "receiver sender"] | None = None
) -> Plan:
    """What runs under ``shares`` must compute. By default all gradients are wanted."""
    layout = Layout(model.architecture.graph)
    edges = readable(layout.graph)
    wanted = edges if wanted is None else wanted & edges
    live = find_reach(layout, ((shares != 0) & edges | wanted).double()).live
    senders = torch.from_numpy(live.nonzero()[0])
    layers = range(layout.graph.n_layers)
    heads = [np.flatnonzero(live[layout.heads(layer)]).tolist() for layer in layers]
    rows = [_rows(layout, layer, heads[layer], bool(live[layout.mlp(layer)])) for layer in layers]
    index = torch.tensor([row for some in rows for row in some], dtype=torch.long)
    shares = (shares * edges)[:, senders].to(model.device, model.dtype)
    return Plan(
        wanted,
        senders,
        index,
        [_plan_layer(layout, layer, heads[layer], rows, shares, senders) for layer in layers],
        shares[-1],
    )


def _rows(layout: Layout, layer: int, heads: list[int], has_mlp: bool) -> list[int]:
    """The live receivers of a layer."""
    slots = [layout.row(layer, slot, head) for slot in range(len(SLOTS)) for head in heads]
    return slots + [layout.row(layer, len(SLOTS))] * has_mlp


def _plan_layer(
    layout: Layout,
    layer: int,
    heads: list[int],
    rows: list[list[int]],
    shares: Float[Tensor, "receiver live"],
    senders: Int[Tensor, " live"],
) -> LayerPlan:
    own = rows[layer]
    has_mlp = len(own) > len(SLOTS) * len(heads)
    first = int((senders < layout.head(layer)).sum())
    bases = shares.new_zeros(len(own), BASES)
    bases[: len(SLOTS) * len(heads), 0] = bases[len(SLOTS) * len(heads) :, 1] = 1
    return LayerPlan(
        heads,
        has_mlp,
        own,
        sum(map(len, rows[:layer])),
        first,
        torch.cat((bases, shares[own, :first]), dim=1),
        shares[layout.row(layer, len(SLOTS)), first : first + len(heads)],
    )
