"""What every sender writes: in a run of each prompt, or, to ablate with, one constant for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

OfHeads = Float[Tensor, "head #prompt #pos d_head"]
OfStream = Float[Tensor, "#prompt #pos d_model"]
OfHidden = Float[Tensor, "#prompt #pos d_mlp"]


@dataclass(frozen=True)
class Outputs:
    """Heads' are z, before W_O; output biases belong to no sender. A constant has one prompt, or
    also one position.

    ``hidden``: what MLPs' neurons hold, before W_out; only where it is asked for.
    """

    embedding: OfStream
    z: tuple[OfHeads, ...]
    mlp_out: tuple[OfStream, ...]
    hidden: tuple[OfHidden, ...] = ()

    def to(self, device: torch.device | str) -> Outputs:
        """The same on another device."""
        return self.map(lambda x: x.to(device))

    def map(self, function: Callable[[Tensor], Tensor]) -> Outputs:
        """The same with a function of each tensor in its place."""
        z, out, hidden = (tuple(map(function, each)) for each in (self.z, self.mlp_out, self.hidden))
        return Outputs(function(self.embedding), z, out, hidden)

    @property
    def parts(self) -> list[Tensor]:
        """The embedding, each layer's z, each MLP's output."""
        return [self.embedding, *self.z, *self.mlp_out]

    @staticmethod
    def of_parts(parts: Sequence[Tensor]) -> Outputs:
        """The inverse of ``parts``."""
        n_layers = len(parts) // 2
        return Outputs(parts[0], tuple(parts[1 : 1 + n_layers]), tuple(parts[1 + n_layers :]))
