"""What long work has come to so far: all that it takes to go on with it elsewhere, and end with the
same bits.

Every method that takes long hands this out on the way (``Save``), and takes it to start from. It is
plain tensors and numbers, so that a file can hold it (``runs/checkpoint.py``); what they mean is
the method's own. A file may hold anything: a method takes out what it needs by ``tensor``,
``count`` and ``number``, and says what must hold of it by ``require``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from torch import Tensor

from circuitfind.errors import StateError

T = TypeVar("T")


@dataclass(frozen=True)
class SoFar:
    """``tensors`` and ``numbers`` by name; ``told``: how far it is, for people."""

    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, float] = field(default_factory=dict)
    told: str = ""

    def copy(self) -> SoFar:
        """The same with tensors of its own."""
        return replace(self, tensors={name: tensor.clone() for name, tensor in self.tensors.items()})

    def tensor(self, name: str, like: Tensor) -> Tensor:
        """A copy of the tensor of that name. Raises StateError where it is not of the shape and
        dtype of ``like``.
        """
        tensor = self.tensors.get(name)
        require(tensor is not None, f"it has no {name}")
        assert tensor is not None
        same = tensor.shape == like.shape and tensor.dtype == like.dtype
        require(same, f"its {name} is {_kind(tensor)} and must be {_kind(like)}")
        return tensor.clone()

    def count(self, name: str, most: int = 1 << 53) -> int:
        """The number of that name. Raises StateError where it is no whole number from 0 to ``most``."""
        number = self.number(name)
        require(
            number == int(number) and 0 <= number <= most,
            f"its {name} is {number:g}; it must be 0 to {most:,}",
        )
        return int(number)

    def number(self, name: str) -> float:
        """The number of that name. Raises StateError where there is none, or none that is finite."""
        number = self.numbers.get(name, math.nan)
        require(math.isfinite(number), f"its {name} is {number:g}")
        return number

    def as_part(self, part: str) -> SoFar:
        """The same as a part of longer work: its names begin with the part's.

        >>> list(SoFar({}, {"step": 3}).as_part("start").numbers)
        ['start/step']
        """
        return replace(self, tensors=_prefixed(self.tensors, part), numbers=_prefixed(self.numbers, part))

    def part(self, part: str) -> SoFar | None:
        """What ``as_part`` made of it; None where there is no such part.

        >>> SoFar({}, {"start/step": 3}).part("start").numbers
        {'step': 3}
        """
        tensors, numbers = _unprefixed(self.tensors, part), _unprefixed(self.numbers, part)
        return replace(self, tensors=tensors, numbers=numbers) if tensors or numbers else None

    def __or__(self, other: SoFar) -> SoFar:
        """Both together; the other one tells how far it is."""
        return SoFar({**self.tensors, **other.tensors}, {**self.numbers, **other.numbers}, other.told)


def require(holds: bool, what: str) -> None:
    """Raises StateError, with ``what`` is wrong, unless it ``holds``."""
    if not holds:
        raise StateError(what)


def require_even(scores: Tensor, what: str) -> None:
    """Raises StateError unless each column of ``scores``, [prompt, ...], is finite for all prompts
    or NaN for all.
    """
    known = ~scores.isnan()
    even = bool((known == known[:1]).all()) and not bool(scores.isinf().any())
    require(even, f"its {what} are infinite, or known for some prompts alone")


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _prefixed(named: Mapping[str, T], part: str) -> dict[str, T]:
    return {f"{part}/{name}": value for name, value in named.items()}


def _unprefixed(named: Mapping[str, T], part: str) -> dict[str, T]:
    start = f"{part}/"
    return {name.removeprefix(start): value for name, value in named.items() if name.startswith(start)}


Save = Callable[[SoFar], None]
"""Called with what there is so far, often; the tensors change afterwards, so what is to last must
be copied.
"""


def save_nothing(so_far: SoFar) -> None:
    """The Save of work that no one goes on with."""


def save_part(save: Save, part: str, done: SoFar | None = None) -> Save:
    """The Save of a part of longer work, behind what is ``done`` of the rest."""
    return lambda so_far: save((done or SoFar({})) | so_far.as_part(part))
