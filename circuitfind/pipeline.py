"""The whole flow on one screen: task -> prompts -> model -> method -> circuit -> evaluation -> files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count, takewhile

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitfind.circuits.bootstrap import Bootstrap, bootstrap
from circuitfind.circuits.graph import Graph
from circuitfind.circuits.scores_file import rounded, scores_file
from circuitfind.circuits.size import Selection, find_select
from circuitfind.circuits.units import Units, find_kv, find_level
from circuitfind.errors import ModelError, UsageError
from circuitfind.evaluation.performance import Evaluation, evaluate, task_performance
from circuitfind.evaluation.work import EVALUATION
from circuitfind.methods.catalogue import CATALOGUE
from circuitfind.methods.exact import Exact
from circuitfind.methods.make import default_threshold, make_method
from circuitfind.methods.masks.learned import DivergedError
from circuitfind.methods.method import Scorer, score_on
from circuitfind.methods.outcome import Found
from circuitfind.methods.saved_state import SoFar, save_part
from circuitfind.methods.scored import Scored
from circuitfind.methods.search.acdc import ACDC
from circuitfind.methods.search.candidates import Shortlist, chosen_before
from circuitfind.methods.search.chain import default_batch_size
from circuitfind.methods.search.reuse import undecidable
from circuitfind.methods.search.rounding import margin_of
from circuitfind.metrics.objective import check_answers
from circuitfind.models.loading.config import read_config
from circuitfind.models.loading.load import load_tokenizer
from circuitfind.models.loading.model import Model, load_model
from circuitfind.patching.reference import find_ablation
from circuitfind.progress import Progress, Silent
from circuitfind.prompts.batch import Batch, tokenise
from circuitfind.prompts.pairs import Tokenizer
from circuitfind.prompts.roles import find_roles
from circuitfind.prompts.task_metric import own_metrics
from circuitfind.runs.checkpoint import Keeper
from circuitfind.runs.clock import Clock, Noted
from circuitfind.runs.files import RunResult, write_findings
from circuitfind.runs.memory import Shape, Workload, n_edges, plan_memory, stored_weights
from circuitfind.runs.neuron_pipeline import find_neurons
from circuitfind.runs.plan import Plan, RunOptions, make_plan, short_name
from circuitfind.runs.prepare import with_constants
from circuitfind.runs.prompt_sets import draw, make_prompts
from circuitfind.runs.report import (
    empty_warning,
    recovery_warning,
    rounding_warning,
    shortlist_warning,
    task_line,
    task_warning,
)
from circuitfind.runs.restart import go_on, taken_up
from circuitfind.runs.result import Findings, Ready
from circuitfind.runs.time_left import Eta, WithEvenTimeLeft, WithTimeLeft

__all__ = ["Plan", "RunOptions", "RunResult", "carry_out", "make_plan", "run"]

MANY = 1000
"""Of more prompts than this it is seen first whether there is memory for them."""
MOST_SHOWN = 10
"""So many roles of more are named."""
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
BATCH_SIZES = (64, 16, 4)
"""What is tried where the default takes too much memory; below the last no less would be held
(``incremental.ROWS``).
"""
CANDIDATES = "candidates"
"""The part of a search's state, and of what it takes, that is the choice of its candidates."""


@dataclass(frozen=True)
class TakenOver:
    """What a run has from an earlier one that differs in the threshold alone: decisions or scores, an evaluation, the
    candidates."""

    start: Found | None = None
    per_prompt: Float[Tensor, "prompt receiver sender"] | None = None
    evaluation: Evaluation | None = None
    shortlist: Shortlist | None = None


def run(options: RunOptions, progress: Progress | None = None) -> RunResult:
    """Find the circuit that ``options`` ask for, judge it and write its folder. Raises CircuitfindError."""
    progress = progress or Silent()
    plan = make_plan(options, progress)
    if plan.is_finished:
        raise UsageError(f"The run in {plan.folder} is finished: there is nothing to resume.")
    return carry_out(plan, progress)


def make_keeper(plan: Plan) -> Keeper:
    """Who keeps the state of the plan's search while it goes."""
    options = plan.options
    return Keeper(plan.folder, options.out is None, options.force or options.resume, plan.state)


