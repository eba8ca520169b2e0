"""Which options a method goes with: all that can be said of them before torch is imported."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from circuitfind.circuits.size import Selection, find_select
from circuitfind.errors import UsageError, unknown
from circuitfind.methods.catalogue import CATALOGUE, DEFAULT_SCORES, DEFAULT_SEARCH, MethodInfo
from circuitfind.methods.neuron_options import NEURONS, check_level
from circuitfind.methods.settings import check_setting, parse_setting
from circuitfind.options import Setting, SettledOptions, settled

if TYPE_CHECKING:
    from circuitfind.options import RunOptions

SIZES = ("threshold", "edges", "fraction", "nodes")
OF_SCORES = ("edges", "fraction", "nodes", "select", "bootstrap")
"""Options that go with every method that scores edges, and with no other."""
INSTEAD = "logit-diff"
"""The metric of a method that can't have the task's own, where none is asked for."""
LEAST_RESAMPLES = 2
_KNOWN_BY = {"level": "levels", "kv": "kv"}
"""Where the catalogue says of each option what a method can do."""
ENSEMBLE = "ensemble"


def settle_method(options: RunOptions, task_metric: str) -> tuple[SettledOptions, tuple[str, ...]]:
    """The options with method, metric and settings as they will be, and what the user should know of that.

    Raises UsageError for a method that there is not, for options that it doesn't have, and for
    sizes that contradict each other, are missing or are out of range.
    """
    sizes = [f"--{name}" for name in (*SIZES, NEURONS) if getattr(options, name) is not None]
    if len(sizes) > 1:
        raise UsageError(f"{' and '.join(sizes)} each set the circuit's size. Give one of them.")
    asks_for_number = any(
        getattr(options, name) is not None for name in ("edges", "fraction", "nodes", NEURONS)
    )
    info = find_info(options.method or (DEFAULT_SCORES if asks_for_number else DEFAULT_SEARCH))
    members = [
        find_info(name) for name in (*options.of, *([options.start_from] if options.start_from else []))
    ]
    check_level(options, info)
    _check_belonging(options, info, members)
    if info.scores:
        _check_scoring(options, info, bool(sizes))
        _check_members(options, info, members)
    involved = members if info.name == ENSEMBLE else [info, *members]
    _check_units(options, info, [info, *members])
    if options.positions:
        _check_positions(options, involved)
    metric, said = _settle_metric(options.metric, involved, task_metric)
    settings = tuple(_settle_setting(name, value, involved) for name, value in options.settings)
    decided = settled(options, method=info.name, metric=metric, settings=settings)
    if decided.candidates is None:
        return decided, said
    return _settle_candidates(decided, decided.candidates, said)


def find_info(name: str) -> MethodInfo:
    """The method of that name. Raises UsageError with the nearest one."""
    if name not in CATALOGUE:
        raise UsageError(unknown("method", name, CATALOGUE))
    return CATALOGUE[name]


def _check_belonging(options: RunOptions, info: MethodInfo, members: Sequence[MethodInfo]) -> None:
    """Raises UsageError for an option that neither the method nor a part of it has."""
    defaults: dict[str, Any] = {field.name: field.default for field in fields(options)}
    numbers = [name for name in ("edges", "fraction", "nodes") if getattr(options, name) is not None]
    if not info.scores and numbers:
        raise UsageError(
            f"--{numbers[0]} needs a method that scores edges; {info.name} finds its own number. Give"
            " --threshold instead."
        )
    owned = {option for other in CATALOGUE.values() for option in other.takes} | set(OF_SCORES)
    takes = {option for part in (info, *members) for option in part.takes} | set(
        OF_SCORES if info.scores else ()
    )
    for option in sorted(owned - takes):
        if getattr(options, option) != defaults[option]:
            owners = [other.name for other in CATALOGUE.values() if option in other.takes]
            whose = ", ".join(owners) or "methods that score edges"
            raise UsageError(
                f"{info.name} has no --{option.replace('_', '-')}; it is for {whose}. Leave it out."
            )


def _check_units(options: RunOptions, info: MethodInfo, involved: Sequence[MethodInfo]) -> None:
    """Raises UsageError where a method can't do the level, or what else is asked for does not go with it."""
    asked = {name: getattr(options, name) for name in ("level", "kv")}
    for name, value in asked.items():
        unable = next((part for part in involved if value not in getattr(part, _KNOWN_BY[name])), None)
        if unable is not None:
            able = [
                other.name for other in CATALOGUE.values() if value in getattr(other, _KNOWN_BY[name])
            ]
            raise UsageError(
                f"{unable.name} can't do --{name} {value}: {unable.why_edges}.\nMethods that can:"
                f" {', '.join(able)}."
            )
    if options.level == "node":
        _check_nodes(options, info)
    elif options.nodes is not None:
        raise UsageError(
            f"--nodes counts heads and MLPs, and {options.level}s are decided on here. Add --level node."
        )
    if options.level == "neuron" and options.kv != "per-head":
        raise UsageError(
            "Neurons are of what heads and MLPs write, not of what they read. Leave out --kv."
        )
    if options.select == "greedy" and asked != {"level": "edge", "kv": "per-head"}:
        raise UsageError(
            "--select greedy goes edge by edge, from the logits back. Use top or top-signed here."
        )


