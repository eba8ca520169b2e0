"""Prompt pairs and the tasks that make them: words, no torch.

A task turns a tokenizer, a number and a seed into prompt pairs. The clean prompt asks for the behaviour; the corrupted
one has the same number of tokens and asks for something else, so that patching between the two isolates what carries it
(causal tracing, arXiv:2202.05262; interchange interventions as in ACDC, arXiv:2304.14997).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol


@dataclass(frozen=True)
class PromptPair:
    """One clean and one corrupted prompt, with the answers told right and wrong after the clean one.

    An answer counts by its first token after the prompt; write its leading space where it has one.
    """

    clean: str
    corrupted: str
    answers: tuple[str, ...]
    wrong_answers: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The pair as one line of a prompts file holds it."""
        return {
            "clean": self.clean,
            "corrupted": self.corrupted,
            "answers": list(self.answers),
            "wrong_answers": list(self.wrong_answers),
        }


class Tokenizer(Protocol):
    """What tasks and batches need of a model's tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text`` as a prompt, special tokens added as the model's own tokenizer adds them."""

    def continuation(self, text: str) -> list[int]:
        """Token ids of ``text`` as it goes on from a prompt: no special tokens."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text that the ids spell."""


def is_single_token(tokenizer: Tokenizer, text: str) -> bool:
    """Whether ``text`` goes on from a prompt as exactly one token that spells it (never the unknown token)."""
    tokens = tokenizer.continuation(text)
    return len(tokens) == 1 and tokenizer.decode(tokens) == text


@dataclass(frozen=True)
class Task:
    """A behaviour to find the circuit of.

    ``make(tokenizer, n_prompts, seed)`` returns at most ``n_prompts`` pairs (fewer only where no more exist). It must
    depend on its arguments alone, and the first k pairs of n must be the pairs that ``make`` returns for k.
    """

    name: str
    title: str
    paper: str
    metric: str
    example: PromptPair
    make: Callable[[Tokenizer, int, int], list[PromptPair]]


def words(text: str) -> tuple[str, ...]:
    """The words of ``text``: how a task lists its names and nouns."""
    return tuple(text.split())


PATIENCE = 10_000  # draws in a row without a new prompt before a task counts as exhausted


def draw_distinct(draw: Callable[[Random, int], PromptPair | None], n_prompts: int, seed: str) -> list[PromptPair]:
    """The first ``n_prompts`` pairs of different clean prompts that ``draw(rng, index)`` brings; ``index`` counts them.

    ``draw`` returns None for a draw to be left out. Fewer pairs come back only where nothing new turns up in
    ``PATIENCE`` draws in a row. The first k pairs of n are those of k, in every process: the generator is seeded by a
    string, which Python hashes the same way everywhere.
    """
    rng = Random(seed)
    pairs: list[PromptPair] = []
    seen: set[str] = set()
    misses = 0
    while len(pairs) < n_prompts and misses < PATIENCE:
        pair = draw(rng, len(pairs))
        if pair is None or pair.clean in seen:
            misses += 1
            continue
        misses = 0
        seen.add(pair.clean)
        pairs.append(pair)
    return pairs
