"""The whole flow on one screen: task -> prompts -> model -> method -> circuit -> evaluation -> files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitfind import __version__
from circuitfind.batch import Batch, tokenise
from circuitfind.checkpoint import Keeper
from circuitfind.circuit import Circuit
from circuitfind.errors import ModelError, TaskError, UsageError
from circuitfind.eta import Eta, WithTimeLeft, duration
from circuitfind.evaluation.performance import Evaluation, evaluate, task_performance
from circuitfind.export import writer
from circuitfind.findings import Findings, Ready, make_circuit, make_files, make_record, method_block, task_block
from circuitfind.graph import Graph
from circuitfind.means import mean_outputs
from circuitfind.memory import Shape, Workload, needed, plan_memory, stored_weights
from circuitfind.methods.acdc import ACDC
from circuitfind.methods.catalogue import CATALOGUE
from circuitfind.methods.decisions import MARGINS, undecidable
from circuitfind.methods.found import Found
from circuitfind.methods.learned import DivergedError
from circuitfind.methods.make import default_threshold, make_method
from circuitfind.methods.scored import Scored
from circuitfind.methods.scorer import Scorer
from circuitfind.metrics import check_answers, find_metric
from circuitfind.models.folder import read_config
from circuitfind.models.load import HubTokenizer, load_tokenizer
from circuitfind.models.model import Model, load_model
from circuitfind.patching import OF_MEANS, find_ablation
from circuitfind.preflight import DEFAULT_PROMPTS, Plan, RunOptions, make_plan, short_name
from circuitfind.progress import Progress, Silent
from circuitfind.prompts import PromptPair, Task
from circuitfind.report import recovery_warning, rounding_warning, task_line, task_warning
from circuitfind.resume import identity
from circuitfind.roles import find_roles
from circuitfind.runfolder import next_free, write_run
from circuitfind.scoresfile import rounded, scores_file
from circuitfind.search import default_batch_size
from circuitfind.sittings import Clock, Noted
from circuitfind.size import Selection, find_select
from circuitfind.uncertainty import Bootstrap, bootstrap

__all__ = ["Plan", "RunOptions", "RunResult", "carry_out", "make_plan", "run"]

REFERENCE_PROMPTS = 64
"""Over how many prompts a mean ablation takes its means."""
MOST_SHOWN = 10
"""So many roles of more are named."""
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
BATCH_SIZES = (64, 16, 4)
"""What is tried where the default takes too much memory; below the last no less would be held (``rerun.ROWS``)."""


@dataclass(frozen=True)
class RunResult:
    """What a run leaves behind: the circuit, its evidence, and the folder where both are written."""

    circuit: Circuit
    evaluation: Evaluation
    folder: Path
    warnings: tuple[str, ...]
    found: Mapping[str, Any]
    """How the circuit came about: what run.json says of the search, or of the selection and the bootstrap."""


@dataclass(frozen=True)
class TakenOver:
    """What a run has from an earlier one that differs in the threshold alone: decisions or scores, an evaluation."""

    start: Found | None = None
    per_prompt: Float[Tensor, "prompt receiver sender"] | None = None
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
        if options.positions:
            batch = replace(batch, roles=find_roles(pairs, tokenizer))
        check_answers(find_metric(options.metric or ""), batch)
        work = fit_memory(workload(plan, options, batch), options)
        model = load_model(short_name(options.model), plan.model_folder, batch, options.device, DTYPES[options.dtype])
    with clock.time("task"):
        report_task(model, batch, work.batch_size, notes)
    reference: list[PromptPair] = []
    if options.ablation in OF_MEANS:
        with clock.time("means"):
            reference = make_reference(plan.task, tokenizer, pairs, options, notes)
            ablation, size = find_ablation(options.ablation), work.batch_size
            means = mean_outputs(model.transformer, tokenise(reference, tokenizer), batch.n_pos, ablation, size)
            batch = replace(batch, constants=means)
    return Ready(plan.task, options, tokenizer, pairs, batch, model, work, reference)


def find_circuit(
    ready: Ready, options: RunOptions, notes: Noted, clock: Clock, keeper: Keeper, taken_over: TakenOver = TakenOver()
) -> Findings:
    """The circuit that ``options`` ask for, and its evaluation."""
    options = settle(options)
    method = make_method(options, ready.graph)
    if isinstance(method, ACDC):
        return search_circuit(ready, options, method, notes, clock, keeper, taken_over)
    return score_circuit(ready, options, method, notes, clock, keeper, taken_over)


def search_circuit(
    ready: Ready,
    options: RunOptions,
    method: ACDC,
    notes: Noted,
    clock: Clock,
    keeper: Keeper,
    taken_over: TakenOver,
) -> Findings:
    """The outcome of a search, from where an earlier one was cut off, and its evaluation."""
    transformer = ready.model.transformer
    with clock.time("search"):
        start = find_start(search_identity(ready, options, method), notes, clock, keeper) or taken_over.start
        found = search(ready, method, start, notes, keeper)
    evaluation = evaluate_circuit(ready, options, found.kept, notes, clock, taken_over.evaluation)
    near = undecidable(ready.graph, found, method.threshold, transformer.dtype)
    notes.warn_if(rounding_warning(near, method.threshold, MARGINS[transformer.dtype]))
    tests = {
        "tested": found.n_tests,
        "computed": found.n_evaluated,
        "taken_over": start.n_tests if start is not None and start is taken_over.start else 0,
        "n_undecidable": len(near),
        "undecidable": list(map(str, near)),
    }
    return Findings(ready, options, method, found, evaluation, {"search": tests})


def score_circuit(
    ready: Ready,
    options: RunOptions,
    method: Scorer,
    notes: Noted,
    clock: Clock,
    keeper: Keeper,
    taken_over: TakenOver,
) -> Findings:
    """The circuit made of a method's scores, how sure it is, and its evaluation."""
    graph = ready.graph
    selection = Selection(options.edges, options.fraction, options.threshold, find_select(options.select))
    selection.count(graph)  # what the graph does not have is refused before it is looked for
    with clock.time("search"):
        per_prompt = taken_over.per_prompt
        if per_prompt is None:
            per_prompt = score(ready, method, notes, keeper)
        scored = Scored.of(graph, per_prompt, selection)
    if options.bootstrap is not None:
        with clock.time("bootstrap"):
            notes.stage(f"{options.bootstrap:,} resamples of the prompts")
            draws = Bootstrap(options.bootstrap, seed=options.seed)
            uncertainty = bootstrap(graph, rounded(graph, per_prompt), selection, draws)
            scored = replace(scored, options=draws, uncertainty=uncertainty)
    evaluation = evaluate_circuit(ready, options, scored.kept, notes, clock, taken_over.evaluation)
    consensus = None
    if scored.uncertainty is not None:
        with clock.time("evaluation"):
            size, kept = ready.work.batch_size, scored.uncertainty.consensus
            ablation = find_ablation(options.ablation)
            consensus = evaluate(ready.model.transformer, ready.batch, kept, ablation, size, evaluation)
    return Findings(ready, options, method, scored, evaluation, scored.record(), consensus)


