"""One patched run over all prompts, split into blocks that are computed side by side.

A block is a fixed group of prompts with a ``Rerun`` of its own. Every operation inside a block runs on one thread and
the blocks share the threads, which is faster than sharing each small product between threads, and makes the outcome
independent of how many threads there are: bits depend on an operation's shape, never on who computes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from circuitfind.batch import Batch
from circuitfind.errors import ModelError
from circuitfind.graph import Node, Receiver
from circuitfind.metrics import MetricName, Objective, make_objective
from circuitfind.patching import AblationName, Baseline, prepare
from circuitfind.rerun import ROWS, Rerun
from circuitfind.transformer import Transformer

BYTES_IN_FLIGHT = 256 << 20

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Block:
    """A group of prompts, made up to a multiple of ROWS by repeating the last; ``n_real`` of them count."""

    baseline: Baseline
    n_real: int


def split(batch: Batch, batch_size: int) -> list[tuple[Batch, int]]:
    """The batch in groups of ``batch_size`` prompts, each with how many of its prompts are real."""
    groups = []
    for first in range(0, batch.n_prompts, batch_size):
        index = list(range(first, min(first + batch_size, batch.n_prompts)))
        filler = [index[-1]] * (-len(index) % ROWS)
        groups.append((batch.rows(index + filler), len(index)))
    return groups


class Threads:
    """Workers that each compute on one thread. Use as a context; PyTorch's own threads are back afterwards."""

    def __init__(self, device: torch.device) -> None:
        self._n_threads = torch.get_num_threads() if device.type == "cpu" else 1
        self._before = torch.get_num_threads()

    def __enter__(self) -> Threads:
        torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(self._n_threads, initializer=torch.set_num_threads, initargs=(1,))
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(self._before)

    def map(self, function: Callable[[T], U], items: Sequence[T]) -> list[U]:
        """``function`` of each item, in order."""

        def inferred(item: T) -> U:
            with torch.inference_mode():
                return function(item)

        return list(self._pool.map(inferred, items))


class _BlockSearch:
    """The part of a search that one block computes."""

    def __init__(self, baseline: Baseline, objective: Objective, n_real: int) -> None:
        self.rerun = Rerun(baseline)
        self._objective = objective
        self._n_real = n_real
        self._change: Tensor | None = None

    def start(self) -> Tensor:
        return self._score(self.rerun.baseline.final.unsqueeze(0))

    def visit(self, receiver: Receiver) -> None:
        self.rerun.visit(receiver)
        self._change = self.rerun.zero_change(receiver)

    def test(self, receiver: Receiver, senders: Sequence[int]) -> Float[Tensor, "test prompt"]:
        return self._score(self.rerun.what_if(receiver, torch.stack(list(self._chain(receiver, senders)))))

    def remove(self, receiver: Receiver, senders: Sequence[int]) -> None:
        *_, self._change = (self._change, *self._chain(receiver, senders))

    def leave(self, receiver: Receiver, kept: Sequence[Node]) -> Tensor:
        assert self._change is not None
        return self._score(self.rerun.commit(receiver, self._change, kept).unsqueeze(0))

    def _chain(self, receiver: Receiver, senders: Sequence[int]) -> Iterator[Tensor]:
        """The input's change as these edges are removed one after another."""
        change = self._change
        assert change is not None
        for sender in senders:
            change = change + self.rerun.removal(receiver, sender)
            yield change

    def _score(self, final: Tensor) -> Tensor:
        return self._objective(final)[:, : self._n_real]


def default_batch_size(n_prompts: int, device: str) -> int:
    """Prompts a block: on a CPU few, so that there are blocks for the threads to share; on a GPU many."""
    if device != "cpu":
        return 256
    return 8 if n_prompts >= 16 else 4


class Search:
    """A patched run over all prompts whose edges are removed receiver by receiver, in reverse forward order.

    ``value`` is the objective's mean over the prompts in the present run, in its own unit (nats, logits, probability).
    """

    def __init__(
        self,
        model: Transformer,
        batch: Batch,
        ablation: AblationName,
        metric: MetricName,
        threads: Threads,
        batch_size: int,
        match: bool = False,
    ) -> None:
        self._threads = threads

        def open_block(group: tuple[Batch, int]) -> _BlockSearch:
            baseline = prepare(model, group[0], ablation)
            objective = make_objective(metric, model, group[0], baseline.final, match)
            return _BlockSearch(baseline, objective, group[1])

        self._blocks = threads.map(open_block, split(batch.to(model.device), batch_size))
        (self.value,) = self._mean(_BlockSearch.start)

    @property
    def longest_chain(self) -> int:
        """How many tests may run side by side without a block holding more than ``BYTES_IN_FLIGHT``; at least one."""
        widest = max(block.rerun.bytes_per_test for block in self._blocks)
        return max(1, BYTES_IN_FLIGHT // max(1, widest))

    def is_live(self, node: Node) -> bool:
        """Whether a kept edge leaves ``node`` towards a visited receiver. The logits always live."""
        return self._blocks[0].rerun.is_live(node)

    def visit(self, receiver: Receiver) -> None:
        """Begin removing edges into ``receiver``; its node must be live."""
        self._threads.map(lambda block: block.visit(receiver), self._blocks)

    def test(self, receiver: Receiver, senders: Sequence[int]) -> list[float]:
        """The objective as the edges from ``senders`` (numbers) are removed too, one after another: one number each."""
        return self._mean(lambda block: block.test(receiver, senders))

    def remove(self, receiver: Receiver, senders: Sequence[int]) -> None:
        """Remove the edges from ``senders`` (numbers), in that order."""
        self._threads.map(lambda block: block.remove(receiver, senders), self._blocks)

    def leave(self, receiver: Receiver, kept: Sequence[Node]) -> None:
        """End with ``receiver``, of whose edges those from ``kept`` alone are left."""
        (self.value,) = self._mean(lambda block: block.leave(receiver, kept))

    def _mean(self, function: Callable[[_BlockSearch], Tensor]) -> list[float]:
        """The mean over all prompts of what each block returns, rounded once (math.fsum), a number a test."""
        rows = torch.cat([part.cpu() for part in self._threads.map(function, self._blocks)], dim=1).tolist()
        means = [math.fsum(row) / len(row) for row in rows]
        if not all(map(math.isfinite, means)):
            raise ModelError(
                "The metric became NaN or infinite during the search: the model's logits overflow. Use --dtype float64."
            )
        return means
