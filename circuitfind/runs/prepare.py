"""Prepares a run: device, prompts, batch, memory, model, and what ablated senders write.

What they write is the same for all prompts under mean and optimal ablation: means over other
prompts of the task, or constants that are learned on those.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import count, takewhile

import torch

from circuitfind.circuits.bootstrap import Bootstrap
from circuitfind.errors import UsageError
from circuitfind.evaluation.performance import task_performance
from circuitfind.methods.catalogue import CATALOGUE
from circuitfind.methods.exact import Exact
from circuitfind.metrics.measures import check_answers
from circuitfind.models.loading.config import read_config
from circuitfind.models.loading.load import load_tokenizer
from circuitfind.models.loading.model import Model, load_model
from circuitfind.models.sizes import Shape, stored_weights
from circuitfind.options import RunOptions, SettledOptions
from circuitfind.patching.ablation import OF_MEANS, find_ablation
from circuitfind.patching.blocks import default_batch_size
from circuitfind.patching.learned_ablation import learn_constants
from circuitfind.patching.mean_ablation import mean_outputs
from circuitfind.prompts.batch import Batch, tokenise
from circuitfind.prompts.pairs import PromptPair, Tokenizer
from circuitfind.prompts.roles import find_roles
from circuitfind.prompts.task_metric import own_metrics
from circuitfind.runs.clock import Clock, Noted
from circuitfind.runs.memory import Workload, n_edges, plan_memory
from circuitfind.runs.plan import Plan, short_name
from circuitfind.runs.prompt_sets import draw, make_prompts, other_prompts
from circuitfind.runs.result import Ready
from circuitfind.runs.warnings import (
    task_line,
    task_warning,
)

REFERENCE_PROMPTS = 64
"""Over how many prompts a mean ablation takes its means."""


def with_constants(ready: Ready, ablation: str, notes: Noted, clock: Clock) -> Ready:
    """The same for this ablation, with the constants that it needs in the batch."""
    options = replace(ready.options, ablation=ablation)
    plain = replace(
        ready, options=options, batch=replace(ready.batch, constants=None), reference=(), learned=None
    )
    if ablation not in OF_MEANS:
        return plain
    model, of_neurons = ready.model.transformer, options.level == "neuron"
    with clock.time("means"):
        reference = make_reference(ready, notes)
        others = tokenise(reference, ready.tokenizer)
        way, size = find_ablation(ablation), ready.work.batch_size
        means = mean_outputs(model, others, ready.batch.n_pos, way, size, of_neurons)
    found = replace(plain, batch=replace(ready.batch, constants=means), reference=reference)
    if ablation != "optimal":
        return found
    with clock.time("constants"):
        notes.stage(f"learning the constants of optimal ablation on {len(reference)} prompts")
        learned = learn_constants(model, others, means, options.seed, notes)
        notes.warn_if(learned.warning)
    return replace(found, batch=replace(ready.batch, constants=learned.constants), learned=learned)


def make_reference(ready: Ready, notes: Noted) -> list[PromptPair]:
    """The prompts for the means: others of the task, none with more tokens than the run's own.
    Where there are no others, the run's own."""
    others = other_prompts(
        *(ready.task, ready.tokenizer, ready.pairs, ready.options, REFERENCE_PROMPTS),
        n_tokens=ready.batch.n_pos,
    )
    if not others:
        notes.warn("the means are over the run's own prompts: the task has no others.")
    reference = others or list(ready.pairs)
    notes.stage(f"the mean outputs of {len(reference)} {'other' if others else 'of the same'} prompts")
    return reference


MANY = 1000
"""Of more prompts than this it is seen first whether there is memory for them."""


DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


BATCH_SIZES = (64, 16, 4)
"""What is tried where the default takes too much memory; below the last no less would be held
(``blocks.ROWS``).
"""


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
        check_answers(options.metric, batch)
        if options.bootstrap is not None:
            Bootstrap(options.bootstrap).check(batch.n_prompts)
        work = fit_memory(workload(plan, options, batch), options)
        model = load_model(
            short_name(options.model), plan.model_folder, batch, options.device, DTYPES[options.dtype]
        )
    with clock.time("task"):
        report_task(model, batch, work.batch_size, notes)
    ready = Ready(plan.task, options, tokenizer, pairs, batch, model, work)
    return with_constants(ready, options.ablation, notes, clock)


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


def refuse_too_many(plan: Plan, options: SettledOptions, tokenizer: Tokenizer) -> None:
    """Raises UsageError where more prompts are asked for than there is memory for, before they are all drawn.

    As many are drawn as would be too many if each were as short as the first: a task may have fewer
    than that.
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


def workload(plan: Plan, options: SettledOptions, batch: Batch) -> Workload:
    """What the memory that the run needs depends on."""
    of_scores = CATALOGUE[options.method].scores
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
    """The share of all edges that the circuit may have: what was asked for, or all where a
    threshold decides.
    """
    if options.edges is not None:
        return min(1.0, options.edges / n_edges(shape))
    return 1.0 if options.fraction is None else options.fraction


def report_task(model: Model, batch: Batch, batch_size: int, notes: Noted) -> None:
    """Tells how well the full model does the task, and warns if it fails it."""
    performance = task_performance(model.transformer, batch, batch_size)
    notes.stage(
        f"the full model on {batch.n_prompts} prompts of up to {batch.n_pos} tokens: {task_line(performance)}"
    )
    notes.warn_if(task_warning(performance))
