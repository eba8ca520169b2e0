"""Prompt pairs as tokens: clean and corrupted side by side, checked.

Prompts start at position 0 and are padded behind their last token to the longest of the run.
Attention looks back only, so that nothing at a padded position can reach the answer position:
padding cannot leak. The width is that of the whole run, whatever the block a prompt is computed in,
so that results do not depend on the batch size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Int
from torch import Tensor

from circuitfind.circuits.graph import Graph
from circuitfind.circuits.outputs import Outputs
from circuitfind.errors import TaskError
from circuitfind.prompts.pairs import PromptPair, Tokenizer, check_pairs
from circuitfind.prompts.roles import Roles
from circuitfind.prompts.task_metric import OwnMetric

MOST_PROBLEMS = 10
"""So many problems with prompts are counted before a run is refused."""


@dataclass(frozen=True)
class Batch:
    """Aligned prompt pairs. ``end`` is each prompt's answer position: its last token.

    ``answers`` and ``wrong_answers`` hold, for each prompt, the first tokens of its right and wrong
    answers. ``constants`` is what senders write when they are ablated by a mean or by a learned
    constant (``patching/mean_ablation.py``, ``patching/learned_ablation.py``), and ``metrics`` the
    task's own ones. With ``roles`` edges are told apart by the positions at which they are read.
    """

    clean: Int[Tensor, "prompt pos"]
    corrupted: Int[Tensor, "prompt pos"]
    end: Int[Tensor, " prompt"]
    answers: tuple[tuple[int, ...], ...]
    wrong_answers: tuple[tuple[int, ...], ...]
    constants: Outputs | None = None
    metrics: Mapping[str, OwnMetric] = field(default_factory=dict)
    roles: Roles | None = None

    def graph_of(self, base: Graph) -> Graph:
        """The graph of a model, with the roles of these prompts if they have some."""
        return base if self.roles is None else replace(base, roles=self.roles.names)

    @property
    def n_prompts(self) -> int:
        return self.clean.shape[0]

    @property
    def n_pos(self) -> int:
        return self.clean.shape[1]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("clean", "corrupted", "end")}
        constants, roles = (
            self.constants and self.constants.to(device),
            self.roles and self.roles.to(device),
        )
        return replace(self, **moved, constants=constants, roles=roles)

    def rows(self, index: Sequence[int]) -> Batch:
        """The prompts of these numbers, in this order; a number may come twice."""
        chosen = list(index)
        return Batch(
            self.clean[chosen],
            self.corrupted[chosen],
            self.end[chosen],
            tuple(self.answers[i] for i in chosen),
            tuple(self.wrong_answers[i] for i in chosen),
            self.constants,
            self.metrics,
            self.roles and self.roles.rows(chosen),
        )


def tokenise(pairs: Sequence[PromptPair], tokenizer: Tokenizer) -> Batch:
    """The pairs as one batch. Raises TaskError naming the first prompt that is wrong, and how many
    there are.
    """
    if not pairs:
        raise TaskError(
            "There are no prompts. Give a task or file with at least one, and --prompts above 0."
        )
    problems = check_pairs(pairs, tokenizer, MOST_PROBLEMS)
    if problems:
        n = (
            f"{len(problems)} problems in all"
            if len(problems) < MOST_PROBLEMS
            else f"{MOST_PROBLEMS} problems or more"
        )
        raise TaskError(
            problems[0] + (f" ({n}: see `circuitfind tasks check`)" if len(problems) > 1 else "")
        )
    clean = [tokenizer.encode(pair.clean) for pair in pairs]
    corrupted = [tokenizer.encode(pair.corrupted) for pair in pairs]
    return Batch(
        clean=_pad(clean),
        corrupted=_pad(corrupted),
        end=torch.tensor([len(tokens) - 1 for tokens in clean]),
        answers=tuple(_first_tokens(pair.answers, tokenizer) for pair in pairs),
        wrong_answers=tuple(_first_tokens(pair.wrong_answers, tokenizer) for pair in pairs),
    )


def _first_tokens(texts: Sequence[str], tokenizer: Tokenizer) -> tuple[int, ...]:
    """First token of each text, each token once, in order."""
    return tuple(dict.fromkeys(tokenizer.continuation(text)[0] for text in texts))


def _pad(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows of ids as one tensor; a row is filled up with its own last token."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[row[-1]] * (width - len(row))] for row in rows])
