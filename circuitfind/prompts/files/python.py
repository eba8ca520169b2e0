"""Task files in Python: a module that says ``TASK = Task(...)``. The built-in tasks are such files."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Sized
from dataclasses import replace
from itertools import islice
from operator import index
from pathlib import Path
from types import ModuleType
from typing import Any, SupportsIndex

from circuitfind.errors import TaskError
from circuitfind.files.json_file import fit
from circuitfind.prompts.files.prompts_file import read_text
from circuitfind.prompts.files.schema import LISTS, MOST_ROLES, TEXTS, About, to_pair
from circuitfind.prompts.pairs import (
    LONGEST_TEXT,
    MOST_ANSWERS,
    PromptPair,
    Role,
    Source,
    Task,
    Tokenizer,
)
from circuitfind.prompts.task_metric import check_metrics
from circuitfind.prompts.user_code import contained, report_errors

Make = Callable[[Tokenizer, int, int], Iterable[PromptPair]]
ABOUT = ("name", "title", "paper", "metric")
MOST_BYTES = 1 << 20


def load_python(path: Path) -> Task:
    """The file's TASK. Raises TaskError if the file breaks, naming the line, has none, or one with
    a wrong part.
    """
    text = read_text(path, MOST_BYTES)
    with contained():
        task = report_errors(path, lambda: _checked(path, vars(_run(path, text)).get("TASK")))
    source = Source(path, hashlib.sha256(path.read_bytes()).hexdigest())
    held_out = None if task.held_out is None else _guarded(path, task.held_out, "held_out")
    return replace(task, make=_guarded(path, task.make, "make"), held_out=held_out, source=source)


def _run(path: Path, text: str) -> ModuleType:
    """The file run as a module. Nothing is written beside it, as an import would."""
    module = ModuleType(f"circuitfind task {path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses look for the module they are defined in
    exec(compile(text, str(path), "exec"), vars(module))
    return module


def _checked(path: Path, task: object) -> Task:
    """The task, its parts of the right kinds. Raises TaskError naming the first that is not."""
    if task is None:
        raise TaskError(
            f"{path} has no TASK. Write TASK = Task(name=..., ...) in it, with Task from"
            " circuitfind.prompts.pairs."
        )
    if not isinstance(task, Task):
        raise TaskError(
            f"{path}: TASK is a {type(task).__name__}; it must be a Task from circuitfind.prompts.pairs."
        )
    about = fit({name: _plain(getattr(task, name)) for name in ABOUT}, About, f"{path}: TASK", TaskError)
    for name in ("make", "held_out"):
        part = getattr(task, name)
        if not callable(part) and not (part is None and name == "held_out"):
            raise TaskError(f"{path}: {name} is a {type(part).__name__}; it must be a function.")
    check_metrics(path, task.metrics)
    example = _plain_pair(task.example, f"{path}: the example")
    return replace(task, **{name: getattr(about, name) for name in ABOUT}, example=example)


def _guarded(path: Path, make: Make, what: str) -> Callable[[Tokenizer, int, int], list[PromptPair]]:
    """``make``, whose mistakes come back as a TaskError that names the file and the line."""

    def guarded(tokenizer: Tokenizer, n_prompts: int, seed: int) -> list[PromptPair]:
        with contained():
            return report_errors(path, lambda: take(make(tokenizer, n_prompts, seed), n_prompts))

    def take(made: Any, n_prompts: int) -> list[PromptPair]:
        if isinstance(made, Sized) and len(made) > n_prompts:
            raise TaskError(
                f"{path}: {what} returned {len(made)} prompts when asked for {n_prompts}. It may return"
                " fewer."
            )
        few = enumerate(islice(made, n_prompts), start=1)  # an iterator may go on for ever
        return [_plain_pair(pair, f"{path}: {what}, prompt {number}") for number, pair in few]

    return guarded


def _plain_pair(pair: object, where: str) -> PromptPair:
    """The pair in plain texts and numbers, as a prompts file may hold it. A TaskError's text begins
    with ``where``.
    """
    if not isinstance(pair, PromptPair):
        raise TaskError(f"{where} is a {type(pair).__name__}; it must be a PromptPair.")
    try:
        found = to_pair({key: _plain(getattr(pair, key)) for key in (*TEXTS, *LISTS)})
    except TaskError as error:
        raise TaskError(f"{where}: {error}") from None
    return replace(found, roles=_plain_roles(pair.roles, where))


def _plain_roles(roles: object, where: str) -> tuple[Role, ...]:
    """The roles in plain texts and numbers. A TaskError's text begins with ``where``."""
    if not isinstance(roles, tuple | list) or len(roles) > MOST_ROLES:
        raise TaskError(f"{where}: its roles must be a tuple of at most {MOST_ROLES:,} of Role.")
    for role in roles:
        is_role = isinstance(role, Role) and isinstance(role.name, str)
        if not (is_role and _is_place(role.start) and _is_place(role.end)):
            raise TaskError(
                f"{where}: a role must be Role(name, start, end), a text and two places in the clean prompt."
            )
    return tuple(Role(_text(role.name), index(role.start), index(role.end)) for role in roles)


def _is_place(value: object) -> bool:
    """Whether a value is a whole number that a text may be long."""
    return isinstance(value, SupportsIndex) and abs(index(value)) <= LONGEST_TEXT


def _plain(value: object) -> object:
    """The value with plain texts and lists in place of kinds of them, such as numpy's."""
    if isinstance(value, str):
        return _text(value)
    return (
        [_plain(item) for item in islice(value, MOST_ANSWERS + 1)]
        if isinstance(value, tuple | list)
        else value
    )


def _text(value: str) -> str:
    return str.__str__(value)