def score(ready: Ready, method: Scorer, notes: Noted, keeper: Keeper) -> Float[Tensor, "prompt receiver sender"]:
    """The method's scores. Of one that diverges those of its last sound step are left in the run's folder."""
    model, graph = ready.model.transformer, ready.graph
    notes.stage(f"{method.name} scores the {graph.n_edges:,} edges of {ready.model.name}{_at_roles(graph)}")
    try:
        return method.score(model, ready.batch, ready.work.batch_size, notes)
    except DivergedError as error:
        data = scores_file(graph, error.scores.double().mean(0), model.dtype)
        path = keeper.rescue("scores.safetensors", data)
        raise ModelError(f"{error}\nThe scores after the last sound step are in {path}.") from None


def evaluate_circuit(
    ready: Ready,
    options: RunOptions,
    kept: Bool[Tensor, "receiver sender"],
    notes: Noted,
    clock: Clock,
    known: Evaluation | None,
) -> Evaluation:
    """How well the circuit does the task, with a warning where it does better than it should, or not at all."""
    with clock.time("evaluation"):
        notes.stage("evaluating the circuit")
        size, ablation = ready.work.batch_size, find_ablation(options.ablation)
        evaluation = evaluate(ready.model.transformer, ready.batch, kept, ablation, size, known)
        notes.warn_if(recovery_warning(evaluation, is_search=not CATALOGUE[options.method or ""].scores))
    return evaluation


