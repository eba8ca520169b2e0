"""Random choices that are the same on every machine, under every version of Python, torch and numpy.

All of them come from ``random()`` of Python's own generator, the one method whose numbers Python
promises never to change.
"""

from __future__ import annotations

import random


class Draw:
    """A seeded source of choices; each call goes on where the last one ended."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed).random

    def coin(self) -> bool:
        """Heads or tails."""
        return self._draw() < 0.5

    def below(self, n: int) -> int:
        """One of the first n numbers; n must be at least 1."""
        return int(self._draw() * n)

    def order(self, n: int) -> list[int]:
        """The first n numbers in a random order."""
        keys = [self._draw() for _ in range(n)]
        return sorted(range(n), key=keys.__getitem__)

    def some(self, n: int, most: int | None) -> list[int]:
        """Of the first n numbers at most so many (None: all of them), from the least to the greatest."""
        return list(range(n)) if most is None or n <= most else sorted(self.order(n)[:most])
