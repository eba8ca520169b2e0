"""Greater-than: which answers are right is a matter of how the tokenizer splits years."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
from toy_tokenizers import ToyTokenizer, one_digit, three_digits, two_digits

from circuitfind.errors import TaskError
from circuitfind.prompts.files import load_task
from circuitfind.prompts.pairs import PromptPair

TASK = load_task("greater-than")


def asked(tokenizer: ToyTokenizer, year: str) -> PromptPair:
    """A prompt whose span begins in that year."""
    return next(pair for pair in TASK.make(tokenizer, 3000, 0) if f"from the year {year} " in pair.clean)


def test_two_digits_a_token_ask_for_the_years_of_the_century() -> None:
    pair = asked(two_digits(), "1732")
    assert pair.clean.endswith("from the year 1732 to the year 17")
    assert pair.corrupted.endswith("from the year 1701 to the year 17")
    assert pair.answers == tuple(f"{year:02}" for year in range(33, 100))
    assert pair.wrong_answers == tuple(f"{year:02}" for year in range(33))


def test_one_digit_a_token_asks_for_the_decade_and_leaves_out_that_of_the_first_year() -> None:
    pair = asked(one_digit(), "1732")
    assert pair.clean.endswith("to the year 17")
    assert pair.answers == tuple("456789")
    assert pair.wrong_answers == tuple("012")


def test_the_last_year_of_a_decade_leaves_nothing_later_in_it() -> None:
    assert asked(one_digit(), "1739").wrong_answers == tuple("0123")


def test_three_digits_a_token_ask_for_century_and_decade() -> None:
    pair = asked(three_digits(), "1732")
    assert pair.clean.endswith("to the year ")
    assert pair.answers == tuple(f"17{decade}" for decade in range(4, 10))
    assert pair.wrong_answers == ("170", "171", "172")


def test_first_years_that_leave_no_right_or_no_wrong_answer_are_never_asked() -> None:
    pairs = TASK.make(one_digit(), 3000, 0)
    years = {int(re.findall(r"\d+", pair.clean)[0]) % 100 for pair in pairs}
    assert years == set(range(9, 90))  # the token "0" begins both 02 and 09, "9" both 90 and 99


@dataclass
class Irregular(ToyTokenizer):
    """Two digits a token, but some years are one token whole, as 1776 is to GPT-2; so are many of two centuries."""

    def _split(self, word: str) -> list[str]:
        return [word] if re.fullmatch(r" (1776|14\d\d|16[3-5]\d)", word) else super()._split(word)


def test_a_year_split_differently_is_neither_asked_nor_an_answer() -> None:
    pairs = TASK.make(Irregular(digits=2, space_joins=True), 3000, 0)
    assert not any("1776" in pair.clean for pair in pairs)
    of_1700s = [pair for pair in pairs if pair.clean.endswith(" 17")]
    assert of_1700s
    assert not any("76" in (*pair.answers, *pair.wrong_answers) for pair in of_1700s)


def test_a_century_split_irregularly_is_left_out() -> None:
    pairs = TASK.make(Irregular(digits=2, space_joins=True), 3000, 0)
    assert not any(re.search(r" 1[46]\d\d ", pair.clean) for pair in pairs)
    assert any(re.search(r" 15\d\d ", pair.clean) for pair in pairs)


def test_a_tokenizer_without_numbers_is_refused() -> None:
    with pytest.raises(TaskError, match="this tokenizer has none"):
        TASK.make(ToyTokenizer(known=frozenset({"The", "war", "lasted"})), 5, 0)
