"""Task files in YAML: a name, and prompts listed in it or in a prompts file beside it.

name: capitals
title: The capital of a country          # the rest may be left out
paper: arXiv:...
metric: kl
prompts_file: capitals.jsonl             # or prompts: with the pairs themselves
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from circuitfind.errors import TaskError
from circuitfind.taskfiles.prompts_file import Entry, read_entries, read_text, to_entry

TEXT_KEYS = ("name", "title", "paper", "metric")
KEYS = (*TEXT_KEYS, "prompts", "prompts_file")


def read_yaml(path: Path) -> tuple[dict[str, str], list[Entry]]:
    """The task's texts and its pairs. Raises TaskError if the file as a whole is wrong."""
    data, lines = _parse(path)
    problem = _problem(data)
    if problem:
        raise TaskError(f"{path}: {problem}")
    texts = {key: data[key] for key in TEXT_KEYS if key in data}
    if "prompts_file" in data:
        file = path.parent / data["prompts_file"]
        return texts, read_entries(file)
    return texts, [to_entry(line, pair) for line, pair in zip(lines, data["prompts"], strict=True)]


def prompts_path(path: Path) -> Path:
    """The file that holds the pairs: the task file itself or the one it names."""
    data, _ = _parse(path)
    named = data.get("prompts_file") if isinstance(data, dict) else None
    return path.parent / named if isinstance(named, str) else path


def _parse(path: Path) -> tuple[Any, list[int]]:
    """The document, and the line that each item of ``prompts`` begins on."""
    import yaml  # only tasks in YAML pay for it

    try:
        loader = yaml.SafeLoader(read_text(path))
        node = loader.get_single_node()
        return (None, []) if node is None else (loader.construct_document(node), _prompt_lines(node.value))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise TaskError(f"{path}{where}: not whole YAML: {reason}.") from None


def _prompt_lines(items: Any) -> list[int]:
    nodes = [value for key, value in items if key.value == "prompts"] if items and isinstance(items[0], tuple) else []
    return [node.start_mark.line + 1 for node in nodes[-1].value] if nodes and isinstance(nodes[-1].value, list) else []


def _problem(data: Any) -> str:
    """What is wrong with the document as a task; empty if nothing is."""
    if not isinstance(data, dict):
        return f"it is no task. A task in YAML has the keys {', '.join(KEYS)}."
    unknown = [key for key in data if key not in KEYS]
    if unknown:
        return f"unknown key '{unknown[0]}'. A task in YAML has {', '.join(KEYS)}."
    wrong = [
        key for key in (*TEXT_KEYS, "prompts_file") if key in data and not (isinstance(data[key], str) and data[key])
    ]
    if wrong:
        return f"'{wrong[0]}' is {data[wrong[0]]!r}; it must be a text."
    if "name" not in data:
        return "the key 'name' is missing."
    if ("prompts" in data) == ("prompts_file" in data):
        return "give either 'prompts', a list of pairs, or 'prompts_file', a .jsonl or .csv file."
    return "" if isinstance(data.get("prompts", []), list) else "'prompts' must be a list of pairs."
