"""Indirect object identification: who is named, and where."""

from __future__ import annotations

import re

import pytest
from toy_tokenizers import ToyTokenizer, one_digit

from circuitfind.errors import TaskError
from circuitfind.prompts.files import load_task
from circuitfind.prompts.pairs import PromptPair

TASK = load_task("ioi")
CAPITALISED = r"(?<= )[A-Z][a-z]+"  # after a space: the names, and the day of one template


def names(text: str) -> list[str]:
    return [name for name in re.findall(CAPITALISED, text) if name != "Monday"]


def pairs(tokenizer: ToyTokenizer | None = None, n_prompts: int = 200) -> list[PromptPair]:
    return TASK.make(tokenizer or one_digit(), n_prompts, 0)


def test_the_receiver_is_named_once_and_the_giver_twice() -> None:
    for pair in pairs():
        named = names(pair.clean)
        assert len(named) == 3
        assert named.count(pair.answers[0].strip()) == 1
        assert named.count(pair.wrong_answers[0].strip()) == 2
        assert named[2] == pair.wrong_answers[0].strip()


def test_the_receiver_comes_first_and_second_in_turn() -> None:
    places = [names(pair.clean).index(pair.answers[0].strip()) for pair in pairs(n_prompts=10)]
    assert places == [0, 1] * 5


def test_the_corrupted_prompt_has_three_fresh_names_and_is_otherwise_the_same() -> None:
    for pair in pairs():
        assert len(set(names(pair.corrupted))) == 3
        assert not set(names(pair.corrupted)) & set(names(pair.clean))
        assert re.sub(CAPITALISED, "_", pair.corrupted) == re.sub(CAPITALISED, "_", pair.clean)


def test_there_are_at_least_ten_templates() -> None:
    assert len({pair.clean.partition(" ")[0] for pair in pairs()}) >= 10


def test_names_of_two_tokens_are_never_used() -> None:
    assert any(len(name) > 4 for pair in pairs() for name in names(pair.clean))
    short = pairs(ToyTokenizer(longest=4))
    assert all(len(name) <= 4 for pair in short for name in names(pair.clean + pair.corrupted))


def test_a_tokenizer_with_fewer_than_five_names_is_refused() -> None:
    with pytest.raises(TaskError, match="five names that are one token each; this tokenizer has 0"):
        pairs(ToyTokenizer(longest=1))
