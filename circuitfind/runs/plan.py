"""All that can be known about a run before torch is imported, weights are loaded or a folder is made.

Importing torch and TransformerLens takes seconds and a search takes minutes, so whatever a user can
get wrong is looked for here first: names, numbers, the task, the place to write to, the model's
files.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from circuitfind.circuits.size import SELECTS
from circuitfind.errors import ModelError, UsageError, unknown
from circuitfind.export import FORMATS
from circuitfind.methods.catalogue import CATALOGUE as METHODS
from circuitfind.methods.catalogue import COMBINE, LEVELS
from circuitfind.methods.neuron_options import check_count
from circuitfind.methods.options import settle_method
from circuitfind.models.loading.config import judge, read_config
from circuitfind.models.loading.folder import has_tokenizer, refuse_adapter, weight_files
from circuitfind.models.loading.locate import locate
from circuitfind.options import RunOptions, SettledOptions
from circuitfind.progress import Progress
from circuitfind.prompts.files import load_task
from circuitfind.prompts.pairs import Task
from circuitfind.prompts.task_metric import METRICS
from circuitfind.runs.folder import check_free, default_folder, next_free
from circuitfind.runs.ownership import names_of_run

if TYPE_CHECKING:
    from circuitfind.runs.checkpoint import State

CHOICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "method": tuple(METHODS),
        "metric": METRICS,
        "ablation": ("corrupted", "zero", "mean", "mean-positional", "optimal"),
        "objective": ("improve", "match"),
        "schedule": ("sequential", "screened", "grouped"),
        "way to select": SELECTS,
        "way to combine": COMBINE,
        "dtype": ("float32", "float64", "bfloat16"),
        "level": LEVELS,
        "way to take k and v inputs": ("per-head", "grouped"),
    }
)
"""The words that options take, a task's own metrics aside. The modules that do what they say import
torch; a test holds the two together."""
DEVICES = ("auto", "cpu", "cuda", "mps")
LEAST_BFLOAT16_THRESHOLD = 1e-3
"""Below this a threshold is under the resolution of bfloat16 logits, which keep 8 bits."""


@dataclass(frozen=True)
class Opened:
    """A task and a model's folder that are open already: what the options name is not looked for."""

    task: Task
    model_folder: Path


@dataclass(frozen=True)
class Plan:
    """A run that nothing speaks against so far: its task, its options with method and metric
    settled, where its model lies and where it will be written, and what the user should know
    beforehand. ``state`` is what it goes on from; ``is_finished``: it was to be resumed, and there
    is nothing left to do.
    """

    task: Task
    options: SettledOptions
    model_folder: Path
    folder: Path
    cautions: tuple[str, ...]
    state: State | None = None
    is_finished: bool = False


def make_plan(
    options: RunOptions, progress: Progress, opened: Opened | None = None, writes: bool = True
) -> Plan:
    """The plan of a run; fetches the model if it is not here yet. Raises CircuitfindError for
    whatever is wrong.

    Task and model are opened by the names in ``options``, which must be what the user named; else
    they are ``opened``. ``writes``: the run will write its files to its folder; else only its model
    and prompts are wanted.
    """
    check_words(options)
    check_numbers(options)
    task = load_task(options.task) if opened is None else opened.task
    _known("metric", options.metric or task.metric, (*METRICS, *task.metrics))
    options, said = settle_method(options, task.metric)
    check_threshold(options)
    folder, state, is_finished = _out_folder(task, options), None, False
    if writes:
        folder, state, is_finished = find_place(folder, task, options, progress)
    model_folder = whole_folder(
        locate(options.model, progress) if opened is None else opened.model_folder
    )
    check_count(options, read_config(model_folder))
    return Plan(task, options, model_folder, folder, (*said, *cautions(options)), state, is_finished)


def check_words(options: RunOptions) -> None:
    """Raises UsageError, with the nearest known one, for a word that an option does not take."""
    for kind in ("ablation", "objective", "schedule", "dtype", "level"):
        _known(kind, getattr(options, kind))
    if options.method is not None:
        _known("method", options.method)
    _known("way to select", options.select, plural="ways to select")
    _known("way to take k and v inputs", options.kv, plural="ways to take them")
    _known("way to combine", options.combine, plural="ways to combine")
    for name in options.formats:
        _known("export format", name, FORMATS)
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", options.device):
        raise UsageError(unknown("device", options.device, DEVICES))


