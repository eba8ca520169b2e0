"""Which options a method goes with: all that can be said of them before torch is imported."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from circuitfind.errors import UsageError, unknown
from circuitfind.methods.catalogue import CATALOGUE, DEFAULT_SCORES, DEFAULT_SEARCH, MethodInfo
from circuitfind.size import Selection

if TYPE_CHECKING:
    from circuitfind.preflight import RunOptions

SIZES = ("threshold", "edges", "fraction")
OF_SCORES = ("edges", "fraction", "select", "bootstrap")
"""Options that go with every method that scores edges, and with no other."""
INSTEAD = "logit-diff"
"""The metric of a method that can't have the task's own, where none is asked for."""
LEAST_RESAMPLES = 2


def settle_method(options: RunOptions, task_metric: str) -> tuple[RunOptions, tuple[str, ...]]:
    """The options with method and metric named, and what the user should know of that.

    Raises UsageError for a method that there is not, for options that it doesn't have, and for sizes that contradict
    each other, are missing or are out of range.
    """
    sizes = [f"--{name}" for name in SIZES if getattr(options, name) is not None]
    if len(sizes) > 1:
        raise UsageError(f"{' and '.join(sizes)} each set the circuit's size. Give one of them.")
    asks_for_number = options.edges is not None or options.fraction is not None
    name = options.method or (DEFAULT_SCORES if asks_for_number else DEFAULT_SEARCH)
    if name not in CATALOGUE:
        raise UsageError(unknown("method", name, CATALOGUE))
    info = CATALOGUE[name]
    _check_belonging(options, info)
    if info.scores:
        _check_scoring(options, info, bool(sizes))
    metric, said = _settle_metric(options.metric, info, task_metric)
    return replace(options, method=name, metric=metric), said


def _check_belonging(options: RunOptions, info: MethodInfo) -> None:
    """Raises UsageError for an option of other methods."""
    defaults: dict[str, Any] = {field.name: field.default for field in fields(options)}
    if not info.scores and (options.edges is not None or options.fraction is not None):
        given = "--edges" if options.edges is not None else "--fraction"
        raise UsageError(
            f"{given} needs a method that scores edges; {info.name} finds its own number. Give --threshold instead."
        )
    owned = {option for other in CATALOGUE.values() for option in other.takes} | set(OF_SCORES)
    takes = {*info.takes, *(OF_SCORES if info.scores else ())}
    for option in sorted(owned - takes):
        if getattr(options, option) != defaults[option]:
            owners = [other.name for other in CATALOGUE.values() if option in other.takes]
            whose = ", ".join(owners) or "methods that score edges"
            raise UsageError(f"{info.name} has no --{option.replace('_', '-')}; it is for {whose}. Leave it out.")


def _check_scoring(options: RunOptions, info: MethodInfo, has_size: bool) -> None:
    if not has_size:
        raise UsageError(
            f"{info.name} scores every edge and leaves open how many to keep.\n"
            "Give --edges N, --fraction F or --threshold T, e.g. --edges 200."
        )
    Selection(options.edges, options.fraction, options.threshold, options.select)  # type: ignore[arg-type]
    if options.steps is not None and options.steps < 1:
        raise UsageError(f"--steps is {options.steps}; it must be 1 or more.")
    if options.bootstrap is not None:
        if not info.per_prompt:
            raise UsageError(
                f"--bootstrap draws prompts again, and {info.name} has no scores of single prompts. Leave it out."
            )
        if options.bootstrap < LEAST_RESAMPLES:
            raise UsageError(f"--bootstrap is {options.bootstrap}; give it 2 resamples or more, such as 200.")
    if options.resume:
        raise UsageError(f"{info.name} keeps no state to go on from. Leave out --resume to run it anew.")


def _settle_metric(asked: str | None, info: MethodInfo, task_metric: str) -> tuple[str, tuple[str, ...]]:
    """The metric. Raises UsageError for one that is asked for and that the method can't have."""
    if asked in info.degenerate:
        raise UsageError(
            f"{info.name} takes its gradient in the clean run, where that of {asked} is zero: every score would be "
            f"rounding.\nUse another --metric, such as {INSTEAD}, or --method {DEFAULT_SCORES}."
        )
    if asked is not None:
        return asked, ()
    if task_metric not in info.degenerate:
        return task_metric, ()
    return INSTEAD, (f"the task's metric {task_metric} has no gradient where {info.name} takes it: {INSTEAD} instead.",)
