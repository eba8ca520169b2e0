"""Other prompts of a task: as many as are asked for, as long as the task has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from circuitfind.pipeline import RunOptions
from circuitfind.prompts.pairs import PromptPair, Task, Tokenizer
from circuitfind.runs.prompt_sets import MOST_DRAWS, other_prompts


class Words:
    """A token a word."""

    unknown_token = None

    def encode(self, text: str) -> list[int]:
        return [len(word) for word in text.split()]

    def continuation(self, text: str) -> list[int]:
        return self.encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        return " ".join(map(str, tokens))


def pair(number: int, n_words: int) -> PromptPair:
    return PromptPair(
        f"{number}" + " word" * (n_words - 1), "x" + " word" * (n_words - 1), (" a",), (" b",)
    )


def task_of(long: int, most: int | None = None) -> Task:
    """Every ``long``-th prompt alone is short; there are ``most``."""

    def make(tokenizer: Tokenizer, n_prompts: int, seed: int) -> list[PromptPair]:
        count = n_prompts if most is None else min(n_prompts, most)
        return [pair(number, 5 if number % long == 0 else 9) for number in range(count)]

    return Task("numbers", "Counts.", "", "kl", pair(0, 5), make)


def others(task: Task, n_prompts: int, **given: Any) -> list[PromptPair]:
    pairs = [pair(0, 5), pair(3, 9)]
    found = other_prompts(task, Words(), pairs, RunOptions("numbers"), n_prompts, **given)
    assert not {one.clean for one in pairs} & {one.clean for one in found}
    return found


@pytest.mark.parametrize("long", [1, 2, 5])
def test_as_many_are_drawn_as_leave_enough_that_are_short(long: int) -> None:
    found = others(task_of(long), 64, n_tokens=5)
    assert len(found) == 64 and all(len(one.clean.split()) == 5 for one in found)
    assert found[:10] == others(task_of(long), 10, n_tokens=5)


def test_a_task_that_has_no_more_gives_what_it_has() -> None:
    assert len(others(task_of(2, most=20), 64, n_tokens=5)) == 9
    assert len(others(task_of(2, most=20), 64)) == 18
    assert others(task_of(1, most=1), 64) == []


def test_drawing_ends_where_hardly_any_is_short() -> None:
    assert len(others(task_of(10**6), 64, n_tokens=5)) == 0 < MOST_DRAWS
