"""Every error a user can cause, as one tree. The library raises, the app prints.

    CircuitfindError
    ├── UsageError     options that contradict each other or are out of range
    ├── TaskError      a task or prompts file that is unknown, unreadable or wrong
    ├── ModelError     a model that is unknown, can't be reached, read, or reproduced; numbers that overflow in it
    │   └── DivergedError  learned masks that became NaN, with the last scores that were sound (methods/learned.py)
    ├── CircuitError   a circuit file that is unreadable or impossible
    └── OutputError    a place that can't be written, or that holds something already

A message is one or two lines: what was wrong, the value, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CircuitfindError(Exception):
    """What the user can put right. Its text is the whole message."""


class UsageError(CircuitfindError):
    """Options that contradict each other, or a value out of range."""


class TaskError(CircuitfindError):
    """A task or prompts file that is unknown, unreadable or wrong."""


class ModelError(CircuitfindError):
    """A model that is unknown, can't be reached, can't be read or can't be reproduced."""


class CircuitError(CircuitfindError):
    """A circuit file that is unreadable or impossible."""


class OutputError(CircuitfindError):
    """A place that can't be written, or that already holds something."""


def unknown(kind: str, name: str, known: Iterable[str], plural: str | None = None) -> str:
    """The message for a name that nothing answers to, with the nearest known one.

    >>> unknown("task", "greaterthan", ["ioi", "greater-than"])
    "No task named 'greaterthan'. Did you mean 'greater-than'? Tasks: greater-than, ioi."
    """
    names = sorted(known)
    nearest = difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=1, cutoff=0.5)
    hint = next((f" Did you mean '{n}'?" for n in names if nearest and n.lower() == nearest[0]), "")
    return f"No {kind} named '{name}'.{hint} {(plural or kind + 's').capitalize()}: {', '.join(names)}."
