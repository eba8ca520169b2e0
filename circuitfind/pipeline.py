"""The whole flow on one screen: task -> prompts -> model -> method -> circuit -> evaluation -> files."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from circuitfind import __version__
from circuitfind.batch import Batch, tokenise
from circuitfind.checkpoint import Keeper, Spent, State
from circuitfind.circuit import Circuit
from circuitfind.errors import TaskError, UsageError
from circuitfind.eta import Eta, WithTimeLeft, duration
from circuitfind.evaluation.performance import Evaluation, evaluate, task_performance
from circuitfind.export import writer
from circuitfind.graph import Edge
from circuitfind.memory import Shape, Workload, needed, peak, plan_memory, stored_weights
from circuitfind.methods import find_method
from circuitfind.methods.acdc import ACDC, DEFAULT_THRESHOLD
from circuitfind.methods.decisions import MARGINS, undecidable
from circuitfind.methods.found import Found
from circuitfind.metrics import check_answers, find_metric
from circuitfind.models.folder import read_config
from circuitfind.models.load import HubTokenizer, load_tokenizer
from circuitfind.models.model import Model, load_model
from circuitfind.patching import find_ablation
from circuitfind.preflight import DEFAULT_PROMPTS, Plan, RunOptions, make_plan, short_name
from circuitfind.progress import Progress, Silent
from circuitfind.prompts import PromptPair, Task
from circuitfind.report import Evidence, recovery_warning, report, rounding_warning, task_line, task_warning
from circuitfind.resume import identity
from circuitfind.runfolder import RUN_FILE, json_file, next_free, scores_file, write_run
from circuitfind.search import default_batch_size
from circuitfind.taskfiles import write_prompts

__all__ = ["Plan", "RunOptions", "RunResult", "carry_out", "make_plan", "run"]

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
BATCH_SIZES = (64, 16, 4)
"""What is tried where the default takes too much memory; below the last no less would be held (``rerun.ROWS``)."""
VERSIONED = ("torch", "transformer_lens", "transformers", "safetensors", "pygraphviz")


@dataclass(frozen=True)
class RunResult:
    """What a run leaves behind: the circuit, its evidence, and the folder where both are written."""

    circuit: Circuit
    evaluation: Evaluation
    folder: Path
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Ready:
    """What a search starts from. It depends on no threshold: the runs of a sweep share it.

    ``options`` have their device settled; ``work`` has the batch size and how many bytes of tests may be in flight.
    """

    task: Task
    options: RunOptions
    tokenizer: HubTokenizer
    pairs: Sequence[PromptPair]
    batch: Batch
    model: Model
    work: Workload


@dataclass(frozen=True)
class Findings:
    """Everything that a run came by; its files are written from it."""

    ready: Ready
    options: RunOptions
    method: ACDC
    found: Found
    evaluation: Evaluation
    undecidable: Sequence[Edge]
    n_taken_over: int


@dataclass(frozen=True)
class TakenOver:
    """What a run has from an earlier one that differs in the threshold alone: decisions, and an evaluation."""

    start: Found | None = None
    evaluation: Evaluation | None = None


def run(options: RunOptions, progress: Progress | None = None) -> RunResult:
    """Find the circuit that ``options`` ask for, judge it and write its folder. Raises CircuitfindError."""
    progress = progress or Silent()
    plan = make_plan(options, progress)
    if plan.is_finished:
        raise UsageError(f"The run in {plan.folder} is finished: there is nothing to resume.")
    return carry_out(plan, progress)


def make_keeper(plan: Plan) -> Keeper:
    """Who keeps the state of the plan's search while it goes."""
    return Keeper(plan.folder, plan.options.out is None, plan.options.force, plan.state)


def carry_out(plan: Plan, progress: Progress, keeper: Keeper | None = None) -> RunResult:
    """The run itself, step by step. Its folder is made when a search takes long, or there is all to be written."""
    keeper = keeper or make_keeper(plan)
    notes, clock = Noted(progress, plan.cautions), Clock(plan.state.spent if plan.state else None)
    ready = make_ready(plan, notes, clock)
    findings = find_circuit(ready, ready.options, notes, clock, keeper)
    return write_findings(findings, final_folder(plan, keeper), notes, clock, keeper.has_folder)


