"""A block of prompts, made ready for runs under shares of all edges (``patching/soft/run.py``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from circuitfind.circuits.outputs import Outputs
from circuitfind.metrics.measures import MetricName
from circuitfind.metrics.objective import Objective, make_objective
from circuitfind.models.forward import at_end
from circuitfind.models.transformer import (
    Transformer,
    embed,
    embed_positions,
    rotary_table,
    write_heads,
)
from circuitfind.patching.ablation import AblationName, constant_outputs
from circuitfind.patching.blocks import Rows
from circuitfind.patching.gradients.sweep import HeadsRun, Sweeper
from circuitfind.prompts.batch import Batch

PerRow = Float[Tensor, "head row d_head"]
AtRows = Float[Tensor, "row d_model"]


BLOCK = 4
"""How many prompts a thread computes together: their runs fit in its cache, and the threads share
even small steps.
"""


@dataclass(frozen=True)
class Block:
    """What all runs of a block of prompts have in common, at the rows that can change.

    ``base``: what each stage's receivers read when every edge is removed. ``z`` and ``out``: what
    heads (before W_O) and MLPs write ablated. ``keys`` and ``values``: those of the clean run at
    all positions. ``source``: the excess of the input. ``is_real``: 1 for a prompt, 0 for one that
    only fills the block up.
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


def prepare_block(
    sweeper: Sweeper, batch: Batch, n_real: int, metric: MetricName, ablation: AblationName
) -> Block:
    """A block of prompts, the first ``n_real`` of which count."""
    model, rows = sweeper.model, Rows(batch, ablation)
    positions = embed_positions(model, batch.n_pos)
    embedding = embed(model, batch.clean)
    clean = sweeper.run(embedding + positions)
    gone = _gone(sweeper, batch, ablation)
    final = at_end(clean.final, batch.end)
    heads = [ran for ran in clean.stages.values() if isinstance(ran, HeadsRun)]
    return Block(
        rows=rows,
        base=tuple(rows.take(model.architecture.centre(x)) for x in gone.bases),
        z=tuple(rows.take(z.expand_as(ran.z)) for z, ran in zip(gone.outputs.z, heads, strict=True)),
        out=tuple(
            rows.take(model.architecture.centre(out.expand_as(embedding))) for out in gone.outputs.mlp_out
        ),
        keys=tuple(ran.k for ran in heads),
        values=tuple(ran.v for ran in heads),
        source=rows.take(model.architecture.centre(embedding - gone.outputs.embedding)),
        rotary=rotary_table(model, rows.positions),
        objective=make_objective(metric, model, batch, final),
        is_real=torch.arange(batch.n_prompts, device=final.device).lt(n_real).to(final),
    )


def deal(n_blocks: int, n_each: int, n_steps: int, seed: int) -> Iterator[list[int]]:
    """The blocks of each step: all, or the next few of them in an order that is drawn again when
    they run out.
    """
    generator = torch.Generator().manual_seed(seed)
    waiting: list[int] = []
    for _ in range(n_steps):
        if n_each >= n_blocks:
            yield list(range(n_blocks))
            continue
        if not waiting:
            waiting = torch.randperm(n_blocks, generator=generator).tolist()
        taken, waiting = waiting[:n_each], waiting[n_each:]
        yield taken


@dataclass(frozen=True)
class _Gone:
    """What every sender writes when it is ablated, and what each stage's receivers read when every
    edge is removed.
    """

    outputs: Outputs
    bases: tuple[Float[Tensor, "prompt pos d_model"], ...]


def _gone(sweeper: Sweeper, batch: Batch, ablation: AblationName) -> _Gone:
    model = sweeper.model
    positions = embed_positions(model, batch.n_pos)
    if ablation != "corrupted":
        outputs = constant_outputs(model, batch, ablation)
        return _Gone(outputs, tuple(_bases(model, outputs, positions, batch)))
    embedding = embed(model, batch.corrupted)
    outputs, run = sweeper.run_for_outputs(embedding, embedding + positions)
    width = 1 if model.architecture.parallel else 2
    reads = [
        run.reads[layer * width + place] for layer in range(len(model.layers)) for place in (0, width - 1)
    ]
    return _Gone(outputs, (*reads, run.final))


def _bases(model: Transformer, gone: Outputs, positions: Tensor, batch: Batch) -> Iterator[Tensor]:
    """The sums of constant outputs, and of what no ablation touches."""
    shape = (*batch.clean.shape, gone.embedding.shape[-1])
    stream = (gone.embedding + positions).expand(shape)
    for layer, weights in enumerate(model.layers):
        yield stream
        heads = write_heads(model, layer, gone.z[layer], range(len(gone.z[layer]))).sum(0) + weights.b_O
        yield stream if model.architecture.parallel else stream + heads
        stream = stream + (heads + gone.mlp_out[layer] + weights.b_out)
    yield stream
