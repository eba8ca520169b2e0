"""Everything wrong with a task or prompts file, each problem with its line or prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from circuitfind.errors import TaskError, unknown
from circuitfind.prompts.files.prompts_file import Entry, pairs_of, read_entries
from circuitfind.prompts.files.source import PROMPTS_SUFFIXES, YAML_SUFFIXES, find_file, load_task
from circuitfind.prompts.files.yamlfile import read_yaml
from circuitfind.prompts.pairs import PromptPair, Task, Tokenizer, check_pair, check_roles
from circuitfind.prompts.task_metric import METRICS

SAMPLE = 50  # prompts that a task which makes them is tried with
MOST_PROBLEMS = 1000
"""So many are told; a file with more of them is of another kind."""
COMPARING = ("logit-diff", "prob-diff")
"""The metrics that need wrong answers."""


@dataclass(frozen=True)
class Report:
    """What a check found: how many prompts were looked at, whether as tokens too, and each problem
    as one line.
    """

    n_prompts: int
    tokens_checked: bool
    problems: tuple[str, ...]


def check_task(name_or_path: str, tokenizer: Tokenizer | None = None) -> Report:
    """Everything wrong with a task: with its words, and with its tokens where a tokenizer is given.

    A task in Python is tried on ``SAMPLE`` prompts, without a tokenizer on its example alone.
    Raises TaskError if there is no such task or file.
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
    _, found, file = read_yaml(path) if in_yaml else ({}, read_entries(path), path)
    entries = list(found)
    if not entries:
        pairs_of(entries, file)
    where = "line" if file == path else f"{file.name}, line"
    first = next((entry.pair for entry in entries if entry.pair), None)
    problems = _few(
        f"{where} {entry.line}: {each}"
        for entry in entries
        for each in _problems(entry, tokenizer, first)
    )
    if not problems:
        problems = _metric_problems(load_task(str(path)), [entry.pair for entry in entries if entry.pair])
    return Report(len(entries), tokenizer is not None, tuple(problems))


def _problems(entry: Entry, tokenizer: Tokenizer | None, first: PromptPair | None) -> Sequence[str]:
    if entry.pair is None or first is None:
        return [entry.problem]
    return [*check_pair(entry.pair, tokenizer), *check_roles(entry.pair, first, tokenizer)]


def _check_made(name_or_path: str, tokenizer: Tokenizer | None) -> Report:
    task = load_task(name_or_path)
    pairs = [task.example] if tokenizer is None else task.make(tokenizer, SAMPLE, 0)
    where = (lambda number: "example") if tokenizer is None else "Prompt {}".format
    problems = _few(
        f"{where(number)}: {problem}"
        for number, pair in enumerate(pairs, start=1)
        for problem in (*check_pair(pair, tokenizer), *check_roles(pair, pairs[0], tokenizer))
    )
    if not pairs:
        problems = ["It makes no prompts with this tokenizer."]
    return Report(len(pairs), tokenizer is not None, tuple(problems or _metric_problems(task, pairs)))


def _metric_problems(task: Task, pairs: Sequence[PromptPair]) -> list[str]:
    """What is wrong with the task's default metric, by itself and on its prompts."""
    if task.metric not in (*METRICS, *task.metrics):
        return [unknown("metric", task.metric, (*METRICS, *task.metrics))]
    number = next((number for number, pair in enumerate(pairs, start=1) if not pair.wrong_answers), None)
    if task.metric in COMPARING and number is not None:
        return [
            f"Prompt {number}: it has no wrong answer, which the task's metric, {task.metric}, needs. Give"
            " one."
        ]
    return []


def _few(problems: Iterator[str]) -> list[str]:
    """The problems, of too many the first."""
    found = list(islice(problems, MOST_PROBLEMS + 1))
    more = [f"There are more than {MOST_PROBLEMS:,} problems: the first are told."]
    return found if len(found) <= MOST_PROBLEMS else [*found[:MOST_PROBLEMS], *more]
