"""Products of few rows with a matrix that is put in order for them once.

A product brings its matrix into the order in which the processor reads it best, and with few rows
that takes as long as the arithmetic. oneDNN takes a matrix that was put in order before: a copy as
large as the matrix. Where rows stand in pairs at least, none of their bits depends on how many
there are, nor on the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


def can_pack(matrix: Tensor) -> bool:
    """Whether oneDNN keeps such a matrix in order: float32 in the processor's memory."""
    is_there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    has_onednn = is_there and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return has_onednn and matrix.dtype == torch.float32 and matrix.device.type == "cpu"


def pack(matrix: Float[Tensor, "i o"], n_rows: int) -> Tensor:
    """The matrix in order for products of about ``n_rows`` rows, for ``product`` alone to read."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(matrix.T.contiguous(), n_rows)
    return packed


def product(
    rows: Float[Tensor, "row i"], packed: Tensor, bias: Float[Tensor, " o"] | None = None
) -> Float[Tensor, "row o"]:
    """``rows @ matrix + bias``; it has no gradient."""
    products: Tensor = torch.ops.mkldnn._linear_pointwise(rows, packed, bias, "none", [], "")
    return products


@dataclass(frozen=True)
class PackedMlp:
    """An MLP's matrices in order for products of few rows."""

    W_in: Tensor
    W_gate: Tensor | None
    W_out: Tensor
