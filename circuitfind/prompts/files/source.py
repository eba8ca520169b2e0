"""From a name or a path to a Task."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from circuitfind.errors import TaskError, shown, unknown
from circuitfind.prompts.files.prompts_file import pairs_of, read_prompts
from circuitfind.prompts.files.python import load_python
from circuitfind.prompts.files.schema import LONGEST_NAME
from circuitfind.prompts.files.yamlfile import read_yaml
from circuitfind.prompts.pairs import PromptPair, Task, Tokenizer

PROMPTS_SUFFIXES = (".jsonl", ".csv")
YAML_SUFFIXES = (".yaml", ".yml")
SUFFIXES = (".py", *YAML_SUFFIXES, *PROMPTS_SUFFIXES)


def load_task(name_or_path: str) -> Task:
    """The built-in task of that name, or the task that a .py, .yaml, .jsonl or .csv file describes.

    Raises TaskError for an unknown name (with the nearest known one) and for a file that is wrong.
    """
    task = _load_file(find_file(name_or_path))
    if not re.fullmatch(r"\w[\w.-]*", task.name):
        raise TaskError(
            f"{name_or_path}: the task's name is {shown(task.name)}; it must be letters, digits, '-', '_' and"
            " '.'."
        )
    return task


def builtin_tasks() -> dict[str, Path]:
    """The files of the built-in tasks by name: in the wheel inside the package, in a checkout beside it."""
    package = Path(__file__).parents[2]
    inside, beside = package / "tasks", package.parent / "tasks"
    files = (inside if inside.is_dir() else beside).glob("*.py")
    return {file.stem.replace("_", "-"): file for file in sorted(files) if not file.stem.startswith("_")}


def find_file(name_or_path: str) -> Path:
    """The file of a built-in task, or the path itself. Raises TaskError if it is neither."""
    builtin = builtin_tasks()
    if name_or_path in builtin:
        return builtin[name_or_path]
    path = Path(os.path.expanduser(name_or_path))  # noqa: PTH111  Path's own raises where there is no such user
    if path.suffix.lower() in SUFFIXES:
        if not os.path.isfile(path):  # noqa: PTH113  so too of a name that is too long for the disk
            raise TaskError(f"There is no file {path}. Tasks without a file: {', '.join(builtin)}.")
        return path
    if os.path.exists(path):  # noqa: PTH110
        raise TaskError(
            f"{path} is no task. Give a task file (.py, .yaml) or a prompts file (.jsonl, .csv)."
        )
    raise TaskError(unknown("task", name_or_path, builtin))


def _load_file(path: Path) -> Task:
    suffix = path.suffix.lower()
    if suffix == ".py":
        return load_python(path)
    if suffix in PROMPTS_SUFFIXES:
        return task_of(
            {"name": re.sub(r"[^\w.-]|^[.-]", "_", path.stem)[:LONGEST_NAME]}, read_prompts(path)
        )
    texts, entries, file = read_yaml(path)
    return task_of(texts, pairs_of(entries, file))


def task_of(texts: dict[str, str], pairs: Sequence[PromptPair]) -> Task:
    """The task whose prompts are the first of ``pairs``, whatever the tokenizer and the seed."""

    def make(tokenizer: Tokenizer, n_prompts: int, seed: int) -> list[PromptPair]:
        return list(pairs[:n_prompts])

    name = texts["name"]
    return Task(
        name, texts.get("title", name), texts.get("paper", ""), texts.get("metric", "kl"), pairs[0], make
    )
