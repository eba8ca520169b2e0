"""How large a circuit is to be, and how its edges are chosen from scores: what is asked, without torch.

How many is one of three: a number of edges, a share of all edges (``int(fraction * n_edges)``, as MIB counts,
arXiv:2504.13151), or a threshold, which keeps every edge at or above it. ``selection.py`` says how they are chosen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from circuitfind.errors import UsageError, unknown
from circuitfind.graph import Graph

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
    """How much to keep, exactly one of ``edges``, ``fraction`` (of all edges, in (0, 1]) and ``threshold`` (in the
    score's unit), and how to choose it. Raises UsageError for anything else."""

    edges: int | None = None
    fraction: float | None = None
    threshold: float | None = None
    select: SelectName = "top"

    def __post_init__(self) -> None:
        find_select(self.select)
        self._check_one()
        if self.edges is not None and self.edges < 1:
            raise UsageError(f"{self.edges} edges are asked for; give --edges a whole number, 1 or more.")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise UsageError(f"The fraction is {self.fraction}; give --fraction a number above 0 and at most 1.")
        if self.threshold is not None:
            self._check_threshold(self.threshold)

    def _check_one(self) -> None:
        given = {"--edges": self.edges, "--fraction": self.fraction, "--threshold": self.threshold}
        said = [f"{option} {value}" for option, value in given.items() if value is not None]
        if len(said) != 1:
            raise UsageError(
                f"Give exactly one of --edges, --fraction and --threshold, not {' and '.join(said) or 'none'}."
            )

    def _check_threshold(self, threshold: float) -> None:
        if not math.isfinite(threshold):
            raise UsageError(f"The threshold is {threshold}; give --threshold a finite number.")
        if threshold < 0 and self.select != "top-signed":
            raise UsageError(
                f"The threshold is {threshold}, below every |score|; give --threshold a number of 0 or more, "
                "or --select top-signed."
            )

    def count(self, graph: Graph) -> int | None:
        """The nominal number of edges in this graph; None where a threshold decides.

        A fraction may come to 0 edges, as MIB's smallest ones do on a small graph. Raises UsageError where more are
        asked for than the graph has.
        """
        if self.fraction is not None:
            return int(self.fraction * graph.n_edges)
        if self.edges is not None and self.edges > graph.n_edges:
            raise UsageError(
                f"{self.edges:,} edges are asked for; the model's graph has {graph.n_edges:,}. Ask for no more."
            )
        return self.edges
