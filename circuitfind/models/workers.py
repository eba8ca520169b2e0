"""Work shared between threads in pieces that are fixed beforehand, so that its bits depend on no
number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar, runtime_checkable

import torch

T = TypeVar("T")
U = TypeVar("U")


@runtime_checkable
class Each(Protocol):
    """Calls a function with each item; the outcomes in order."""

    def __call__(self, function: Callable[[T], U], items: Sequence[T], /) -> list[U]: ...


def one_by_one(function: Callable[[T], U], items: Sequence[T], /) -> list[U]:
    """``Each`` in the caller's own thread."""
    return [function(item) for item in items]


class Threads:
    """Workers that each compute on one thread. Use as a context; PyTorch's own threads are back
    afterwards.
    """

    def __init__(self, device: torch.device) -> None:
        self.n = torch.get_num_threads() if device.type == "cpu" else 1
        """How many workers there are."""
        self._before = torch.get_num_threads()

    def __enter__(self) -> Threads:
        torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(self.n, initializer=torch.set_num_threads, initargs=(1,))
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(self._before)

    def map(
        self,
        function: Callable[[T], U],
        items: Sequence[T],
        /,
        tell: Callable[[int], None] = lambda n_done: None,
    ) -> list[U]:
        """``function`` of each item, in order; autograd may take up the tensors that it makes.
        ``tell`` hears, in the caller's thread, how many are done."""

        def called(item: T) -> U:
            with torch.inference_mode(False), torch.no_grad():
                return function(item)

        found = []
        for outcome in self._pool.map(called, items):
            found.append(outcome)
            tell(len(found))
        return found
