"""What ablated senders write where that is the same for all prompts: means over other prompts of the task, or constants
that are learned on those."""

from __future__ import annotations

from dataclasses import replace

from circuitfind.patching.learned_ablation import learn_constants
from circuitfind.patching.mean_ablation import mean_outputs
from circuitfind.patching.reference import OF_MEANS, find_ablation
from circuitfind.prompts.batch import tokenise
from circuitfind.prompts.pairs import PromptPair
from circuitfind.runs.clock import Clock, Noted
from circuitfind.runs.prompt_sets import other_prompts
from circuitfind.runs.result import Ready

REFERENCE_PROMPTS = 64
"""Over how many prompts a mean ablation takes its means."""


def with_constants(ready: Ready, ablation: str, notes: Noted, clock: Clock) -> Ready:
    """The same for this ablation, with the constants that it needs in the batch."""
    options = replace(ready.options, ablation=ablation)
    plain = replace(ready, options=options, batch=replace(ready.batch, constants=None), reference=(), learned=None)
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
    """The prompts for the means: others of the task, none with more tokens than the run's own. Where there are no
    others, the run's own."""
    others = other_prompts(
        *(ready.task, ready.tokenizer, ready.pairs, ready.options, REFERENCE_PROMPTS), n_tokens=ready.batch.n_pos
    )
    if not others:
        notes.warn("the means are over the run's own prompts: the task has no others.")
    reference = others or list(ready.pairs)
    notes.stage(f"the mean outputs of {len(reference)} {'other' if others else 'of the same'} prompts")
    return reference
