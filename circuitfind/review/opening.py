"""What a circuit's files may open. They may come from anyone, so their words open nothing but what
is here already.

A task that they name is opened where it is one of circuitfind's own; a task file runs only where
the user names it (``--task FILE``) or trusts the folder (``--trust``). A model that they name is
opened where it comes with circuitfind or lies in the user's own cache under that name; nothing is
fetched, and no path is followed, unless the user names the model (``--model``) or trusts the
folder. docs/security.md has the whole rule.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from circuitfind.errors import CircuitError, ModelError, cut
from circuitfind.models.loading.catalogue import CATALOGUE, hub_name
from circuitfind.models.loading.locate import locate, looks_like_path
from circuitfind.progress import Progress
from circuitfind.prompts.files import builtin_tasks, load_task
from circuitfind.prompts.pairs import Task


@dataclass(frozen=True)
class Named:
    """What the user named in this command: a model and a task in place of the circuit's own, and
    whether what the circuit's files name is as good as named (``--trust``)."""

    model: str | None = None
    task: str | None = None
    trust: bool = False


AS_STORED = Named()
"""Nothing: the circuit's own model and task, as far as its files may open them."""


def open_task(said: str, named: Named) -> Task | None:
    """The task that the user names; else the one that the files name, where that may be opened; else None.

    Raises TaskError where the task that is to be opened is not here or is wrong.
    """
    if named.task is not None:
        return load_task(named.task)
    is_trusted = named.trust and os.path.isfile(os.path.expanduser(said))  # noqa: PTH111, PTH113  no error for odd names
    return load_task(said) if said in builtin_tasks() or is_trusted else None


def open_model(said: str, named: Named, source: Path, progress: Progress) -> Path:
    """The folder of the model that the user names, fetched if need be; else of the one that the files name.

    Raises ModelError where there is none, CircuitError where it is one that the user has to name.
    """
    if named.model is not None or named.trust:
        return locate(named.model or said, progress)
    folder = find_here(said)
    if folder is None:
        shown = one_line(said)
        raise CircuitError(
            f"{source} names the model '{shown}', which is not here; a file's words fetch nothing and follow"
            f" no path.\nIf you want it, name it: --model {shlex.quote(shown)}"
        )
    return folder


def find_here(name: str) -> Path | None:
    """The folder of a model that comes with circuitfind or lies in the user's cache under that
    name. Fetches nothing, and takes no name for a path."""
    if name in CATALOGUE:
        model = CATALOGUE[name]
        return model.source.place if model.is_here else None
    repository = hub_name(name)
    if repository is None and (looks_like_path(name) or "/" not in name):
        return None
    from circuitfind.models.loading.hub import cached

    try:
        return cached(repository or name)
    except ModelError:  # it can't be a hub name
        return None


def suggest_task(said: str) -> str:
    """How to name a task that was not opened."""
    shown = one_line(said)
    return f"If you want it, name it: --task {shlex.quote(shown)}" if shown else "Name it with --task."


def changed_task(task: Task, recorded: object) -> str | None:
    """What to tell where the task's file is not the one that was recorded; None where it is, or none was."""
    if task.source is None or not recorded or task.source.sha256 == recorded:
        return None
    return (
        f"{task.source.path} is not the task file that the circuit was found with: its sha256 begins with "
        f"{task.source.sha256[:12]}, the recorded one with {str(recorded)[:12]}."
    )


def one_line(text: str) -> str:
    """The start of a text that was read, on one line."""
    return cut(" ".join(text.split()))