def _check_nodes(options: RunOptions, info: MethodInfo) -> None:
    """Raises UsageError for what means nothing where whole nodes are decided on."""
    if options.edges is not None:
        raise UsageError(
            "--edges counts edges, and whole nodes are decided on here. Give --nodes, e.g. --nodes 20."
        )
    if options.kv != "per-head":
        raise UsageError(
            "At node level all edges of a node go together, whoever reads it. Leave out --kv."
        )
    if options.schedule != "sequential":
        raise UsageError(
            f"--schedule {options.schedule} saves tests of edges; at node level there is one for each node. "
            "Leave it out."
        )


def _check_positions(options: RunOptions, involved: Sequence[MethodInfo]) -> None:
    """Raises UsageError for a method, or another option, that does not tell positions apart."""
    for info in involved:
        if not info.positions:
            able = [
                other.name for other in CATALOGUE.values() if other.positions and other.name != ENSEMBLE
            ]
            raise UsageError(
                f"--positions: {info.name} decides on an edge for all positions at once.\n"
                f"Methods that tell positions apart: {', '.join(able)}."
            )
    if options.schedule != "sequential":
        raise UsageError(
            f"--positions: the schedule {options.schedule} estimates edges for all positions at once.\n"
            "Use --schedule sequential, or a method that scores edges, e.g. --method eap-ig --edges 200."
        )
    if (options.level, options.kv) != ("edge", "per-head") or options.candidates is not None:
        raise UsageError(
            "--positions tells single edges apart. Leave out --level, --kv and --candidates."
        )


def _check_scoring(options: RunOptions, info: MethodInfo, has_size: bool) -> None:
    if not has_size and options.level != "neuron":
        one, example = ("node", 20) if options.level == "node" else ("edge", 200)
        raise UsageError(
            f"{info.name} scores every {one} and leaves open how many to keep.\n"
            f"Give --{one}s N, --fraction F or --threshold T, e.g. --{one}s {example}."
        )
    if options.level != "neuron":
        Selection(
            options.edges, options.fraction, options.threshold, find_select(options.select), options.nodes
        )
    if options.steps is not None and options.steps < 1:
        raise UsageError(f"--steps is {options.steps}; it must be 1 or more.")
    if options.bootstrap is not None and options.bootstrap < LEAST_RESAMPLES:
        raise UsageError(f"--bootstrap is {options.bootstrap}; give it 2 resamples or more, such as 200.")
    if options.bootstrap is not None and not _has_prompts(options, info):
        raise UsageError(
            f"--bootstrap draws prompts again, and {info.name} has no scores of single prompts here. Leave it"
            " out."
        )


def _has_prompts(options: RunOptions, info: MethodInfo) -> bool:
    """Whether there will be scores of single prompts."""
    members = [CATALOGUE[name] for name in options.of if name in CATALOGUE]
    return (
        info.per_prompt
        and (options.combine != "rank-mean")
        and all(member.per_prompt for member in members)
    )