def carry_out(plan: Plan, progress: Progress, keeper: Keeper | None = None) -> RunResult:
    """The run itself, step by step. Its folder is made when a search takes long, or there is all to be written."""
    with keeper or make_keeper(plan) as keeper:
        notes, clock = Noted(progress, plan.cautions), Clock(plan.state.spent if plan.state else None)
        ready = make_ready(plan, notes, clock)
        findings = find_circuit(ready, ready.options, notes, clock, keeper)
        return write_findings(findings, keeper.take_folder(), notes, clock, is_claimed=True)


def make_ready(plan: Plan, notes: Noted, clock: Clock) -> Ready:
    """Prompts and model, loaded and checked, and how well the full model does the task."""
    options = replace(plan.options, device=find_device(plan.options.device))
    with clock.time("load"):
        notes.stage(f"loading {options.model}")
        tokenizer = load_tokenizer(str(plan.model_folder), notes).with_bos(options.bos)
        refuse_too_many(plan, options, tokenizer)
        pairs = make_prompts(plan.task, tokenizer, options, notes)
        batch = replace(tokenise(pairs, tokenizer), metrics=own_metrics(plan.task))
        if options.positions:
            batch = replace(batch, roles=find_roles(pairs, tokenizer))
        check_answers(options.metric or "", batch)
        if options.bootstrap is not None:
            Bootstrap(options.bootstrap).check(batch.n_prompts)
        work = fit_memory(workload(plan, options, batch), options)
        model = load_model(short_name(options.model), plan.model_folder, batch, options.device, DTYPES[options.dtype])
    with clock.time("task"):
        report_task(model, batch, work.batch_size, notes)
    ready = Ready(plan.task, options, tokenizer, pairs, batch, model, work)
    return with_constants(ready, options.ablation, notes, clock)


def find_circuit(
    ready: Ready, options: RunOptions, notes: Noted, clock: Clock, keeper: Keeper, taken_over: TakenOver = TakenOver()
) -> Findings:
    """The circuit that ``options`` ask for, and its evaluation."""
    options = settle(options)
    if options.level == "neuron":
        return find_neurons(ready, options, notes, clock, keeper)
    method = make_method(options, ready.graph)
    if options.kv == "grouped" and find_units(ready, options).are_edges:
        notes.stage(f"{ready.model.name} has no grouped queries: every head's k and v inputs are its own")
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
    transformer, units = ready.model.transformer, find_units(ready, options)
    so_far = go_on(keeper, ready, options, method, clock, notes)
    earlier, choosing = None, None
    if so_far is not None:
        earlier, choosing = Found.from_so_far(so_far, ready.graph), so_far.part(CANDIDATES)
    shortlist = find_shortlist(ready, method, notes, clock, keeper, taken_over, choosing)
    edges, known = (None, taken_over.evaluation) if shortlist is None else (shortlist.edges, shortlist.evaluation)
    with clock.time("search"):
        if earlier is not None:
            notes.stage(taken_up(keeper, clock, f"{share_decided(earlier, edges):.0%} decided, {earlier.summary}"))
        start = earlier or taken_over.start
        found = search(ready, method, units, start, notes, keeper, shortlist, seconds_of_evaluation(clock))
    evaluation = evaluate_circuit(ready, options, found.kept, notes, clock, known)
    measured = (method.metric, method.ablation, method.objective == "match")
    margin = margin_of(transformer, ready.batch, ready.work.batch_size, measured, found.kept, edges)
    near = undecidable(units, found, method.threshold, margin, edges)
    notes.warn_if(rounding_warning(near, method.threshold, margin))
    tests = {
        "tested": found.n_tests,
        "computed": found.n_evaluated,
        "taken_over": start.n_tests if start is not None and start is taken_over.start else 0,
        "margin": margin,
        "n_undecidable": len(near),
        "undecidable": list(map(str, near)),
    }
    record = {"search": tests}
    if shortlist is not None and method.candidates is not None:
        record["candidates"] = shortlist.to_dict(method.candidates.n_edges)
    return Findings(ready, options, method, found, evaluation, record, shortlist=shortlist)


