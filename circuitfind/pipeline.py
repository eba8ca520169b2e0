"""The whole flow on one screen: task -> prompts -> model -> method -> circuit -> evaluation -> files."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from circuitfind import __version__
from circuitfind.batch import Batch, tokenise
from circuitfind.circuit import Circuit
from circuitfind.errors import TaskError, UsageError, unknown
from circuitfind.evaluation.performance import Evaluation, evaluate, task_performance
from circuitfind.export import writer
from circuitfind.graph import Edge
from circuitfind.memory import peak
from circuitfind.methods import find_method
from circuitfind.methods.acdc import ACDC, DEFAULT_THRESHOLD, Found
from circuitfind.metrics import find_metric
from circuitfind.models.catalogue import DEFAULT_MODEL
from circuitfind.models.load import HubTokenizer, load_tokenizer
from circuitfind.models.model import Model, load_model, short_name
from circuitfind.patching import find_ablation
from circuitfind.progress import Progress, Silent
from circuitfind.prompts import PromptPair, Task
from circuitfind.report import Evidence, overshoot_warning, report, task_line, task_warning
from circuitfind.runfolder import RUN_FILE, claim, default_folder, json_file, scores_file, write
from circuitfind.taskfiles import load_task, write_prompts

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
VERSIONED = ("torch", "transformer_lens", "transformers", "safetensors", "pygraphviz")


@dataclass(frozen=True)
class RunOptions:
    """What a run is asked to do, as the command line or a caller says it.

    ``metric`` None is the task's own, ``threshold`` None the method's default for the metric, ``batch_size`` None what
    suits the device, ``bos`` None what the model's tokenizer does by itself, ``out`` None a new folder under results/.
    """

    task: str
    model: str = DEFAULT_MODEL
    method: str = "acdc"
    threshold: float | None = None
    metric: str | None = None
    ablation: str = "corrupted"
    objective: str = "improve"
    n_prompts: int = 16
    seed: int = 0
    batch_size: int | None = None
    device: str = "auto"
    dtype: str = "float32"
    bos: bool | None = None
    out: Path | None = None
    force: bool = False
    formats: tuple[str, ...] = ("dot", "svg")


@dataclass(frozen=True)
class RunResult:
    """What a run leaves behind: the circuit, its evidence, and the folder where both are written."""

    circuit: Circuit
    evaluation: Evaluation
    folder: Path
    warnings: tuple[str, ...]


def run(options: RunOptions, progress: Progress | None = None) -> RunResult:
    """Find the circuit that ``options`` ask for, judge it and write its folder. Raises CircuitfindError."""
    notes, clock = Noted(progress or Silent()), Clock()
    task = load_task(options.task)
    method, options = settle(options, task)
    folder = claim(options.out or new_folder(task, options), options.force)

    with clock.time("load"):
        notes.stage(f"loading {options.model}")
        tokenizer = load_tokenizer(options.model, notes).with_bos(options.bos)
        pairs = make_prompts(task, tokenizer, options, notes)
        batch = tokenise(pairs, tokenizer)
        model = load_model(options.model, batch, options.device, DTYPES[options.dtype], notes)
    size = options.batch_size or default_batch_size(model.transformer.device)
    with clock.time("task"):
        report_task(model, batch, size, notes)
    with clock.time("search"):
        notes.stage(f"{options.method} on the {model.transformer.architecture.graph.n_edges:,} edges of {model.name}")
        found = method.find(model.transformer, batch, size, notes)
    with clock.time("evaluation"):
        notes.stage("evaluating the circuit")
        evaluation = evaluate(model.transformer, batch, found.kept, method.ablation, size)
        notes.warn_if(overshoot_warning(evaluation))
    circuit = make_circuit(task, options, method, pairs, model, found, evaluation)
    with clock.time("drawing"):
        notes.stage("drawing the circuit")
        pictures = {f"circuit.{name}": writer(name)(circuit) for name in ("dot", *options.formats)}
    record = make_record(options, method, tokenizer, model, batch, found, clock, notes)
    files = {
        "circuit.json": circuit.to_json(),
        "scores.safetensors": scores_file(circuit.graph, found.scores, model.transformer.dtype),
        "prompts.jsonl": write_prompts(pairs),
        **pictures,
        "report.md": report(Evidence(circuit, evaluation, pairs[0], record, tuple(pictures))),
        RUN_FILE: json_file(record),
    }
    for name, content in files.items():
        write(folder, name, content)
    return RunResult(circuit, evaluation, folder, tuple(notes.warnings))


def settle(options: RunOptions, task: Task) -> tuple[ACDC, RunOptions]:
    """The method, and the options with nothing left to decide. Raises UsageError for one that means nothing."""
    for name, least, value in (("--prompts", 1, options.n_prompts), ("--batch-size", 1, options.batch_size)):
        if value is not None and value < least:
            raise UsageError(f"{name} is {value}; it must be {least} or more.")
    for name in options.formats:
        writer(name)
    metric = find_metric(options.metric or task.metric)
    threshold = DEFAULT_THRESHOLD[metric] if options.threshold is None else options.threshold
    method = find_method(options.method)(threshold, metric, find_ablation(options.ablation), options.objective)
    if options.dtype not in DTYPES:
        raise UsageError(unknown("dtype", options.dtype, DTYPES))
    return method, replace(options, metric=metric, threshold=threshold, device=find_device(options.device))


def find_device(name: str) -> str:
    """``auto`` is cuda where there is one, else the CPU. Raises UsageError for a device that isn't there."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return "cuda" if there["cuda"] else "cpu"
    if name.partition(":")[0] not in there:
        raise UsageError(unknown("device", name, ("auto", *there)))
    if not there[name.partition(":")[0]]:
        raise UsageError(f"This machine has no {name} that PyTorch can use. Use --device auto.")
    return name


