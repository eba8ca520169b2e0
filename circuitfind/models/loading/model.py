"""A model ready to be searched: loaded, read into circuitfind's form, and found to compute the same."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from circuitfind.models.architectures.table import read_transformer
from circuitfind.models.loading.load import load_bridge, weights_sha256
from circuitfind.models.loading.verify import verify
from circuitfind.models.transformer import Transformer, in_dtype
from circuitfind.prompts.batch import Batch

COMPARED_IN = {torch.bfloat16: torch.float32}
"""In which dtype a model that runs in another one is loaded and compared."""


@dataclass(frozen=True)
class Model:
    """The name it was asked for by, its weights' hash, and how far TransformerLens's numbers are
    from ours.
    """

    name: str
    sha256: str
    transformer: Transformer
    difference: float

    def to_dict(self) -> dict[str, Any]:
        """The block ``model`` of a circuit file."""
        architecture = self.transformer.architecture
        return {
            "name": self.name,
            "architecture": architecture.name,
            "n_layers": architecture.n_layers,
            "n_heads": architecture.n_heads,
            "d_model": architecture.d_model,
            "parallel_attn_mlp": architecture.parallel,
            "sha256": self.sha256,
        }


def load_model(name: str, folder: Path, batch: Batch, device: str, dtype: torch.dtype) -> Model:
    """The model in ``folder``, compared with TransformerLens on the batch's first prompts.

    In bfloat16 two ways to the same number are a tenth apart and more after some layers, by
    rounding alone. So a model that is to run in it is compared in float32, and rounded then. Raises
    ModelError where it isn't whole, isn't supported, or isn't reproduced.
    """
    with ThreadPoolExecutor(1) as beside:  # the weights are hashed while they are read
        sha256 = beside.submit(weights_sha256, folder)
        bridge = load_bridge(folder, device, COMPARED_IN.get(dtype, dtype))
        transformer = read_transformer(bridge, batch.n_pos)
        difference = verify(bridge, transformer, batch)
        return Model(name, sha256.result(), in_dtype(transformer, dtype), difference)
