"""How large a circuit is to be, and how its edges are chosen from scores: what is asked, without torch.

How many is one of three: a number of edges, a share of all edges (``int(fraction * n_edges)``, as
MIB counts, arXiv:2504.13151), or a threshold, which keeps every edge at or above it.
``circuits/selection.py`` says how they are chosen. Where whole nodes are decided on, all three are
of nodes; where edges go together, of such units (``circuits/units.py``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from circuitfind.errors import UsageError, unknown

if TYPE_CHECKING:
    from circuitfind.circuits.units import Units

SelectName = Literal["top", "top-signed", "greedy"]
SELECTS: tuple[SelectName, ...] = ("top", "top-signed", "greedy")


def find_select(name: str) -> SelectName:
    """The way to select of that name. Raises UsageError with the nearest one."""
    for select in SELECTS:
        if select == name:
            return select
    raise UsageError(unknown("way to select", name, SELECTS, "ways to select"))


@dataclass(frozen=True)
class Selection:
    """How much to keep, exactly one of ``edges``, ``fraction`` (of all edges, in (0, 1]),
    ``threshold`` (in the score's unit) and ``nodes``, and how to choose it. Raises UsageError for
    anything else."""

    edges: int | None = None
    fraction: float | None = None
    threshold: float | None = None
    select: SelectName = "top"
    nodes: int | None = None

    def __post_init__(self) -> None:
        find_select(self.select)
        self._check_one()
        for of, number in (("edges", self.edges), ("nodes", self.nodes)):
            if number is not None and number < 1:
                raise UsageError(f"{number} {of} are asked for; give --{of} a whole number, 1 or more.")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise UsageError(
                f"The fraction is {self.fraction}; give --fraction a number above 0 and at most 1."
            )
        if self.threshold is not None:
            self._check_threshold(self.threshold)

    def _check_one(self) -> None:
        given = {
            "--edges": self.edges,
            "--nodes": self.nodes,
            "--fraction": self.fraction,
            "--threshold": self.threshold,
        }
        said = [f"{option} {value}" for option, value in given.items() if value is not None]
        if len(said) != 1:
            raise UsageError(
                "Give exactly one of --edges, --nodes, --fraction and --threshold, not"
                f" {' and '.join(said) or 'none'}."
            )

    def _check_threshold(self, threshold: float) -> None:
        if not math.isfinite(threshold):
            raise UsageError(f"The threshold is {threshold}; give --threshold a finite number.")
        if threshold < 0 and self.select != "top-signed":
            raise UsageError(
                f"The threshold is {threshold}, below every |score|; give --threshold a number of 0 or more, "
                "or --select top-signed."
            )

    def count(self, units: Units) -> int | None:
        """The nominal number of units (mostly edges); None where a threshold decides.

        A fraction may come to 0 edges, as MIB's smallest ones do on a small graph. Raises
        UsageError where more are asked for than there are.
        """
        if self.fraction is not None:
            return int(self.fraction * units.n)
        asked = self.edges if self.edges is not None else self.nodes
        if asked is not None and asked > units.n:
            raise UsageError(
                f"{asked:,} {units.noun} are asked for; the model's graph has {units.n:,}. Ask for no more."
            )
        return asked


@dataclass(frozen=True)
class NeuronSelection:
    """How many neurons to keep, exactly one of ``neurons``, ``fraction`` (of all, in (0, 1]) and
    ``threshold`` (in the score's unit), and by what: the largest scores by size or, ``top-signed``,
    as they are. Raises UsageError for anything else."""

    neurons: int | None = None
    fraction: float | None = None
    threshold: float | None = None
    select: SelectName = "top"

    def __post_init__(self) -> None:
        if self.select == "greedy":
            raise UsageError(
                "--select greedy follows edges back from the logits, which neurons have none of. Use top."
            )
        if self.neurons is None:
            Selection(None, self.fraction, self.threshold, self.select)
        elif self.neurons < 1:
            raise UsageError(f"--neurons is {self.neurons}; it must be 1 or more.")

    def count(self, n_neurons: int) -> int | None:
        """How many of so many; None where a threshold decides. Raises UsageError where more are asked for."""
        if self.fraction is not None:
            return int(self.fraction * n_neurons)
        if self.neurons is not None and self.neurons > n_neurons:
            raise UsageError(
                f"--neurons is {self.neurons:,}; the model has {n_neurons:,}. Ask for no more."
            )
        return self.neurons
