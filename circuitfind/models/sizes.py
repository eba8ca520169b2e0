"""Sizes of a model and of its parts in memory, read from its config and weight files without loading them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuitfind.errors import ModelError
from circuitfind.models.loading.config import read_config
from circuitfind.models.loading.folder import read_head, weight_files

PROMPTS_COMPARED, TOKENS_COMPARED = 4, 256
"""The first prompts are compared so many tokens at a time, a longer one by itself
(``models/loading/verify.py``).
"""


MOST_SCORES = 1 << 22
"""So many attention scores of a test or a plain run stand in memory at once (``models/components.py``)."""


ITEMSIZES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
}


SMALLEST_PACKED = 1 << 18
"""Numbers in an MLP's matrix that is worth keeping twice (``patching/packing.py``): a smaller one
is read fast in any order.
"""


MOST_PACKED = 1 << 28
"""Numbers in all MLPs of a model that keeps them twice: a larger one has not the memory to spare."""


@dataclass(frozen=True)
class Shape:
    """What of a model's shape decides how much memory a run needs."""

    n_layers: int
    n_heads: int
    d_model: int
    d_mlp: int
    d_vocab: int

    @staticmethod
    def of(config: dict[str, Any]) -> Shape:
        """From a model's config.json, whatever its family calls things."""

        def find(*names: str) -> int:
            return next((int(config[name]) for name in names if isinstance(config.get(name), int)), 1)

        d_model = find("hidden_size", "n_embd")
        d_mlp = find("intermediate_size", "n_inner")
        return Shape(
            find("num_hidden_layers", "n_layer"),
            find("num_attention_heads", "n_head"),
            d_model,
            d_mlp if d_mlp > 1 else 4 * d_model,  # GPT-2 leaves it out
            find("vocab_size"),
        )


@dataclass(frozen=True)
class Stored:
    """A model's weights as they lie on disk."""

    n_bytes: int
    n_numbers: int


def stored_weights(folder: Path) -> Stored:
    """How many weights a model's folder holds, from the files' heads: no weight is read."""
    files = weight_files(folder)
    n_bytes = sum(path.stat().st_size for path in files)
    counts = [_count(path) for path in files if path.suffix == ".safetensors"]
    if counts:
        return Stored(n_bytes, sum(counts))
    config = read_config(folder)
    spelled = str(config.get("dtype") or config.get("torch_dtype"))
    return Stored(n_bytes, n_bytes // ITEMSIZES.get(spelled, 4))


def _count(path: Path) -> int:
    """The numbers in a .safetensors file. 0 where its head can't be read."""
    try:
        return sum(tensor.n_numbers for tensor in read_head(path).values())
    except ModelError:
        return 0  # a damaged file; loading it says so


def compared_together(n_pos: int) -> int:
    """How many prompts are compared at once: TOKENS_COMPARED, but one at the least and
    PROMPTS_COMPARED at the most.
    """
    return min(PROMPTS_COMPARED, max(1, TOKENS_COMPARED // n_pos))


def keeps_mlps_twice(smallest: int, total: int) -> bool:
    """Whether a search keeps MLPs twice whose smallest matrix, and which all together, have so many
    numbers.
    """
    return smallest >= SMALLEST_PACKED and total <= MOST_PACKED
