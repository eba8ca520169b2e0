"""What every sender writes when it is ablated: corrupted, zero, mean, mean-positional or optimal."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from circuitfind.circuits.outputs import Outputs
from circuitfind.errors import UsageError, unknown
from circuitfind.models.forward import Trace, trace
from circuitfind.models.transformer import (
    Transformer,
    hidden_layer,
)
from circuitfind.prompts.batch import Batch

AblationName = Literal["corrupted", "zero", "mean", "mean-positional", "optimal"]


ABLATIONS: tuple[AblationName, ...] = ("corrupted", "zero", "mean", "mean-positional", "optimal")


OF_MEANS: tuple[AblationName, ...] = ("mean", "mean-positional", "optimal")
"""They need the batch's ``constants``."""


def find_ablation(name: str) -> AblationName:
    """The ablation of that name. Raises UsageError with the nearest one."""
    for ablation in ABLATIONS:
        if ablation == name:
            return ablation
    raise UsageError(unknown("ablation", name, ABLATIONS))


def outputs_of(run: Trace) -> Outputs:
    """What every sender writes in a run."""
    return Outputs(run.embedding, tuple(attention.z for attention in run.attention), run.mlp_out)


def with_hidden(model: Transformer, run: Trace) -> Outputs:
    """The same with what MLPs' neurons hold."""
    hidden = (
        hidden_layer(model, layer, x).reshape(*x.shape[:2], -1) for layer, x in enumerate(run.mlp_in)
    )
    return replace(outputs_of(run), hidden=tuple(hidden))


def constant_outputs(model: Transformer, batch: Batch, ablation: AblationName) -> Outputs:
    """What every sender writes when it is ablated by a constant: zero, or the batch's own.

    Raises UsageError where the batch has none.
    """
    if ablation in OF_MEANS:
        if batch.constants is None:
            raise UsageError(
                f"{ablation} ablation needs the means over other prompts: give the batch its constants."
            )
        return batch.constants
    shape, zero = model.architecture, model.W_E.new_zeros
    z = zero(shape.n_heads, 1, 1, shape.d_head)
    out, hidden = zero(1, 1, shape.d_model), tuple(zero(1, 1, len(layer.W_out)) for layer in model.layers)
    return Outputs(out, (z,) * shape.n_layers, (out,) * shape.n_layers, hidden)


def ablated_outputs(model: Transformer, batch: Batch, ablation: AblationName) -> Outputs:
    """What every sender writes when it is ablated."""
    if ablation == "corrupted":
        return outputs_of(trace(model, batch.corrupted))
    return constant_outputs(model, batch, ablation)