def check_numbers(options: RunOptions) -> None:
    """Raises UsageError for a number that is out of range, or a threshold that the dtype can't resolve."""
    for name, value in (("--prompts", options.n_prompts), ("--batch-size", options.batch_size)):
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}; it must be 1 or more.")
    threshold = options.threshold
    if threshold is None or (options.method and METHODS[options.method].scores):
        return
    if not (math.isfinite(threshold) and threshold >= 0):
        raise UsageError(f"--threshold is {threshold}; it must be a finite number, 0 or above.")
    if options.dtype == "bfloat16" and threshold < LEAST_BFLOAT16_THRESHOLD:
        raise UsageError(
            f"--threshold is {threshold}; bfloat16 logits do not resolve what is below"
            f" {LEAST_BFLOAT16_THRESHOLD}.\nUse --dtype float32, or raise the threshold."
        )


def check_threshold(options: SettledOptions) -> None:
    """Raises UsageError where a search by the task's own metric has no threshold: nothing is known
    of its unit.
    """
    is_search = not METHODS[options.method].scores
    if is_search and options.threshold is None and options.metric not in METRICS:
        raise UsageError(
            f"{options.metric} is the task's own metric: give {options.method} a --threshold in its unit."
        )


def cautions(options: SettledOptions) -> tuple[str, ...]:
    """What a user should know before the run: options that work, but may not do what is hoped for."""
    found = []
    improves = options.objective == "improve" and "objective" in METHODS[options.method].takes
    if options.metric != "kl" and improves:
        found.append(
            f"{options.metric} is improved, as published: what speaks against the answer is removed too, and"
            " the circuit may outdo the model. --objective match, or --metric kl, asks for the model's own"
            " behaviour."
        )
    if options.dtype == "bfloat16":
        found.append(
            "bfloat16 keeps 8 bits: what it decides near the threshold is rounding, and run.json lists it."
            " Use float32 unless the search itself is short of memory."
        )
    return tuple(found)


def _known(kind: str, name: str, known: Collection[str] | None = None, plural: str | None = None) -> None:
    choices = CHOICES[kind] if known is None else known
    if name not in choices:
        raise UsageError(unknown(kind, name, choices, plural))


def _out_folder(task: Task, options: SettledOptions) -> Path:
    """Where the run goes: where it was told to, else a new folder under results/."""
    if options.out is not None:
        return Path(os.path.expanduser(options.out))  # noqa: PTH111  Path's own raises where there is no such user
    model = short_name(options.model)
    return next_free(default_folder(task.name, model, options.method, options.seed, datetime.now()))


def inputs(options: RunOptions) -> tuple[Path, ...]:
    """What the run reads that lies where the user says: the task's file, the model's folder or file."""
    return tuple(Path(name) for name in (options.task, options.model) if os.path.lexists(name))


def find_place(
    folder: Path, task: Task, options: RunOptions, progress: Progress
) -> tuple[Path, State | None, bool]:
    """Where the run is written, the state that it goes on from, and whether it is finished already.

    An unfinished run of the same goes on where the user names its folder, with ``resume`` the
    latest below results/ too. Raises OutputError where the place is not free, or the run can't go
    on.
    """
    if options.force and options.resume:
        raise UsageError(
            "--resume goes on with the run in a folder, --force replaces it. Give one of them."
        )
    from circuitfind.runs import resume

    state, is_finished, wanted = None, False, resume.asked(options, task, short_name(options.model))
    if options.out is not None:
        resume.recover(folder)
    if not options.force and options.out is not None:
        state, is_finished = resume.find_unfinished(folder, wanted, options.resume, progress)
    elif options.resume:
        state = resume.find_latest(folder.parent, wanted, progress)
    if not is_finished:
        folder = folder if state is None else state.folder
        may_replace = options.force or options.resume or state is not None
        check_free(folder, may_replace, names_of_run(options.formats), inputs=inputs(options))
    return folder, state, is_finished


def whole_folder(folder: Path) -> Path:
    """A model's folder. Raises ModelError if files are missing from it, or it can't be run."""
    judge(read_config(folder), str(folder / "config.json"))
    refuse_adapter(folder)
    weight_files(folder)
    if not has_tokenizer(folder):
        raise ModelError(
            f"{folder} holds no tokenizer. It needs tokenizer.json, or vocab.json and merges.txt."
        )
    return folder


def short_name(name: str) -> str:
    """A model's name for records and folders: the last part of a path that is one, else the name."""
    path = Path(name)
    return path.resolve().name.removesuffix(".gguf") if path.exists() else name
