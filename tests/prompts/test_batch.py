"""Prompt pairs become tokens side by side, padded and checked."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from circuitfind.errors import TaskError
from circuitfind.prompts.batch import Batch, tokenise
from circuitfind.prompts.pairs import PromptPair

WORDS = ["?", "<s>", "Ann", "Tom", "Bob", "gave", "to", "the", "ball", "and", "it", "was"]


class Words:
    """One word, one token; a prompt begins with <s>. ``#`` is a word that this tokenizer has no token for."""

    def encode(self, text: str) -> list[int]:
        return [1, *self.continuation(text)]

    def continuation(self, text: str) -> list[int]:
        return [WORDS.index(word) for word in text.split() if word != "#"]

    def decode(self, tokens: Sequence[int]) -> str:
        return " ".join(WORDS[token] for token in tokens)


def pair(clean: str, corrupted: str, right: str = " Tom", wrong: str = " Ann") -> PromptPair:
    return PromptPair(clean, corrupted, tuple(right.split("|")), tuple(filter(None, wrong.split("|"))))


LONG = pair("Ann gave the ball to", "Bob gave the ball to")
SHORT = pair("Ann gave", "Bob gave", " Tom| Bob", " Ann| it")


def batch() -> Batch:
    return tokenise([SHORT, LONG], Words())


def test_prompts_are_filled_up_behind_their_last_token() -> None:
    assert batch().clean.tolist() == [[1, 2, 5, 5, 5, 5], [1, 2, 5, 7, 8, 6]]
    assert batch().corrupted.tolist() == [[1, 4, 5, 5, 5, 5], [1, 4, 5, 7, 8, 6]]
    assert (batch().n_prompts, batch().n_pos) == (2, 6)


def test_the_answer_position_is_each_prompts_own_last_token() -> None:
    assert batch().end.tolist() == [2, 5]


def test_an_answer_is_its_first_token_each_token_once() -> None:
    made = tokenise([pair("Ann gave", "Bob gave", " Tom| Bob| Tom and Ann", " Ann| it")], Words())
    assert made.answers == ((3, 4),)
    assert made.wrong_answers == ((2, 10),)


def test_wrong_answers_may_be_missing() -> None:
    assert tokenise([pair("Ann gave", "Bob gave", " Tom", "")], Words()).wrong_answers == ((),)


def test_rows_are_chosen_in_any_order_and_any_number_of_times() -> None:
    chosen = batch().rows([1, 0, 1])
    assert chosen.clean.tolist() == [batch().clean[i].tolist() for i in (1, 0, 1)]
    assert chosen.corrupted.tolist() == [batch().corrupted[i].tolist() for i in (1, 0, 1)]
    assert chosen.end.tolist() == [5, 2, 5]
    assert chosen.answers == ((3,), (3, 4), (3,))
    assert chosen.wrong_answers == ((2,), (2, 10), (2,))


def test_a_batch_of_few_rows_stays_as_wide_as_the_whole() -> None:
    assert batch().rows([0]).n_pos == batch().n_pos


def test_a_batch_moves_to_a_device_with_everything_in_it() -> None:
    moved = batch().to("meta")
    assert {tensor.device.type for tensor in (moved.clean, moved.corrupted, moved.end)} == {"meta"}
    assert moved.answers == batch().answers


def test_no_prompts_are_an_error() -> None:
    with pytest.raises(TaskError, match="no prompts"):
        tokenise([], Words())


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (pair("Ann gave", "Bob gave it"), "Prompt 2: clean has 3 tokens, corrupted 4"),
        (pair("Ann gave", "Bob gave", " Tom and", " Tom was"), "Prompt 2: .*begin with the same token"),
        (pair("Ann gave", "Bob gave", "#"), "Prompt 2: the answer '#' has no token"),
        (pair("Ann gave", "Bob gave", "| Tom"), "Prompt 2: a right answer is empty"),
        (PromptPair("Ann gave", "Bob gave", (), ()), "Prompt 2: there is no right answer"),
        (pair("", "Bob gave"), "Prompt 2: the clean prompt is empty"),
        (
            pair("Ann gave", "Ann  gave"),
            "Prompt 2: clean and corrupted are the same tokens in this model",
        ),
    ],
)
def test_a_wrong_pair_is_refused_with_the_number_of_its_prompt(wrong: PromptPair, reason: str) -> None:
    with pytest.raises(TaskError, match=reason):
        tokenise([LONG, wrong, LONG], Words())


def test_of_many_wrong_pairs_the_first_is_shown_and_their_number() -> None:
    longer = pair("Ann gave", "Bob gave it")
    with pytest.raises(TaskError, match=r"^Prompt 1: .*\(2 problems in all"):
        tokenise([longer, LONG, longer], Words())


def test_of_very_many_wrong_pairs_no_more_than_a_few_are_counted() -> None:
    with pytest.raises(TaskError, match=r"^Prompt 1: .*\(10 problems or more"):
        tokenise([pair("Ann gave", "Bob gave it")] * 1000, Words())


def test_tokens_are_whole_numbers_that_index_an_embedding() -> None:
    assert batch().clean.dtype == batch().corrupted.dtype == torch.int64
