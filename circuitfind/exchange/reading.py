"""What reading a file of another tool brings."""

from __future__ import annotations

from dataclasses import dataclass

from circuitfind.exchange.edges import ScoredEdges


@dataclass(frozen=True)
class Read:
    """``notes``: what the file holds that is left out, or lacks, each in a few words to follow its name."""

    edges: ScoredEdges
    notes: tuple[str, ...] = ()
