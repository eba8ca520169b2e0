"""Which of a task's prompts a run is on, and others of the same kind that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from circuitfind.errors import TaskError
from circuitfind.methods.catalogue import CATALOGUE, DEFAULT_SEARCH
from circuitfind.options import RunOptions
from circuitfind.prompts.pairs import PromptPair, Task, Tokenizer
from circuitfind.runs.clock import Noted

FEW = 32
"""Masks that are learned from fewer prompts than this may fit these alone."""

MOST_DRAWS = 16
"""How many times as many prompts as are wanted are drawn, to leave out what can't be taken."""


def make_prompts(task: Task, tokenizer: Tokenizer, options: RunOptions, notes: Noted) -> list[PromptPair]:
    """The run's prompt pairs. Raises TaskError if there are none."""
    info = CATALOGUE[options.method or DEFAULT_SEARCH]
    pairs = draw(task, tokenizer, options.n_prompts or info.prompts, options.seed, options)
    if not pairs:
        raise TaskError(
            f"The task '{task.name}' makes no prompts with this model's tokenizer. Use another model."
        )
    if options.n_prompts and len(pairs) < options.n_prompts:
        notes.warn(f"{options.n_prompts} prompts were asked for; there are {len(pairs)}.")
    if info.learns and len(pairs) < FEW:
        notes.warn(
            f"{info.name} may learn {len(pairs)} prompts by heart, and keep what does not do for others. With"
            f" --prompts {info.prompts} a step takes as long; circuitfind evaluate tries the circuit on"
            " others."
        )
    return pairs


def other_prompts(
    task: Task,
    tokenizer: Tokenizer,
    pairs: Sequence[PromptPair],
    options: RunOptions,
    n_prompts: int,
    n_tokens: int | None = None,
) -> list[PromptPair]:
    """Up to so many prompts of the task with another seed than the run's, none of them among
    ``pairs``, and none with more than ``n_tokens`` tokens: more are drawn, up to MOST_DRAWS times
    as many, where too few are left. There may be none: a prompts file has its prompts alone."""
    known = {pair.clean for pair in pairs}

    def is_other(pair: PromptPair) -> bool:
        fits = n_tokens is None or len(tokenizer.encode(pair.clean)) <= n_tokens
        return fits and pair.clean not in known

    n_drawn, most = n_prompts + len(pairs), MOST_DRAWS * (n_prompts + len(pairs))
    while True:
        drawn = draw(task, tokenizer, n_drawn, options.seed + 1, options)
        others = list(filter(is_other, drawn))[:n_prompts]
        if len(others) == n_prompts or len(drawn) < n_drawn or n_drawn >= most:
            return others
        n_drawn *= 2


def draw(
    task: Task, tokenizer: Tokenizer, n_prompts: int, seed: int, options: RunOptions
) -> list[PromptPair]:
    """Prompts of the task; with their roles only where positions are told apart."""
    pairs = task.make(tokenizer, n_prompts, seed)
    return pairs if options.positions else [replace(pair, roles=()) for pair in pairs]