def find_shortlist(
    ready: Ready,
    method: ACDC,
    notes: Noted,
    clock: Clock,
    keeper: Keeper,
    taken_over: TakenOver,
    start: SoFar | None,
) -> Shortlist | None:
    """The candidates and how well they do by themselves, with a warning where that is bad; None: all are tested.

    ``start``: what an earlier sitting had come to in choosing them.
    """
    if method.candidates is None:
        return None
    shortlist, model = taken_over.shortlist, ready.model.transformer
    if shortlist is None:
        with clock.time(CANDIDATES):
            name, size = method.candidates.method.name, ready.work.batch_size
            if chosen_before(start, model.architecture.graph) is None:
                if start is not None:
                    notes.stage(taken_up(keeper, clock, start.told, CANDIDATES))
                notes.stage(f"{name} chooses candidates of the {model.architecture.graph.n_edges:,} edges")
            save, progress = save_part(keeper.save, CANDIDATES), WithEvenTimeLeft(notes)
            edges = method.candidates.choose(model, ready.batch, size, progress, start, save)
            known = evaluate(model, ready.batch, edges, method.ablation, size, taken_over.evaluation)
            shortlist = Shortlist(edges, known)
    notes.warn_if(shortlist_warning(shortlist.evaluation, shortlist.n_edges, method.metric))
    return shortlist


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
    graph, units = ready.graph, find_units(ready, options)
    find = find_select(options.select)
    selection = Selection(options.edges, options.fraction, options.threshold, find, options.nodes)
    selection.count(units)  # what the graph does not have is refused before it is looked for
    with clock.time("search"):
        per_prompt = taken_over.per_prompt
        if per_prompt is None:
            per_prompt = score(ready, options, method, units, notes, clock, keeper)
        scored = Scored.of(per_prompt, selection, units)
    if options.bootstrap is not None:
        with clock.time("bootstrap"):
            notes.stage(f"{options.bootstrap:,} resamples of the prompts")
            draws = Bootstrap(options.bootstrap, seed=options.seed)
            uncertainty = bootstrap(graph, rounded(graph, per_prompt), selection, draws, units)
            scored = replace(scored, options=draws, uncertainty=uncertainty)
    evaluation = evaluate_circuit(ready, options, scored.kept, notes, clock, taken_over.evaluation)
    consensus = None
    if scored.uncertainty is not None:
        with clock.time("evaluation"):
            size, kept = ready.work.batch_size, scored.uncertainty.consensus
            ablation = find_ablation(options.ablation)
            consensus = evaluate(ready.model.transformer, ready.batch, kept, ablation, size, evaluation)
    return Findings(ready, options, method, scored, evaluation, scored.record(), consensus)


def find_units(ready: Ready, options: RunOptions) -> Units:
    """What is decided on in this model."""
    units = Units.of(ready.model.transformer.architecture, find_level(options.level), find_kv(options.kv))
    return units.at_roles(ready.graph)


def score(
    ready: Ready, options: RunOptions, method: Scorer, units: Units, notes: Noted, clock: Clock, keeper: Keeper
) -> Float[Tensor, "prompt receiver sender"]:
    """The method's scores, from where an earlier run was cut off. Of one that diverges those of its last sound step are
    left in the run's folder."""
    model = ready.model.transformer
    start = go_on(keeper, ready, options, method, clock, notes)
    if start is not None:
        notes.stage(taken_up(keeper, clock, start.told))
    notes.stage(f"{method.name} scores the {units.n:,} {units.noun} of {ready.model.name}{_at_roles(ready.graph)}")
    try:
        progress = WithEvenTimeLeft(notes, seconds_of_evaluation(clock))
        scores = score_on(method, model, ready.batch, ready.work.batch_size, progress, start, keeper.save)
        keeper.finish()
        return scores
    except DivergedError as error:
        data = scores_file(ready.graph, error.scores.double().mean(0), model.dtype)
        path = keeper.rescue("scores.safetensors", data)
        raise ModelError(f"{error}\nThe scores after the last sound step are in {path}.") from None


def seconds_of_evaluation(clock: Clock) -> float:
    """About how long the circuit's evaluation will take, from what the full model took on the same prompts."""
    return EVALUATION * clock.seconds.get("task", 0.0)


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
        progress = WithEvenTimeLeft(notes)
        evaluation = evaluate(ready.model.transformer, ready.batch, kept, ablation, size, known, progress)
        empty = empty_warning(int(kept.sum()), "edges", options.threshold)
        is_search = not CATALOGUE[options.method or ""].scores
        notes.warn_if(empty or recovery_warning(evaluation, is_search, metric=options.metric or ""))
    return evaluation


