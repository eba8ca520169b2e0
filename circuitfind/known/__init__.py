"""Circuits that are known: what was published, and what was established before; and how another
compares with them.

circuits/        the published ones, one JSON file each: heads and MLPs by role, with the paper
published.py     names and paths -> KnownCircuit compare.py       a circuit against a known one:
which heads of which role it has, and how well its scores rank them
"""

from circuitfind.known.published import (
    KnownCircuit,
    all_known,
    choose_known,
    find_known,
    load_known,
    published_for,
)

__all__ = ["KnownCircuit", "all_known", "choose_known", "find_known", "load_known", "published_for"]
