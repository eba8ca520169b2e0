"""The next parameter of a docstring: what is defined, documented and asked for."""

from __future__ import annotations

import re

import pytest
from toy_tokenizers import ToyTokenizer, one_digit

from circuitfind.errors import TaskError
from circuitfind.prompts.files import load_task

TASK = load_task("docstring")
PAIRS = TASK.make(one_digit(), 100, 0)


def defined(text: str) -> list[str]:
    return re.findall(r"\w+", text.partition("(self,")[2].partition(")")[0])


def documented(text: str) -> list[str]:
    return re.findall(r":param (\w+):", text)


def test_the_answer_is_the_parameter_after_the_last_documented_one() -> None:
    for pair in PAIRS:
        names = defined(pair.clean)
        assert documented(pair.clean) == names[:2]
        assert pair.answers == (f" {names[2]}",)
        assert pair.wrong_answers == tuple(f" {name}" for name in names if name != names[2])


def test_a_prompt_ends_where_the_name_is_asked_for() -> None:
    assert all(text.endswith("\n    :param") for pair in PAIRS for text in (pair.clean, pair.corrupted))


def test_nothing_in_the_corrupted_prompt_tells_the_answer() -> None:
    for pair in PAIRS:
        clean, others, lines = defined(pair.clean), defined(pair.corrupted), documented(pair.corrupted)
        assert len({*clean, *others, *lines}) == 12


def test_clean_and_corrupted_differ_in_parameter_names_alone() -> None:
    for pair in PAIRS:
        blank = [re.sub(r"\(.*\)|:param \w+", "_", text) for text in (pair.clean, pair.corrupted)]
        assert blank[0] == blank[1]


def test_names_of_two_tokens_are_never_used() -> None:
    assert any(len(name) > 5 for pair in PAIRS for name in defined(pair.clean))
    short = TASK.make(ToyTokenizer(longest=5), 50, 0)
    assert all(len(name) <= 5 for pair in short for name in defined(pair.clean) + defined(pair.corrupted))


def test_a_tokenizer_with_too_few_parameter_names_is_refused() -> None:
    with pytest.raises(
        TaskError, match="12 parameter names that are one token each; this tokenizer has 0"
    ):
        TASK.make(ToyTokenizer(longest=1), 5, 0)