def search(
    ready: Ready,
    method: ACDC,
    units: Units,
    start: Found | None,
    notes: Noted,
    keeper: Keeper,
    shortlist: Shortlist | None,
    after: float = 0.0,
) -> Found:
    """The method's outcome; what it has decided so far is kept all the while, and how long it still takes is told, with
    what comes ``after`` it.

    At node level every test is made and takes about as long, so that the share of them that are done tells enough.
    """
    edges, chosen = None, SoFar({})
    if shortlist is not None:
        edges, chosen = shortlist.edges, shortlist.to_so_far().as_part(CANDIDATES)
    among = "" if shortlist is None else f"{shortlist.n_edges:,} candidates of "
    what = f"{among}the {units.n:,} {units.noun} of {ready.model.name}{_at_roles(ready.graph)}"
    notes.stage(f"{method.name} on {what}, threshold {method.threshold:g}")
    eta = Eta(units.graph, edges)

    def save(found: Found) -> None:
        keeper.save(chosen | found.to_so_far())
        if units.level == "edge":
            eta.see(found)

    if start is not None:
        keeper.save(chosen | start.to_so_far())
        keeper.save_now()  # the run of a sweep that it was taken over from has no state any more
    size, in_flight = ready.work.batch_size, ready.work.bytes_in_flight
    progress = WithTimeLeft(notes, eta, after)
    found = method.find(ready.model.transformer, ready.batch, size, progress, start, save, in_flight, edges)
    keeper.save(chosen | found.to_so_far())
    keeper.finish()
    return found


def _at_roles(graph: Graph) -> str:
    """Which roles a graph has, to go on a sentence with."""
    shown = [*graph.roles[:MOST_SHOWN], *(["..."] if len(graph.roles) > MOST_SHOWN + 1 else []), *graph.roles[-1:]]
    return f" at {', '.join(dict.fromkeys(shown))}" if graph.roles else ""


def share_decided(start: Found, shortlist: Bool[Tensor, "receiver sender"] | None) -> float:
    """How far an earlier sitting came."""
    among = start.scores.isfinite() if shortlist is None else shortlist
    return start.n_decided(among) / max(1, int(among.sum()))


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


def refuse_too_many(plan: Plan, options: RunOptions, tokenizer: Tokenizer) -> None:
    """Raises UsageError where more prompts are asked for than there is memory for, before they are all drawn.

    As many are drawn as would be too many if each were as short as the first: a task may have fewer than that.
    """
    asked = options.n_prompts or 0
    first = draw(plan.task, tokenizer, 1, options.seed, options) if asked > MANY else []
    if not first:
        return
    one = workload(plan, options, tokenise(first, tokenizer))

    def fit(n_prompts: int) -> Workload:
        return fit_memory(replace(one, n_prompts=n_prompts), options)

    for n_prompts in [*takewhile(lambda n: n < asked, (MANY << bits for bits in count())), asked]:
        try:
            fit(n_prompts)
        except UsageError:
            if len(draw(plan.task, tokenizer, n_prompts, options.seed, options)) == n_prompts:
                fit(asked)
            return


def workload(plan: Plan, options: RunOptions, batch: Batch) -> Workload:
    """What the memory that the run needs depends on."""
    of_scores = CATALOGUE[options.method or ""].scores
    shape = Shape.of(read_config(plan.model_folder))
    return Workload(
        shape=shape,
        stored=stored_weights(plan.model_folder),
        itemsize=DTYPES[options.dtype].itemsize,
        n_prompts=batch.n_prompts,
        n_pos=batch.n_pos,
        batch_size=options.batch_size or default_batch_size(batch.n_prompts, options.device, of_scores),
        n_threads=torch.get_num_threads() if options.device == "cpu" else 1,
        of_scores=of_scores,
        has_candidates=options.candidates is not None,
        of_logits=bool(batch.metrics),
        tests_each=options.method == Exact.name and options.level != "neuron",
        learns_constants=options.ablation == "optimal",
        n_roles=len(batch.roles.names) if batch.roles else 1,
        share_kept=share_kept(options, shape),
    )


def share_kept(options: RunOptions, shape: Shape) -> float:
    """The share of all edges that the circuit may have: what was asked for, or all where a threshold decides."""
    if options.edges is not None:
        return min(1.0, options.edges / n_edges(shape))
    return 1.0 if options.fraction is None else options.fraction


def report_task(model: Model, batch: Batch, batch_size: int, notes: Noted) -> None:
    """Tells how well the full model does the task, and warns if it fails it."""
    performance = task_performance(model.transformer, batch, batch_size)
    notes.stage(f"the full model on {batch.n_prompts} prompts of up to {batch.n_pos} tokens: {task_line(performance)}")
    notes.warn_if(task_warning(performance))
