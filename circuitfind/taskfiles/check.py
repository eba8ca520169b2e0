"""Everything wrong with a task or prompts file, each problem with its line or prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from circuitfind.errors import TaskError
from circuitfind.prompts import PromptPair, Tokenizer, check_pair, check_pairs, check_roles
from circuitfind.taskfiles.prompts_file import Entry, pairs_of, read_entries
from circuitfind.taskfiles.source import PROMPTS_SUFFIXES, YAML_SUFFIXES, find_file, load_task
from circuitfind.taskfiles.yamlfile import prompts_path, read_yaml

SAMPLE = 50  # prompts that a task which makes them is tried with


@dataclass(frozen=True)
class Report:
    """What a check found: how many prompts were looked at, whether as tokens too, and each problem as one line."""

    n_prompts: int
    tokens_checked: bool
    problems: tuple[str, ...]


def check_task(name_or_path: str, tokenizer: Tokenizer | None = None) -> Report:
    """Everything wrong with a task: with its words, and with its tokens where a tokenizer is given.

    A task in Python is tried on ``SAMPLE`` prompts, without a tokenizer on its example alone. Raises TaskError if there
    is no such task or file.
    """
    path = find_file(name_or_path)
    try:
        if path.suffix.lower() in (*PROMPTS_SUFFIXES, *YAML_SUFFIXES):
            return _check_file(path, tokenizer)
        return _check_made(name_or_path, tokenizer)
    except TaskError as error:
        return Report(0, tokenizer is not None, (str(error),))


def _check_file(path: Path, tokenizer: Tokenizer | None) -> Report:
    in_yaml = path.suffix.lower() in YAML_SUFFIXES
    entries = read_yaml(path)[1] if in_yaml else read_entries(path)
    file = prompts_path(path) if in_yaml else path
    if not entries:
        pairs_of(entries, file)
    where = "line" if file == path else f"{file.name}, line"
    first = next((entry.pair for entry in entries if entry.pair), None)
    problems = [
        f"{where} {entry.line}: {problem}" for entry in entries for problem in _problems(entry, tokenizer, first)
    ]
    if in_yaml and not problems:
        load_task(str(path))
    return Report(len(entries), tokenizer is not None, tuple(problems))


def _problems(entry: Entry, tokenizer: Tokenizer | None, first: PromptPair | None) -> Sequence[str]:
    if entry.pair is None or first is None:
        return [entry.problem]
    return [*check_pair(entry.pair, tokenizer), *check_roles(entry.pair, first, tokenizer)]


def _check_made(name_or_path: str, tokenizer: Tokenizer | None) -> Report:
    task = load_task(name_or_path)
    if tokenizer is None:
        problems = [*check_pair(task.example), *check_roles(task.example, task.example)]
        return Report(1, False, tuple(f"example: {problem}" for problem in problems))
    pairs = task.make(tokenizer, SAMPLE, 0)
    problems = check_pairs(pairs, tokenizer) if pairs else ["It makes no prompts with this tokenizer."]
    problems += [
        f"Prompt {number}: {problem}"
        for number, pair in enumerate(pairs, start=1)
        for problem in check_roles(pair, pairs[0], tokenizer)
    ]
    return Report(len(pairs), True, tuple(problems))
