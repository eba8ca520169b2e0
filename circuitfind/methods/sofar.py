"""What long work has come to so far: all that it takes to go on with it elsewhere, and end with the same bits.

Every method that takes long hands this out on the way (``Save``), and takes it to start from. It is plain tensors and
numbers, so that a file can hold it (``checkpoint.py``); what they mean is the method's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from torch import Tensor

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


def _prefixed(named: Mapping[str, T], part: str) -> dict[str, T]:
    return {f"{part}/{name}": value for name, value in named.items()}


def _unprefixed(named: Mapping[str, T], part: str) -> dict[str, T]:
    start = f"{part}/"
    return {name.removeprefix(start): value for name, value in named.items() if name.startswith(start)}


Save = Callable[[SoFar], None]
"""Called with what there is so far, often; the tensors change afterwards, so what is to last must be copied."""


def save_nothing(so_far: SoFar) -> None:
    """The Save of work that no one goes on with."""


def save_part(save: Save, part: str, done: SoFar | None = None) -> Save:
    """The Save of a part of longer work, behind what is ``done`` of the rest."""
    return lambda so_far: save((done or SoFar({})) | so_far.as_part(part))