def _check_members(options: RunOptions, info: MethodInfo, members: Sequence[MethodInfo]) -> None:
    """Raises UsageError for an ensemble that is none, or a method that can't be part of another."""
    if info.name == ENSEMBLE and len(options.of) < 2:
        raise UsageError("An ensemble needs two methods or more. Name them, e.g. --of eap-ig,relp.")
    if len(set(options.of)) < len(options.of):
        raise UsageError(f"--of is {','.join(options.of)}; name each method once.")
    for member in members:
        _check_member(member)


def _check_member(member: MethodInfo) -> None:
    """Raises UsageError for a method that can't be part of another."""
    if member.name not in _possible_members():
        raise UsageError(
            f"{member.name} can't be part of another method. Methods that can:"
            f" {', '.join(_possible_members())}."
        )


def _possible_members() -> list[str]:
    return [
        info.name
        for info in CATALOGUE.values()
        if info.scores and info.name != ENSEMBLE and not info.learns
    ]


def _settle_metric(
    asked: str | None, involved: Sequence[MethodInfo], task_metric: str
) -> tuple[str, tuple[str, ...]]:
    """The metric. Raises UsageError for one that is asked for and that a method can't have."""
    if asked is not None and not any(info.has_metric for info in involved):
        raise UsageError(f"{involved[0].name} has no --metric: its scores depend on none. Leave it out.")
    metric = asked or task_metric
    unable = next((info for info in involved if metric in info.degenerate), None)
    if unable is None:
        return metric, ()
    if asked is not None:
        raise UsageError(
            f"{unable.name} takes its gradient in the clean run, where that of {asked} is zero: every score"
            f" would be rounding.\nUse another --metric, such as {INSTEAD}, or --method {DEFAULT_SCORES}."
        )
    return INSTEAD, (
        f"the task's metric {metric} has no gradient where {unable.name} takes it: {INSTEAD} instead.",
    )


def _settle_candidates(
    options: SettledOptions, asked: str, said: tuple[str, ...]
) -> tuple[SettledOptions, tuple[str, ...]]:
    """The options with candidates as they are always spelled. Raises UsageError for a method that
    can't choose any.
    """
    name, n_edges = parse_candidates(asked)
    info, metric = find_info(name), options.metric
    _check_member(info)
    if (options.level, options.kv) != ("edge", "per-head"):
        raise UsageError("--candidates are single edges. Leave out --level and --kv, or --candidates.")
    if metric_of_candidates(info, metric) != metric:
        fallback = (
            f"the candidates are those of {INSTEAD}: {metric} has no gradient where {name} takes it."
        )
        said = (*said, fallback)
    return replace(options, candidates=f"{name}:{n_edges}"), said


def parse_candidates(text: str) -> tuple[str, int]:
    """The method and the number of edges in METHOD:N. Raises UsageError for anything else.

    >>> parse_candidates("eap-ig:5000")
    ('eap-ig', 5000)
    """
    name, _, number = (part.strip() for part in text.partition(":"))
    if not name or not re.fullmatch(r"[+-]?\d+", number):
        raise UsageError(f"--candidates is '{text}'; it must be METHOD:N, e.g. eap-ig:5000.")
    n_edges = int(number)
    if n_edges < 1:
        raise UsageError(f"--candidates is '{text}', which asks for {n_edges} edges; ask for 1 or more.")
    return name, n_edges


def metric_of_candidates(info: MethodInfo, metric: str) -> str:
    """What candidates are chosen by: the run's metric where the method can have it."""
    return INSTEAD if metric in info.degenerate else metric


def spell_candidates(block: Mapping[str, Any] | None) -> str:
    """Candidates as the command line has them, from the block of a circuit file; ``none`` where
    there are none.
    """
    return f"{block['method']['name']}:{block['asked']}" if block else "none"


def _settle_setting(name: str, value: Setting, involved: Sequence[MethodInfo]) -> tuple[str, Setting]:
    """A setting in the type that it has. Raises UsageError for one that no method here has, or a
    value it can't be.
    """
    known = {key: default for info in involved for key, default in info.settings.items()}
    key = name.replace("-", "_")
    if key not in known:
        raise UsageError(
            unknown("setting", name, known)
            if known
            else f"{involved[0].name} has no settings. Leave out --set {name}={value}."
        )
    parsed = parse_setting(key, value, known[key])
    check_setting(key, parsed)
    return key, parsed
