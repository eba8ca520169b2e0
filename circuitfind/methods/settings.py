"""What ``--set`` sets: a method's own options, their types and the values that they take. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from circuitfind.errors import UsageError
from circuitfind.options import Setting

INPUTS = ("qkv", "v")
"""Those of a head that ``ifr`` hands its share on to."""
HIGHEST_SPARSITY = 1.2
"""The highest target in the Edge-Pruning code (for CodeLlama-13B)."""


@dataclass(frozen=True)
class Rule:
    """What a value must be, and whether one is that."""

    wanted: str
    holds: Callable[[Any], bool]


_SPARSITY = Rule(
    f"0 to {HIGHEST_SPARSITY}, the share that is removed",
    lambda x: x is None or 0 <= x <= HIGHEST_SPARSITY,
)
RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "learning_rate": Rule("a finite number above 0", lambda x: 0 < x < math.inf),
        "prompts_per_step": Rule("1 or more", lambda x: x >= 1),
        "penalty": Rule("a finite number, 0 or more", lambda x: 0 <= x < math.inf),
        "sparsity": _SPARSITY,
        "node_sparsity": _SPARSITY,
        "temperature": Rule("a finite number above 0, such as 2", lambda x: 0 < x < math.inf),
        "inputs": Rule(" or ".join(INPUTS), lambda x: x in INPUTS),
    }
)
"""By the setting's name, which means the same in every method. Those of true and false need none."""


def check_settings(method: object) -> None:
    """Raises UsageError for a field of the method whose value is not what that setting must be."""
    for name, value in vars(method).items():
        check_setting(name, value)


def check_setting(name: str, value: Setting) -> None:
    """Raises UsageError for a value that the setting does not take; what is no setting may be anything.

    >>> check_setting("sparsity", 0.98)
    """
    if name in RULES and not RULES[name].holds(value):
        raise UsageError(f"--set {name}={value}: it must be {RULES[name].wanted}.")


def parse_setting(name: str, value: Setting, default: Setting) -> Setting:
    """The value in the type of the default (a number where that is None).

    >>> parse_setting("temperature", "4", 2.0)
    4.0
    """
    if not isinstance(value, str) or isinstance(default, str):
        return value
    if isinstance(default, bool):
        words = {"true": True, "false": False}
        if value.lower() not in words:
            raise UsageError(f"--set {name}={value}: it must be true or false.")
        return words[value.lower()]
    kind = int if isinstance(default, int) else float
    try:
        return kind(value)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise UsageError(f"--set {name}={value}: it must be {what}.") from None
