"""Ways to find a circuit, by name. A method is a frozen dataclass of its options, and so its own record."""

from __future__ import annotations

from circuitfind.errors import UsageError, unknown
from circuitfind.methods.acdc import ACDC

METHODS = {"acdc": ACDC}


def find_method(name: str) -> type[ACDC]:
    """The method of that name. Raises UsageError with the nearest one."""
    if name not in METHODS:
        raise UsageError(unknown("method", name, METHODS))
    return METHODS[name]
