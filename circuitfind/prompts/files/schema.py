"""What a task and a prompt pair may be in whatever kind of file: one schema for JSONL, CSV, YAML and Python.

The bounds are what no task needs and every machine holds: a file that is past one is refused by
that name, at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from circuitfind.errors import TaskError, shown
from circuitfind.files.json_file import Schema, fit
from circuitfind.prompts.pairs import (
    LONGEST_ANSWER,
    LONGEST_TEXT,
    MOST_ANSWERS,
    PromptPair,
    Role,
    is_broken,
)

TEXTS = ("clean", "corrupted")
LISTS = ("answers", "wrong_answers")
KEYS = (*TEXTS, *LISTS)
ROLES = "roles"
"""The key that may be left out."""
FOREIGN = frozenset(
    {
        "correct_idx",
        "label",
        "answers_idx",
        "country_idx",
        "clean_answer_idx",
        "year",
        "corrupt",
        "plural",
    }
    | {"prefix", "ioi_sentences", "corr_text", "corr_input", "prompt", "prompts"}
)
MARK = "<predict>"
"""What prompts of other tools have, in columns or in the text."""
OF_ANOTHER_TOOL = (
    "as in a file of EAP-IG's, MIB's or Edge-Pruning's. Make a prompts file of it: circuitfind import FILE"
    " --model M."
)
MOST_ROLES = 1000
LONGEST_NAME = 100
"""Characters: a run's folder is called by it."""

Text = Annotated[str, Meta(max_length=LONGEST_TEXT)]
Answer = Annotated[str, Meta(max_length=LONGEST_ANSWER)]
Place = Annotated[int, Meta(ge=0, le=LONGEST_TEXT)]
Name = Annotated[str, Meta(min_length=1, max_length=LONGEST_NAME)]
Title = Annotated[str, Meta(max_length=1000)]


class Pair(Schema, frozen=True):
    """One line of a prompts file."""

    clean: Text
    corrupted: Text
    answers: Annotated[list[Answer], Meta(max_length=MOST_ANSWERS)]
    wrong_answers: Annotated[list[Answer], Meta(max_length=MOST_ANSWERS)]
    roles: Annotated[dict[str, tuple[Place, Place]], Meta(max_length=MOST_ROLES)] = msgspec.field(
        default_factory=dict
    )


class About(Schema, frozen=True):
    """What a task says of itself."""

    name: Name
    title: Title = ""
    paper: Title = ""
    metric: Name = "kl"


def to_pair(data: object) -> PromptPair:
    """The pair that an object describes. Raises TaskError, which names the key that is wrong and
    not the file.
    """
    if not isinstance(data, dict):
        raise TaskError(f"{shown(data)} instead of an object with the keys {', '.join(KEYS)}.")
    clean = data.get("clean")
    if "answers" not in data and isinstance(clean, str) and MARK in clean:
        raise TaskError(f"'answers' is missing, {OF_ANOTHER_TOOL}")
    problem = key_problem(list(data), "key")
    if problem:
        raise TaskError(problem)
    return _whole(fit(data, Pair, "the pair", TaskError))


def key_problem(keys: Sequence[Any], kind: str) -> str:
    """What is wrong with the keys or columns of pairs; empty if nothing is."""
    missing = [key for key in KEYS if key not in keys]
    if missing and any(key in FOREIGN for key in keys):
        return f"the {kind} '{missing[0]}' is missing, {OF_ANOTHER_TOOL}"
    if missing:
        return f"the {kind} '{missing[0]}' is missing. Each pair has {', '.join(KEYS)}."
    unknown = [key for key in keys if key not in (*KEYS, ROLES)]
    if unknown:
        return (
            f"unknown {kind} {shown(unknown[0])}. Each pair has {', '.join(KEYS)}, may have {ROLES}, and"
            " nothing else."
        )
    return ""


def _whole(pair: Pair) -> PromptPair:
    """The pair, none of its texts empty or broken. Raises TaskError."""
    roles = tuple(Role(name, *span) for name, span in pair.roles.items())
    found = PromptPair(pair.clean, pair.corrupted, tuple(pair.answers), tuple(pair.wrong_answers), roles)
    if not found.answers:
        raise TaskError("'answers' is empty. Give at least one right answer.")
    texts_of = {key: (getattr(found, key),) for key in TEXTS} | {
        key: getattr(found, key) for key in LISTS
    }
    for key, texts in texts_of.items():
        what = f"an answer in '{key}'" if key in LISTS else f"'{key}'"
        if "" in texts:
            raise TaskError(f"{what} is empty.")
        if any(map(is_broken, texts)):
            raise TaskError(
                f"{what} holds half a character (a lone surrogate such as \\ud800). Write the whole one."
            )
    return found
