"""Splits prompts into fixed blocks, and rows into fixed multiples, so that bits depend on neither
batch nor threads.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from circuitfind.errors import ModelError
from circuitfind.patching.ablation import AblationName
from circuitfind.prompts.batch import Batch

ROWS = 4
"""The number of prompts in a block, and of rows, is made up to a multiple of this."""


class Rows:
    """The positions of a block of prompts that a change can reach and that can reach the answer,
    one behind the other.

    A prompt's rows go from the first position that an ablation changes to its answer position;
    ``ends`` are the rows of the answer positions. The last row is repeated until there is a
    multiple of ROWS of them.
    """

    def __init__(self, batch: Batch, ablation: AblationName) -> None:
        first = first_changed(batch, ablation)
        places = [
            i * batch.n_pos + pos
            for i, end in enumerate(batch.end.tolist())
            for pos in range(first[i], end + 1)
        ]
        lengths = torch.tensor(
            [end + 1 - begin for begin, end in zip(first, batch.end.tolist(), strict=True)]
        )
        self._n_real = len(places)
        places += [places[-1]] * (-len(places) % ROWS)
        self.places = torch.tensor(places, device=batch.end.device)
        self.ends = (lengths.cumsum(0) - 1).to(batch.end.device)
        self.positions = self.places % batch.n_pos

    def __len__(self) -> int:
        return len(self.places)

    def take(self, x: Float[Tensor, "*batch prompt pos d"]) -> Float[Tensor, "*batch row d"]:
        """The rows of ``x``."""
        return x.flatten(-3, -2).index_select(-2, self.places)

    def put(
        self, rows: Float[Tensor, "*batch row d"], into: Float[Tensor, "*#batch prompt pos d"]
    ) -> Float[Tensor, "*batch prompt pos d"]:
        """A copy of ``into`` with these rows in it."""
        whole = into.expand(*rows.shape[:-2], *into.shape[-3:]).clone()
        real = slice(self._n_real)
        whole.flatten(-3, -2).index_copy_(-2, self.places[real], rows[..., real, :])
        return whole


def first_changed(batch: Batch, ablation: AblationName) -> list[int]:
    """The first position of each prompt at which an ablated sender can differ from the clean one.

    Attention looks back only: before the first token that differs, corrupted and clean runs are the
    same.
    """
    if ablation != "corrupted":
        return [0] * batch.n_prompts
    differs = batch.clean != batch.corrupted
    first = torch.where(differs.any(1), differs.int().argmax(1), batch.end)
    return torch.minimum(first, batch.end).tolist()


BYTES_IN_FLIGHT = 256 << 20


def split(batch: Batch, batch_size: int, multiple: int = ROWS) -> list[tuple[Batch, int]]:
    """The batch in groups of ``batch_size`` prompts, each with how many of its prompts are real;
    the last of them again up to a ``multiple``."""
    groups = []
    for first in range(0, batch.n_prompts, batch_size):
        index = list(range(first, min(first + batch_size, batch.n_prompts)))
        filler = [index[-1]] * (-len(index) % multiple)
        groups.append((batch.rows(index + filler), len(index)))
    return groups


def share_out(
    batch: Batch, batch_size: int, n_workers: int, dtype: torch.dtype
) -> list[tuple[Batch, int]]:
    """The batch in groups of at most ``batch_size`` prompts, small enough that each worker has one.

    For runs that fill up answer positions themselves: then all positions together make a multiple
    of ROWS, often with fewer prompts.
    """
    multiple = ROWS // math.gcd(ROWS, batch.n_pos)
    if torch.finfo(dtype).bits < 32:  # there the bits of a row depend on how many stand beside it
        n_workers = 1
    size = min(batch_size, math.ceil(batch.n_prompts / n_workers))
    return split(batch, math.ceil(size / multiple) * multiple, multiple)


def default_batch_size(n_prompts: int, device: str, of_scores: bool = False) -> int:
    """Prompts a block: on a CPU few, so that there are blocks for the threads to share; on a GPU many.

    ``of_scores``: of a method that scores all edges at once, whose blocks hold several runs and
    every sender's change.
    """
    if device != "cpu":
        return 256
    return 8 if n_prompts >= 16 and not of_scores else 4


def mean_over_prompts(values: Float[Tensor, "test prompt"]) -> list[float]:
    """The mean over all prompts, rounded once (math.fsum), a number a test.

    Raises ModelError where one is NaN or infinite.
    """
    means = [math.fsum(row) / len(row) for row in values.tolist()]
    if not all(map(math.isfinite, means)):
        raise ModelError(
            "The metric became NaN or infinite during the search: the model's logits overflow. Use --dtype"
            " float64."
        )
    return means