def final_folder(plan: Plan, keeper: Keeper) -> Path:
    """Where the run's files go: where its state lies, else where it was told to or a folder that is still free."""
    return keeper.folder if keeper.has_folder or plan.options.out else next_free(plan.folder)


def make_ready(plan: Plan, notes: Noted, clock: Clock) -> Ready:
    """Prompts and model, loaded and checked, and how well the full model does the task."""
    options = replace(plan.options, device=find_device(plan.options.device))
    with clock.time("load"):
        notes.stage(f"loading {options.model}")
        tokenizer = load_tokenizer(str(plan.model_folder), notes).with_bos(options.bos)
        pairs = make_prompts(plan.task, tokenizer, options, notes)
        batch = tokenise(pairs, tokenizer)
        check_answers(find_metric(options.metric or ""), batch)
        work = fit_memory(workload(plan, options, batch), options)
        model = load_model(short_name(options.model), plan.model_folder, batch, options.device, DTYPES[options.dtype])
    with clock.time("task"):
        report_task(model, batch, work.batch_size, notes)
    return Ready(plan.task, options, tokenizer, pairs, batch, model, work)


def find_circuit(
    ready: Ready, options: RunOptions, notes: Noted, clock: Clock, keeper: Keeper, taken_over: TakenOver = TakenOver()
) -> Findings:
    """The search that ``options`` ask for, from where an earlier one was cut off, and the evaluation of its outcome."""
    method, options = settle(options)
    transformer, batch, size = ready.model.transformer, ready.batch, ready.work.batch_size
    with clock.time("search"):
        start = find_start(search_identity(ready, options, method), notes, clock, keeper) or taken_over.start
        found = search(ready, method, start, notes, keeper)
    with clock.time("evaluation"):
        notes.stage("evaluating the circuit")
        evaluation = evaluate(transformer, batch, found.kept, method.ablation, size, taken_over.evaluation)
        notes.warn_if(recovery_warning(evaluation))
    near = undecidable(transformer.architecture.graph, found, method.threshold, transformer.dtype)
    notes.warn_if(rounding_warning(near, method.threshold, MARGINS[transformer.dtype]))
    n_taken_over = start.n_tests if start is not None and start is taken_over.start else 0
    return Findings(ready, options, method, found, evaluation, near, n_taken_over)


def find_start(identity: dict[str, Any], notes: Noted, clock: Clock, keeper: Keeper) -> Found | None:
    """What an earlier sitting of the same search had decided, if there was one."""
    start = keeper.start(identity, clock.spent, notes.warn)
    if start is not None:
        notes.stage(f"going on with {keeper.folder}: {taken_up(start, clock)}")
    return start


def search(ready: Ready, method: ACDC, start: Found | None, notes: Noted, keeper: Keeper) -> Found:
    """The method's outcome; what it has decided so far is kept all the while, and how long it still takes is told."""
    graph, name = ready.model.transformer.architecture.graph, ready.model.name
    notes.stage(f"{method.name} on the {graph.n_edges:,} edges of {name}, threshold {method.threshold:g}")
    eta = Eta(graph)

    def save(found: Found) -> None:
        keeper.save(found)
        eta.see(found)

    size, in_flight = ready.work.batch_size, ready.work.bytes_in_flight
    progress = WithTimeLeft(notes, eta)
    found = method.find(ready.model.transformer, ready.batch, size, progress, start, save, in_flight)
    keeper.save(found)
    keeper.finish()
    return found


def search_identity(ready: Ready, options: RunOptions, method: ACDC) -> dict[str, Any]:
    """All that the search's outcome depends on, to the last bit: a state is taken up only where it is the same."""
    blocks = identity(ready.model.to_dict(), task_block(ready), method_block(method, options))
    device = options.device.partition(":")[0]
    return blocks | {"device": device, "circuitfind": __version__, "torch": torch.__version__}


def taken_up(start: Found, clock: Clock) -> str:
    """How far an earlier sitting came."""
    n_decided, n_edges = int(start.decided.sum()), int(start.scores.isfinite().sum())
    return f"{n_decided / n_edges:.0%} decided, {start.summary}, after {duration(clock.seconds.get('search', 0.0))}"


