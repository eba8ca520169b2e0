"""Jobs that keep what a search saves, and that begin where one was cut off."""

from __future__ import annotations

from circuitfind.circuits.graph import Graph
from circuitfind.methods.method import Job
from circuitfind.methods.outcome import Found
from circuitfind.methods.saved_state import SoFar


def keeping(states: list[Found], graph: Graph) -> Job:
    """A job whose every saved state is put into ``states``."""

    def save(state: SoFar) -> None:
        found = Found.from_so_far(state, graph)
        assert found is not None
        states.append(found)

    return Job(save=save)


def resuming(state: Found | None) -> Job:
    """A job that begins with what was decided then."""
    return Job(start=None if state is None else state.to_so_far())
