"""A block of prompts, made ready for runs under shares of all edges (``mixing.py``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from circuitfind.batch import Batch
from circuitfind.gradients import HeadsRun, MlpRun, Run, Sweeper
from circuitfind.metrics import MetricName, Objective, make_objective
from circuitfind.patching import AblationName, at_end
from circuitfind.rerun import Rows
from circuitfind.transformer import Architecture, Transformer, embed, embed_positions, rotary_table

PerRow = Float[Tensor, "head row d_head"]
AtRows = Float[Tensor, "row d_model"]


@dataclass(frozen=True)
class Block:
    """What all runs of a block of prompts have in common, at the rows that can change.

    ``base``: what each stage's receivers read when every edge is removed. ``z`` and ``out``: what heads (before W_O)
    and MLPs write ablated. ``keys`` and ``values``: those of the clean run at all positions. ``source``: the excess of
    the input. ``is_real``: 1 for a prompt, 0 for one that only fills the block up.
    """

    rows: Rows
    base: tuple[AtRows, ...]
    z: tuple[PerRow, ...]
    out: tuple[AtRows, ...]
    keys: tuple[Float[Tensor, "head prompt pos d_head"], ...]
    values: tuple[Float[Tensor, "head prompt pos d_head"], ...]
    source: AtRows
    rotary: tuple[Tensor, Tensor] | None
    objective: Objective
    is_real: Float[Tensor, " prompt"]

    @cached_property
    def real_rows(self) -> Float[Tensor, "row 1"]:
        """1 for a row of its own, 0 for those that repeat the last one."""
        real = torch.ones(len(self.rows), 1, device=self.source.device, dtype=self.source.dtype)
        real[int(self.rows.ends[-1]) + 1 :] = 0
        return real


def prepare_block(sweeper: Sweeper, batch: Batch, n_real: int, metric: MetricName, ablation: AblationName) -> Block:
    """A block of prompts, the first ``n_real`` of which count."""
    model, rows = sweeper.model, Rows(batch, ablation)
    positions = embed_positions(model, batch.n_pos)
    embedding = embed(model, batch.clean)
    clean = sweeper.run(embedding + positions)
    gone = embed(model, batch.corrupted) if ablation == "corrupted" else torch.zeros_like(embedding)
    ablated = sweeper.run(gone + positions) if ablation == "corrupted" else None
    final = at_end(clean.final, batch.end)
    heads = [ran for ran in clean.stages.values() if isinstance(ran, HeadsRun)]
    gone_z = _ablated_z(ablated) if ablated is not None else [torch.zeros_like(ran.z) for ran in heads]
    return Block(
        rows=rows,
        base=tuple(rows.take(centred(model.architecture, x)) for x in _bases(model, gone + positions, ablated)),
        z=tuple(map(rows.take, gone_z)),
        out=tuple(rows.take(centred(model.architecture, x)) for x in _ablated_out(model, ablated, embedding)),
        keys=tuple(ran.k for ran in heads),
        values=tuple(ran.v for ran in heads),
        source=rows.take(centred(model.architecture, embedding - gone)),
        rotary=rotary_table(model, rows.positions),
        objective=make_objective(metric, model, batch, final),
        is_real=torch.arange(batch.n_prompts, device=final.device).lt(n_real).to(final),
    )


def centred(architecture: Architecture, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
    """``x`` without its mean, if no norm reads that."""
    return x - x.mean(-1, keepdim=True) if architecture.norm == "layer" else x


def _bases(model: Transformer, start: Float[Tensor, "prompt pos d_model"], ablated: Run | None) -> Iterator[Tensor]:
    """What each stage's receivers read when every edge is removed."""
    parallel, stream = model.architecture.parallel, start
    for layer, weights in enumerate(model.layers):
        if ablated is not None:
            width = 1 if parallel else 2
            yield ablated.reads[layer * width]
            yield ablated.reads[layer * width + width - 1]
        else:
            yield stream
            yield stream if parallel else stream + weights.b_O
            stream = stream + (weights.b_O + weights.b_out)
    yield stream if ablated is None else ablated.final


def _ablated_z(ablated: Run) -> list[Tensor]:
    return [ran.z for ran in ablated.stages.values() if isinstance(ran, HeadsRun)]


def _ablated_out(model: Transformer, ablated: Run | None, like: Tensor) -> list[Tensor]:
    if ablated is None:
        return [torch.zeros_like(like) for _ in model.layers]
    return [ran.out for ran in ablated.stages.values() if isinstance(ran, MlpRun)]