def find_start(identity: dict[str, Any], notes: Noted, clock: Clock, keeper: Keeper) -> Found | None:
    """What an earlier sitting of the same search had decided, if there was one."""
    start = keeper.start(identity, clock.spent, notes.warn)
    if start is not None:
        notes.stage(f"going on with {keeper.folder}: {taken_up(start, clock)}")
    return start


def search(ready: Ready, method: ACDC, start: Found | None, notes: Noted, keeper: Keeper) -> Found:
    """The method's outcome; what it has decided so far is kept all the while, and how long it still takes is told."""
    graph, name = ready.graph, f"{ready.model.name}{_at_roles(ready.graph)}"
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


def _at_roles(graph: Graph) -> str:
    """Which roles a graph has, to go on a sentence with."""
    shown = [*graph.roles[:MOST_SHOWN], *(["..."] if len(graph.roles) > MOST_SHOWN + 1 else []), *graph.roles[-1:]]
    return f" at {', '.join(dict.fromkeys(shown))}" if graph.roles else ""


def search_identity(ready: Ready, options: RunOptions, method: ACDC) -> dict[str, Any]:
    """All that the search's outcome depends on, to the last bit: a state is taken up only where it is the same."""
    blocks = identity(ready.model.to_dict(), task_block(ready), method_block(ready, method, options))
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
    return RunResult(circuit, findings.evaluation, folder, tuple(notes.warnings), findings.record)


def settle(options: RunOptions) -> RunOptions:
    """The options with no threshold left to decide."""
    if options.threshold is None and not CATALOGUE[options.method or ""].scores:
        return replace(options, threshold=default_threshold(options.metric or ""))
    return options


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
        of_scores=CATALOGUE[options.method or ""].scores,
        n_roles=len(batch.roles.names) if batch.roles else 1,
    )


def make_prompts(task: Task, tokenizer: HubTokenizer, options: RunOptions, notes: Noted) -> list[PromptPair]:
    """The run's prompt pairs, with roles where positions are told apart. Raises TaskError if there are none."""
    pairs = _draw(task, tokenizer, options.n_prompts or DEFAULT_PROMPTS, options.seed, options)
    if not pairs:
        raise TaskError(f"The task '{task.name}' makes no prompts with this model's tokenizer. Use another model.")
    if options.n_prompts and len(pairs) < options.n_prompts:
        notes.warn(f"{options.n_prompts} prompts were asked for; there are {len(pairs)}.")
    return pairs


def _draw(task: Task, tokenizer: HubTokenizer, n_prompts: int, seed: int, options: RunOptions) -> list[PromptPair]:
    pairs = task.make(tokenizer, n_prompts, seed)
    return pairs if options.positions else [replace(pair, roles=()) for pair in pairs]


def make_reference(
    task: Task, tokenizer: HubTokenizer, pairs: Sequence[PromptPair], options: RunOptions, notes: Noted
) -> list[PromptPair]:
    """The prompts for the means: up to REFERENCE_PROMPTS of the task's with another seed, none of them the run's own,
    and none with more tokens. Where there are no others, the run's own."""
    known = {pair.clean for pair in pairs}
    longest = max(len(tokenizer.encode(pair.clean)) for pair in pairs)
    drawn = _draw(task, tokenizer, REFERENCE_PROMPTS + len(pairs), options.seed + 1, options)
    others = [pair for pair in drawn if pair.clean not in known and len(tokenizer.encode(pair.clean)) <= longest]
    reference = others[:REFERENCE_PROMPTS] or list(pairs)
    if not others:
        notes.warn("the means are over the run's own prompts: the task has no others.")
    notes.stage(f"the mean outputs of {len(reference)} other prompts")
    return reference


def report_task(model: Model, batch: Batch, batch_size: int, notes: Noted) -> None:
    """Tells how well the full model does the task, and warns if it fails it."""
    performance = task_performance(model.transformer, batch, batch_size)
    notes.stage(f"the full model on {batch.n_prompts} prompts of up to {batch.n_pos} tokens: {task_line(performance)}")
    notes.warn_if(task_warning(performance))
