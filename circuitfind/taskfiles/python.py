"""Task files in Python: a module that says ``TASK = Task(...)``. The built-in tasks are such files."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from circuitfind.errors import TaskError
from circuitfind.ownmetric import check_metrics
from circuitfind.prompts import PromptPair, Source, Task, Tokenizer
from circuitfind.taskfiles.prompts_file import read_text
from circuitfind.usercode import report_errors


def load_python(path: Path) -> Task:
    """The file's TASK. Raises TaskError if the file breaks, naming the line, or has none."""
    task = vars(_run_file(path)).get("TASK")
    if task is None:
        raise TaskError(
            f"{path} has no TASK. Write TASK = Task(name=..., ...) in it, with Task from circuitfind.prompts."
        )
    if not isinstance(task, Task):
        raise TaskError(f"{path}: TASK is a {type(task).__name__}; it must be a Task from circuitfind.prompts.")
    check_metrics(path, task.metrics)
    source = Source(path, hashlib.sha256(path.read_bytes()).hexdigest())
    held_out = None if task.held_out is None else _guarded(path, task.held_out)
    return replace(task, make=_guarded(path, task.make), held_out=held_out, source=source)


def _run_file(path: Path) -> ModuleType:
    """The file run as a module. Nothing is written beside it, as an import would."""
    module = ModuleType(f"circuitfind task {path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses look for the module they are defined in
    source = read_text(path)
    report_errors(path, lambda: exec(compile(source, str(path), "exec"), vars(module)))
    return module


def _guarded(
    path: Path, make: Callable[[Tokenizer, int, int], list[PromptPair]]
) -> Callable[[Tokenizer, int, int], list[PromptPair]]:
    """``make``, whose mistakes come back as a TaskError that names the file and the line."""

    def guarded(tokenizer: Tokenizer, n_prompts: int, seed: int) -> list[PromptPair]:
        pairs = report_errors(path, lambda: list(make(tokenizer, n_prompts, seed)))
        for number, pair in enumerate(pairs, start=1):
            if not isinstance(pair, PromptPair):
                raise TaskError(
                    f"{path}: make returned a {type(pair).__name__} as prompt {number}; it must be a PromptPair."
                )
        if len(pairs) > n_prompts:
            raise TaskError(
                f"{path}: make returned {len(pairs)} prompts when asked for {n_prompts}. It may return fewer."
            )
        return pairs

    return guarded