def write_findings(findings: Findings, folder: Path, notes: Noted, clock: Clock, is_claimed: bool = False) -> RunResult:
    """The run's folder, with its pictures drawn. ``is_claimed``: it is this run's own already."""
    circuit, options = make_circuit(findings), findings.options
    with clock.time("drawing"):
        notes.stage("drawing the circuit")
        pictures = {f"circuit.{name}": writer(name)(circuit) for name in dict.fromkeys(("dot", *options.formats))}
    record = make_record(findings) | {
        "warnings": notes.warnings,
        "timings": clock.seconds,
        "sittings": clock.spent().sittings,
        "batch_size": findings.ready.work.batch_size,
        "bytes_in_flight": findings.ready.work.bytes_in_flight,
        "estimated_memory_bytes": needed(findings.ready.work),
        "peak_memory_bytes": clock.spent().peak_memory,
    }
    write_run(folder, make_files(findings, circuit, pictures, record), options.force or is_claimed)
    return RunResult(circuit, findings.evaluation, folder, tuple(notes.warnings))


def settle(options: RunOptions) -> tuple[ACDC, RunOptions]:
    """The method, and the options with no threshold left to decide."""
    metric = find_metric(options.metric or "")
    threshold = DEFAULT_THRESHOLD[metric] if options.threshold is None else options.threshold
    ablation = find_ablation(options.ablation)
    method = find_method(options.method)(threshold, metric, ablation, options.objective, options.schedule)
    return method, replace(options, threshold=threshold)


def find_device(name: str) -> str:
    """``auto`` is cuda where there is one, else the CPU. Raises UsageError for a device that isn't there."""
    kind, _, number = name.partition(":")
    n_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = {"cpu": True, "cuda": int(number or 0) < n_cuda, "mps": torch.backends.mps.is_available()}
    if kind == "auto":
        return "cuda" if n_cuda else "cpu"
    if not there[kind]:
        raise UsageError(f"This machine has no {name} that PyTorch can use. Use --device auto.")
    return name


def fit_memory(work: Workload, options: RunOptions) -> Workload:
    """The workload made to fit what --memory allows and what there is; a batch size that was given stays."""
    smaller = [size for size in BATCH_SIZES if size < work.batch_size and options.batch_size is None]
    return plan_memory(work, options.device, options.memory, smaller)


def workload(plan: Plan, options: RunOptions, batch: Batch) -> Workload:
    """What the memory that the run needs depends on."""
    return Workload(
        shape=Shape.of(read_config(plan.model_folder)),
        stored=stored_weights(plan.model_folder),
        itemsize=DTYPES[options.dtype].itemsize,
        n_prompts=batch.n_prompts,
        n_pos=batch.n_pos,
        batch_size=options.batch_size or default_batch_size(batch.n_prompts, options.device),
        n_threads=torch.get_num_threads() if options.device == "cpu" else 1,
    )


def make_prompts(task: Task, tokenizer: HubTokenizer, options: RunOptions, notes: Noted) -> list[PromptPair]:
    """The run's prompt pairs. Raises TaskError if there are none."""
    pairs = task.make(tokenizer, options.n_prompts or DEFAULT_PROMPTS, options.seed)
    if not pairs:
        raise TaskError(f"The task '{task.name}' makes no prompts with this model's tokenizer. Use another model.")
    if options.n_prompts and len(pairs) < options.n_prompts:
        notes.warn(f"{options.n_prompts} prompts were asked for; there are {len(pairs)}.")
    return pairs


def report_task(model: Model, batch: Batch, batch_size: int, notes: Noted) -> None:
    """Tells how well the full model does the task, and warns if it fails it."""
    performance = task_performance(model.transformer, batch, batch_size)
    notes.stage(f"the full model on {batch.n_prompts} prompts of up to {batch.n_pos} tokens: {task_line(performance)}")
    notes.warn_if(task_warning(performance))


def make_circuit(findings: Findings) -> Circuit:
    """The kept edges with their scores and everything that identifies what they were found in."""
    ready, found = findings.ready, findings.found
    graph = ready.model.transformer.architecture.graph
    places = found.kept.nonzero().tolist()
    edges = {Edge(graph.senders[s], graph.receivers[r]): float(found.scores[r, s]) for r, s in places}
    method = method_block(findings.method, findings.options)
    return Circuit(graph, edges, ready.model.to_dict(), task_block(ready), method, findings.evaluation.to_dict())


