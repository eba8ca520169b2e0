"""Every error a user can cause, as one tree. The library raises, the app prints.

    CircuitfindError
    ├── UsageError     options that contradict each other or are out of range
    ├── TaskError      a task or prompts file that is unknown, unreadable or wrong
    ├── ModelError     a model that is unknown, or can't be read or reproduced; numbers that overflow
    │   └── DivergedError  learned masks that became NaN, with the last sound scores
    ├── CircuitError   a circuit file that is unreadable or impossible
    └── OutputError    a place that can't be written, or that holds something already
        ├── BusyError      another process is at work there
        └── StateError     what a run was to go on from does not fit it

A message is one or two lines: what was wrong, the value, what to do. Of a value it shows no more
than LONGEST_VALUE characters, whoever made the message.
"""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections.abc import Iterable
from typing import Any

LONGEST_VALUE = 200
"""Characters of a value that a message shows."""
LONGEST_NUMBER = 40
LONGEST_MESSAGE = 2000
FEW = 5
"""Items of a list or object that a message shows."""
_QUOTED = re.compile(
    rf"(?<!\w)(?P<quote>['\"`])(?P<value>(?:(?!(?P=quote))[^\n]){{{LONGEST_VALUE + 4},}})"
)
_UNBROKEN = re.compile(
    rf"\S{{{LONGEST_VALUE + 20},}}"
)  # a value that is cut, its quotes and a comma are none


class CircuitfindError(Exception):
    """What the user can put right. Its text is the whole message."""

    def __init__(self, message: str = "") -> None:
        super().__init__(shorten(message))


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


class BusyError(OutputError):
    """A place that another process writes to."""


class StateError(OutputError):
    """What was saved of a run is not what such a run can have come to."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"The saved state is damaged: {cut(what)}.\nBegin anew with --force in place of --resume."
        )


def cut(text: str, most: int = LONGEST_VALUE) -> str:
    """The text, or as much of it as a message shows.

    >>> cut("abcdef", 3)
    'abc...'
    """
    return text if len(text) <= most else f"{text[:most]}..."


def shown(value: object, quote: bool = True) -> str:
    """A value as a message shows it, on one line: as JSON spells it, texts in single quotes, cut
    where it is long.

    >>> shown("ioi"), shown(None), shown([1, "x"]), shown({})
    ("'ioi'", 'null', "[1, 'x']", 'an empty object')
    """
    if isinstance(value, dict | list) and not value:
        return "an empty object" if isinstance(value, dict) else "an empty list"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, dict | list):
        return cut(_head(value))
    text = cut(value) if isinstance(value, str) else cut(str(value), LONGEST_NUMBER)
    line = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    return f"'{line}'" if quote and isinstance(value, str) else line


def _head(value: dict[Any, Any] | list[Any], deeper: int = 2) -> str:
    """The beginning of a list or object, of which no more is looked at than is shown."""
    if deeper == 0:
        return "..."
    more = ", ..." if len(value) > FEW else ""
    if isinstance(value, dict):
        pairs = itertools.islice(value.items(), FEW)
        return "{" + ", ".join(f"{_item(k, deeper)}: {_item(v, deeper)}" for k, v in pairs) + more + "}"
    return "[" + ", ".join(_item(item, deeper) for item in value[:FEW]) + more + "]"


def _item(value: object, deeper: int) -> str:
    return _head(value, deeper - 1) if isinstance(value, dict | list) else shown(value)


def shorten(message: str) -> str:
    """A message without what no reader of it needs: of each quoted value and each word the
    beginning alone.
    """
    if len(message) <= LONGEST_VALUE:
        return message
    message = _QUOTED.sub(
        lambda found: found["quote"] + cut(found["value"]), message[: 50 * LONGEST_MESSAGE]
    )
    return cut(_UNBROKEN.sub(lambda found: cut(found[0]), message), LONGEST_MESSAGE)


def unknown(kind: str, name: str, known: Iterable[str], plural: str | None = None) -> str:
    """The message for a name that nothing answers to, with the nearest known one.

    >>> unknown("task", "greaterthan", ["ioi", "greater-than"])
    "No task named 'greaterthan'. Did you mean 'greater-than'? Tasks: greater-than, ioi."
    """
    names = sorted(known)
    nearest = difflib.get_close_matches(
        name[:LONGEST_VALUE].lower(), [n.lower() for n in names], n=1, cutoff=0.5
    )
    hint = next((f" Did you mean '{n}'?" for n in names if nearest and n.lower() == nearest[0]), "")
    return (
        f"No {kind} named '{cut(name)}'.{hint} {(plural or kind + 's').capitalize()}: {', '.join(names)}."
    )
