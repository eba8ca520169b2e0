"""What every sender writes: in a run of each prompt, or, to ablate with, one constant for all of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

OfHeads = Float[Tensor, "head #prompt #pos d_head"]
OfStream = Float[Tensor, "#prompt #pos d_model"]
OfHidden = Float[Tensor, "#prompt #pos d_mlp"]


@dataclass(frozen=True)
class Outputs:
    """Heads' are z, before W_O; output biases belong to no sender. A constant has one prompt, or also one position.

    ``hidden``: what MLPs' neurons hold, before W_out; only where it is asked for.
    """

    embedding: OfStream
    z: tuple[OfHeads, ...]
    mlp_out: tuple[OfStream, ...]
    hidden: tuple[OfHidden, ...] = ()

    def to(self, device: torch.device | str) -> Outputs:
        """The same on another device."""
        z, out, hidden = (tuple(x.to(device) for x in each) for each in (self.z, self.mlp_out, self.hidden))
        return Outputs(self.embedding.to(device), z, out, hidden)