def task_block(ready: Ready) -> dict[str, Any]:
    """The block ``task`` of a circuit file."""
    return {
        "name": ready.task.name,
        "n_prompts": len(ready.pairs),
        "seed": ready.options.seed,
        "prompts_sha256": hashlib.sha256(write_prompts(ready.pairs).encode()).hexdigest(),
        "bos": ready.tokenizer.adds_bos,
    }


def method_block(method: ACDC, options: RunOptions) -> dict[str, Any]:
    """The block ``method`` of a circuit file."""
    return method.to_dict() | {"dtype": options.dtype}


def make_record(findings: Findings) -> dict[str, Any]:
    """run.json without what the run took: everything needed to repeat it."""
    ready, options, found = findings.ready, asdict(findings.options), findings.found
    return {
        "command": {key: str(value) if isinstance(value, Path) else value for key, value in options.items()},
        "method": findings.method.to_dict(),
        "model_sha256": ready.model.sha256,
        "model_difference": ready.model.difference,
        "bos": ready.tokenizer.adds_bos,
        "n_pos": ready.batch.n_pos,
        "search": {
            "tested": found.n_tests,
            "computed": found.n_evaluated,
            "taken_over": findings.n_taken_over,
            "n_undecidable": len(findings.undecidable),
            "undecidable": list(map(str, findings.undecidable)),
        },
        "threads": torch.get_num_threads(),
        "versions": {
            "circuitfind": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in VERSIONED},
        },
        "platform": f"{platform.system()} {platform.machine()}",
    }


def make_files(
    findings: Findings, circuit: Circuit, pictures: dict[str, bytes], record: dict[str, Any]
) -> dict[str, str | bytes]:
    """The run's files by name; run.json, the last, says that all the others are there."""
    ready = findings.ready
    evidence = Evidence(circuit, findings.evaluation, ready.pairs[0], record, tuple(pictures))
    return {
        "circuit.json": circuit.to_json(),
        "scores.safetensors": scores_file(circuit.graph, findings.found.scores, ready.model.transformer.dtype),
        "prompts.jsonl": write_prompts(ready.pairs),
        **pictures,
        "report.md": report(evidence),
        RUN_FILE: json_file(record),
    }


class Clock:
    """Seconds that each part of a run took, in all its sittings; ``before`` is what the earlier ones took."""

    def __init__(self, before: Spent | None = None) -> None:
        self._before = before
        self.seconds: dict[str, float] = dict(before.seconds) if before else {}
        self._running: dict[str, float] = {}

    def fork(self, state: State | None) -> Clock:
        """That of one of several runs: what all of them needed counts for each, and what ``state`` says it took."""
        clock = Clock(state.spent if state else None)
        clock.seconds |= {part: clock.seconds.get(part, 0.0) + seconds for part, seconds in self.seconds.items()}
        return clock

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        self._running[part] = time.perf_counter()
        yield
        self.seconds = self._until_now()
        del self._running[part]

    def spent(self) -> Spent:
        """What the run has taken so far, the part that is going on included."""
        if self._before is None:
            return Spent(self._until_now(), peak())
        return Spent(self._until_now(), max(peak(), self._before.peak_memory), self._before.sittings + 1)

    def _until_now(self) -> dict[str, float]:
        now = time.perf_counter()
        running = {part: self.seconds.get(part, 0.0) + now - start for part, start in tuple(self._running.items())}
        return self.seconds | {part: round(seconds, 3) for part, seconds in running.items()}


class Noted:
    """Progress that passes everything on and keeps the warnings for the record."""

    def __init__(self, progress: Progress, warnings: Sequence[str] = ()) -> None:
        self._progress = progress
        self.warnings: list[str] = []
        for message in warnings:
            self.warn(message)

    def fork(self) -> Noted:
        """That of one of several runs: its own warnings come on top of those told so far."""
        notes = Noted(self._progress)
        notes.warnings = list(self.warnings)
        return notes

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
