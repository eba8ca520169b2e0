"""Task files in YAML: a name, and prompts listed in it or in a prompts file beside it.

name: capitals
title: The capital of a country          # the rest may be left out
paper: arXiv:...
metric: kl
prompts_file: capitals.jsonl             # or prompts: with the pairs themselves

An alias (``*names``) may stand for a value given once (``&names``). What a document comes to with
every alias written out is counted before anything is made of it: nine lines of aliases of aliases
can say 10^9 values.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitfind.errors import TaskError, cut, shown
from circuitfind.files.json_file import fit
from circuitfind.files.links import leads_outside
from circuitfind.prompts.files.prompts_file import Entry, read_entries, read_text, to_entry
from circuitfind.prompts.files.schema import About

if TYPE_CHECKING:
    from yaml.nodes import Node

ABOUT = ("name", "title", "paper", "metric")
KEYS = (*ABOUT, "prompts", "prompts_file")
MOST_BYTES = 1 << 21
MOST_VALUES = 100_000
MOST_DEPTH = 50


def read_yaml(path: Path) -> tuple[dict[str, str], Iterable[Entry], Path]:
    """The task's texts, its pairs, and the file that these are in. Raises TaskError if the file as
    a whole is wrong.
    """
    data, lines = _parse(path)
    problem = _problem(data)
    if problem:
        raise TaskError(f"{path}: {problem}")
    fit({key: data[key] for key in ABOUT if key in data}, About, str(path), TaskError)
    texts = {key: data[key] for key in ABOUT if key in data}
    if "prompts_file" in data:
        file = path.parent / data["prompts_file"]
        if leads_outside(file, path.parent):
            raise TaskError(
                f"{path}: its prompts_file {shown(data['prompts_file'])} is not beside it, and is not read.\n"
                "Move it there, or give the prompts file itself as the task."
            )
        return texts, read_entries(file), file
    return texts, [to_entry(line, pair) for line, pair in zip(lines, data["prompts"], strict=True)], path


def _parse(path: Path) -> tuple[Any, list[int]]:
    """The document, and the line that each item of ``prompts`` begins on."""
    import yaml  # only tasks in YAML pay for it

    text = read_text(path, MOST_BYTES)
    kind = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times as fast
    try:
        _check_depth(yaml.parse(text, kind))
        loader = kind(text)
        node = loader.get_single_node()
        if node is None:
            return None, []
        _check_count(_count(node, {}))
        return loader.construct_document(node), _prompt_lines(node)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise TaskError(f"{path}{where}: not whole YAML: {cut(reason)}.") from None


def _check_depth(events: Iterable[Any]) -> None:
    """Raises ValueError where values are nested too deeply, which would end the process in C, or too many."""
    from yaml.events import CollectionEndEvent, CollectionStartEvent

    depth = 0
    for number, event in enumerate(events):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > MOST_DEPTH:
            raise ValueError(f"line {event.start_mark.line + 1} is nested more than {MOST_DEPTH} deep")
        _check_count(number // 2)


def _check_count(n_values: float) -> None:
    if n_values > MOST_VALUES:
        many = f"{n_values:.3g}" if n_values > 2 * MOST_VALUES else "more"
        raise ValueError(
            f"it comes to {many} values, and {MOST_VALUES:,} are the most: put pairs into a prompts file"
        )


def _count(node: Node, known: dict[int, float]) -> float:
    """How many values a node comes to, each alias counted as what it stands for. ``known``: those
    of nodes seen.

    Raises ValueError where a node stands in itself, and where a key stands in a mapping twice.
    """
    if id(node) not in known:
        known[id(node)] = float("nan")  # until it is known: whoever asks meanwhile stands in it
        pairs = isinstance(node.value, list) and node.value and isinstance(node.value[0], tuple)
        if pairs:
            _check_keys(node)
        inner = [each for pair in node.value for each in pair] if pairs else node.value
        known[id(node)] = 1 + (
            sum(_count(each, known) for each in inner) if isinstance(inner, list) else 0
        )
    if known[id(node)] != known[id(node)]:
        raise ValueError(f"what begins in line {node.start_mark.line + 1} stands in itself")
    return known[id(node)]


def _check_keys(node: Node) -> None:
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if isinstance(key.value, str) and (key.tag, key.value) in seen:
            raise ValueError(
                f"the key {shown(key.value)} stands twice in what begins in line {node.start_mark.line + 1}"
            )
        if isinstance(key.value, str):
            seen.add((key.tag, key.value))


def _prompt_lines(node: Node) -> list[int]:
    from yaml import MappingNode, SequenceNode

    items = node.value if isinstance(node, MappingNode) else []
    found = next((value for key, value in items if key.value == "prompts"), None)
    return [item.start_mark.line + 1 for item in found.value] if isinstance(found, SequenceNode) else []


def _problem(data: Any) -> str:
    """What is wrong with the document's keys as a task's; empty if nothing is."""
    if not isinstance(data, dict):
        return f"it is no task. A task in YAML has the keys {', '.join(KEYS)}."
    unknown = [key for key in data if key not in KEYS]
    if unknown:
        return f"unknown key {shown(unknown[0])}. A task in YAML has {', '.join(KEYS)}."
    if "name" not in data:
        return "the key 'name' is missing."
    if ("prompts" in data) == ("prompts_file" in data):
        return "give either 'prompts', a list of pairs, or 'prompts_file', a .jsonl or .csv file."
    if not isinstance(data.get("prompts", []), list):
        return "'prompts' must be a list of pairs."
    file = data.get("prompts_file", "-")
    return (
        "" if isinstance(file, str) and file else f"'prompts_file' is {shown(file)}; it must be a text."
    )
