"""One patched run over all prompts, split into blocks that are computed side by side.

A block is a fixed group of prompts with a ``Rerun`` of its own. Every operation inside a block runs on one thread and
the blocks share the threads, which is faster than sharing each small product between threads, and makes the outcome
independent of how many threads there are: bits depend on an operation's shape, never on who computes it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from circuitfind.batch import Batch
from circuitfind.errors import ModelError
from circuitfind.graph import Node, Receiver
from circuitfind.metrics import ENCLOSED, MetricName, Objective, make_objective
from circuitfind.partition import make_yardstick
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
    """The part of a search that one block computes. ``_final`` is what the logits read in the present run."""

    def __init__(self, baseline: Baseline, objective: Objective, n_real: int) -> None:
        self.rerun = Rerun(baseline)
        self._objective = objective
        self._n_real = n_real
        self._final = baseline.final
        self._finals = baseline.final.unsqueeze(0)
        self._change: Tensor | None = None

    def value(self) -> Float[Tensor, "1 prompt"]:
        return self._objective(self._final.unsqueeze(0))[:, : self._n_real]

    def visit(self, receiver: Receiver) -> None:
        self.rerun.visit(receiver)
        self._change = self.rerun.zero_change(receiver)

    def restore(self, receiver: Receiver, senders: Sequence[int]) -> None:
        *_, self._change = (self._change, *self._chain(receiver, senders))
        assert self._change is not None
        self._final = self.rerun.what_if(receiver, self._change.unsqueeze(0))[0]

    def test(
        self, receiver: Receiver, senders: Sequence[int], at_once: int, tolerance: float
    ) -> tuple[Float[Tensor, "test prompt"], Float[Tensor, "test prompt"]]:
        changes = self._chain(receiver, senders)
        groups = iter(lambda: list(itertools.islice(changes, at_once)), [])
        self._finals = torch.cat([self.rerun.what_if(receiver, torch.stack(group)) for group in groups])
        values, radii = self._objective.enclose(self._final, self._finals, tolerance)
        return values[:, : self._n_real], radii[:, : self._n_real]

    def compute(self, tests: Sequence[int]) -> Float[Tensor, "test prompt"]:
        return self._objective(self._finals[list(tests)])[:, : self._n_real]

    def remove(self, receiver: Receiver, senders: Sequence[int]) -> None:
        *_, self._change = (self._change, *self._chain(receiver, senders))
        self._final = self._finals[len(senders) - 1]

    def leave(self, receiver: Receiver, kept: Sequence[Node]) -> None:
        assert self._change is not None
        self._final = self.rerun.commit(receiver, self._change, kept)

    def _chain(self, receiver: Receiver, senders: Sequence[int]) -> Iterator[Tensor]:
        """The input's change as these edges are removed one after another."""
        change = self._change
        assert change is not None
        for sender in senders:
            change = change + self.rerun.removal(receiver, sender)
            yield change


def default_batch_size(n_prompts: int, device: str) -> int:
    """Prompts a block: on a CPU few, so that there are blocks for the threads to share; on a GPU many."""
    if device != "cpu":
        return 256
    return 8 if n_prompts >= 16 else 4


def mean_over_prompts(parts: Sequence[Float[Tensor, "test _"]]) -> list[float]:
    """The mean over all prompts of what each block returned, rounded once (math.fsum), a number a test.

    Raises ModelError where one is NaN or infinite.
    """
    rows = torch.cat([part.cpu() for part in parts], dim=1).tolist()
    means = [math.fsum(row) / len(row) for row in rows]
    if not all(map(math.isfinite, means)):
        raise ModelError(
            "The metric became NaN or infinite during the search: the model's logits overflow. Use --dtype float64."
        )
    return means


class Chain:
    """Tests of one receiver: the objective as its edges go one after another, each within ``radii`` of ``values``.

    Means over the prompts, in the objective's unit. The last test is exact: its radius is 0.
    """

    def __init__(self, search: Search, values: list[float], radii: list[float]) -> None:
        self._search = search
        self.values = values
        self.radii = radii

    def compute(self, tests: Iterable[int]) -> None:
        """Makes these tests exact."""
        wanted = [test for test in tests if self.radii[test] > 0]
        if wanted:
            for test, value in zip(wanted, self._search.compute(wanted), strict=True):
                self.values[test], self.radii[test] = value, 0.0


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
        bytes_in_flight: int = BYTES_IN_FLIGHT,
    ) -> None:
        self._threads = threads
        self._bytes_in_flight = bytes_in_flight
        yardstick = make_yardstick(model) if metric in ENCLOSED else None

        def open_block(group: tuple[Batch, int]) -> _BlockSearch:
            baseline = prepare(model, group[0], ablation)
            objective = make_objective(metric, model, group[0], baseline.final, match, yardstick)
            return _BlockSearch(baseline, objective, group[1])

        self._blocks = threads.map(open_block, split(batch.to(model.device), batch_size))
        (self.value,) = mean_over_prompts(self._map(_BlockSearch.value))

    @property
    def at_once(self) -> int:
        """How many tests run side by side without a block holding more than its ``bytes_in_flight``; at least one."""
        widest = max(block.rerun.bytes_per_test for block in self._blocks)
        return max(1, self._bytes_in_flight // max(1, widest))

    def is_live(self, node: Node) -> bool:
        """Whether a kept edge leaves ``node`` towards a visited receiver. The logits always live."""
        return self._blocks[0].rerun.is_live(node)

    def visit(self, receiver: Receiver, removed: Sequence[int] = ()) -> None:
        """Begin removing edges into ``receiver``, whose node must live; those from ``removed`` go at once, in order."""
        self._map(lambda block: block.visit(receiver))
        if removed:
            self._map(lambda block: block.restore(receiver, removed))
            (self.value,) = mean_over_prompts(self._map(_BlockSearch.value))

    def test(self, receiver: Receiver, senders: Sequence[int], tolerance: float) -> Chain:
        """The objective as the edges from ``senders`` (numbers) go too, one after another, to within ``tolerance``."""
        at_once = self.at_once
        parts = self._map(lambda block: block.test(receiver, senders, at_once, tolerance))
        values, radii = (mean_over_prompts(own) for own in zip(*parts, strict=True))
        return Chain(self, values, radii)

    def compute(self, tests: Sequence[int]) -> list[float]:
        """The exact objective of these tests of the last chain."""
        return mean_over_prompts(self._map(lambda block: block.compute(tests)))

    def remove(self, receiver: Receiver, senders: Sequence[int], value: float) -> None:
        """Remove the edges from ``senders``, the first (at least one) of the last chain; this leaves ``value``."""
        self._map(lambda block: block.remove(receiver, senders))
        self.value = value

    def leave(self, receiver: Receiver, kept: Sequence[Node]) -> None:
        """End with ``receiver``, of whose edges those from ``kept`` alone are left."""
        self._map(lambda block: block.leave(receiver, kept))

    def _map(self, function: Callable[[_BlockSearch], T]) -> list[T]:
        return self._threads.map(function, self._blocks)