def default_batch_size(device: torch.device) -> int:
    """Prompts that are computed together: on a CPU few, so that the threads share the blocks; on a GPU many."""
    return 8 if device.type == "cpu" else 256


def new_folder(task: Task, options: RunOptions) -> Path:
    """Where a run goes that names no folder."""
    return default_folder(task.name, short_name(options.model), options.method, options.seed, datetime.now())


def make_prompts(task: Task, tokenizer: HubTokenizer, options: RunOptions, notes: Noted) -> list[PromptPair]:
    """The run's prompt pairs. Raises TaskError if there are none."""
    pairs = task.make(tokenizer, options.n_prompts, options.seed)
    if not pairs:
        raise TaskError(f"The task '{task.name}' makes no prompts with this model's tokenizer. Use another model.")
    if len(pairs) < options.n_prompts:
        notes.warn(f"{options.n_prompts} prompts were asked for; there are {len(pairs)}.")
    return pairs


def report_task(model: Model, batch: Batch, batch_size: int, notes: Noted) -> None:
    """Tells how well the full model does the task, and warns if it fails it."""
    performance = task_performance(model.transformer, batch, batch_size)
    notes.stage(f"the full model on {batch.n_prompts} prompts of up to {batch.n_pos} tokens: {task_line(performance)}")
    notes.warn_if(task_warning(performance))


def make_circuit(
    task: Task,
    options: RunOptions,
    method: ACDC,
    pairs: Sequence[PromptPair],
    model: Model,
    found: Found,
    evaluation: Evaluation,
) -> Circuit:
    """The kept edges with their scores and everything that identifies what they were found in."""
    graph = model.transformer.architecture.graph
    places = found.kept.nonzero().tolist()
    edges = {Edge(graph.senders[s], graph.receivers[r]): float(found.scores[r, s]) for r, s in places}
    prompts_sha256 = hashlib.sha256(write_prompts(pairs).encode()).hexdigest()
    return Circuit(
        graph,
        edges,
        model.to_dict(),
        {"name": task.name, "n_prompts": len(pairs), "seed": options.seed, "prompts_sha256": prompts_sha256},
        method.to_dict() | {"dtype": options.dtype},
        evaluation.to_dict(),
    )


def make_record(
    options: RunOptions,
    method: ACDC,
    tokenizer: HubTokenizer,
    model: Model,
    batch: Batch,
    found: Found,
    clock: Clock,
    notes: Noted,
) -> dict[str, Any]:
    """run.json: everything needed to repeat the run, and what it took."""
    return {
        "command": {key: str(value) if isinstance(value, Path) else value for key, value in asdict(options).items()},
        "method": method.to_dict(),
        "model_sha256": model.sha256,
        "model_difference": model.difference,
        "bos": tokenizer.adds_bos,
        "n_pos": batch.n_pos,
        "search": {"tested": found.n_tests, "computed": found.n_evaluated},
        "warnings": notes.warnings,
        "timings": clock.seconds,
        "peak_memory_bytes": peak(),
        "threads": torch.get_num_threads(),
        "versions": {
            "circuitfind": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in VERSIONED},
        },
        "platform": f"{platform.system()} {platform.machine()}",
    }


class Clock:
    """Seconds that each part of a run took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[part] = round(time.perf_counter() - start, 3)


class Noted:
    """Progress that passes everything on and keeps the warnings for the record."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.warnings: list[str] = []

    def stage(self, name: str) -> None:
        self._progress.stage(name)

    def update(self, done: float, total: float, note: str = "") -> None:
        self._progress.update(done, total, note)

    def warn(self, message: str) -> None:
        self.warnings.append(message)
        self._progress.warn(message)

    def warn_if(self, message: str | None) -> None:
        if message is not None:
            self.warn(message)
