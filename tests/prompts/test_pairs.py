"""Prompt pairs: what makes one wrong, and how tasks draw them."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_tokenizers import ToyTokenizer

from circuitfind.prompts.pairs import (
    PromptPair,
    check_pair,
    check_pairs,
    draw_distinct,
    is_single_token,
    unknown_words,
    words,
)

GOOD = PromptPair(
    "Mary met John and John waved to", "Anna met Paul and Fred waved to", (" Mary",), (" John",)
)


def problem(pair: PromptPair, tokenizer: ToyTokenizer | None = None) -> str:
    """The one thing wrong with the pair."""
    (found,) = check_pair(pair, tokenizer or ToyTokenizer(longest=4))
    return found


def test_a_sound_pair_has_no_problems() -> None:
    assert check_pair(GOOD) == []
    assert check_pair(GOOD, ToyTokenizer()) == []


def test_different_lengths_are_told_with_both_counts() -> None:
    longer = replace(GOOD, corrupted="Anna met Roberta and Fred waved to")
    assert problem(longer, ToyTokenizer(longest=5)).startswith("clean has 7 tokens, corrupted 8.")


def test_the_same_text_twice_is_told() -> None:
    assert "same text" in problem(replace(GOOD, corrupted=GOOD.clean))


def test_no_right_answer_and_an_empty_answer_are_told() -> None:
    assert "no right answer" in problem(replace(GOOD, answers=()))
    assert "a right answer is empty" in problem(replace(GOOD, answers=(" Mary", "")))
    assert "a wrong answer is empty" in problem(replace(GOOD, wrong_answers=("",)))


def test_no_wrong_answer_is_sound() -> None:
    assert check_pair(replace(GOOD, wrong_answers=()), ToyTokenizer()) == []


def test_half_a_character_is_told() -> None:
    assert "half a character" in problem(replace(GOOD, clean=GOOD.clean + "\ud800"))
    assert "half a character" in problem(replace(GOOD, answers=(" \udc00",)))


def test_an_empty_prompt_is_told() -> None:
    assert "the clean prompt is empty" in problem(replace(GOOD, clean=""))
    assert "the corrupted prompt is empty" in problem(replace(GOOD, corrupted=""))


def test_a_shared_first_token_is_told_with_both_answers_and_the_token() -> None:
    clash = problem(replace(GOOD, answers=(" Annabel",), wrong_answers=(" John", " Annamaria")))
    assert (
        "the right answer ' Annabel' and the wrong answer ' Annamaria' begin with the same token ' Ann'"
        in clash
    )


def test_an_answer_without_a_token_is_told() -> None:
    class Mute(ToyTokenizer):
        def continuation(self, text: str) -> list[int]:
            return [] if text == "\u200b" else super().continuation(text)

    assert "the answer '\\u200b' has no token" in problem(replace(GOOD, answers=("\u200b",)), Mute())


def test_unknown_words_are_named() -> None:
    tokenizer = ToyTokenizer(
        known=frozenset(words("Mary met John and waved to Anna Paul")), unknown_token=0
    )
    assert problem(GOOD, tokenizer) == "the model does not know 'Fred'. Choose another word."
    known = replace(GOOD, corrupted="Anna met Paul and Mary waved to", answers=(" Zoe",))
    assert problem(known, tokenizer) == "the model does not know the answer ' Zoe'. Choose another."


def test_other_words_of_the_same_tokens_are_told() -> None:
    """As where a tokenizer puts words into lower case, or knows neither."""

    class Lower(ToyTokenizer):
        def continuation(self, text: str) -> list[int]:
            return super().continuation(text.lower())

    same = replace(GOOD, corrupted=GOOD.clean.upper())
    assert problem(same, Lower()).startswith("clean and corrupted are the same tokens in this model")
    assert check_pair(same, ToyTokenizer()) == []


@pytest.mark.parametrize(
    ("clean", "right", "wrong", "kinds"),
    [
        ("waved to", " Mary", " John", []),
        ("waved to", "Mary", " John", ["right"]),
        ("waved to ", "Mary", "John", ["right", "wrong"]),
        ("waved to ", " Mary", " John", []),
        ("waved to:", "Mary", "John", []),
    ],
)
def test_answers_that_can_not_follow_the_prompt_are_told(
    clean: str, right: str, wrong: str, kinds: list[str]
) -> None:
    pair = PromptPair(
        f"Mary met John and John {clean}", f"Anna met Paul and Fred {clean}", (right,), (wrong,)
    )
    found = check_pair(pair, ToyTokenizer())
    assert [problem.partition(" answer can follow the prompt")[0] for problem in found] == [
        f"no {x}" for x in kinds
    ]
    if kinds:
        assert (
            f"'{pair.clean[-20:]}{right}' does not have the prompt's tokens and then '{right}'"
            in found[0]
        )


def test_of_many_answers_one_that_can_follow_is_enough() -> None:
    assert check_pair(replace(GOOD, answers=("Mary", " Mary")), ToyTokenizer()) == []


def test_a_prompt_longer_than_the_models_context_is_told() -> None:
    class Short(ToyTokenizer):
        n_ctx = 6

    assert check_pair(GOOD, Short(bos=False)) == [
        "it has 7 tokens; this model knows 6 positions. Shorten it."
    ]
    assert check_pair(replace(GOOD, clean="a b c d e f", corrupted="b b c d e f"), Short()) == []


def test_of_a_prompt_beyond_the_context_nothing_else_is_looked_at() -> None:
    class Short(ToyTokenizer):
        n_ctx = 6

    unknown = Short(known=frozenset(), unknown_token=0)
    assert len(check_pair(replace(GOOD, answers=("Mary",)), unknown)) == 1


def test_each_unknown_word_is_tried_once_and_no_more_than_a_few_of_them() -> None:
    class Counting(ToyTokenizer):
        n_asked = 0

        def continuation(self, text: str) -> list[int]:
            self.n_asked += 1
            return super().continuation(text)

    tokenizer = Counting(known=frozenset({"a"}), unknown_token=0)
    assert unknown_words(tokenizer, "b a " * 5000) == ["b", " "]
    assert tokenizer.n_asked < 10
    assert len(unknown_words(tokenizer, " ".join(map(str, range(2000))))) == 1000


def test_no_more_problems_are_looked_for_than_asked() -> None:
    assert len(check_pairs([replace(GOOD, answers=())] * 9, ToyTokenizer(), 3)) == 3


def test_a_tokenizer_that_calls_its_bos_unknown_knows_every_prompt_with_bos() -> None:
    assert unknown_words(ToyTokenizer(bos=True, unknown_token=1), GOOD.clean) == []
    assert check_pair(GOOD, ToyTokenizer(bos=True, unknown_token=1)) == []
    assert unknown_words(ToyTokenizer(unknown_token=1), "<bos>Mary met John") == []


def test_problems_carry_the_number_of_their_prompt_from_1() -> None:
    pairs = [GOOD, replace(GOOD, answers=()), GOOD, replace(GOOD, corrupted=GOOD.clean)]
    assert [text.partition(":")[0] for text in check_pairs(pairs, ToyTokenizer())] == [
        "Prompt 2",
        "Prompt 4",
    ]


def test_a_single_token_is_one_that_spells_the_text() -> None:
    assert is_single_token(ToyTokenizer(), " Mary")
    assert not is_single_token(ToyTokenizer(longest=3), " Mary")
    assert not is_single_token(ToyTokenizer(known=frozenset()), " Mary")


def draw_digit(rng: Random, index: int) -> PromptPair:
    return PromptPair(f"{rng.randrange(10)}", "x", (" a",), ())


@given(st.integers(0, 15), st.text(max_size=5))
def test_drawing_stops_where_nothing_new_turns_up(n_prompts: int, seed: str) -> None:
    pairs = draw_distinct(draw_digit, n_prompts, seed)
    assert len({pair.clean for pair in pairs}) == len(pairs) == min(n_prompts, 10)


def test_draws_of_none_are_left_out_and_not_counted() -> None:
    def even(rng: Random, index: int) -> PromptPair | None:
        number = rng.randrange(1000)
        return PromptPair(f"{number} {index}", "x", (" a",), ()) if number % 2 == 0 else None

    pairs = draw_distinct(even, 50, "seed")
    assert [int(pair.clean.split()[1]) for pair in pairs] == list(range(50))
    assert all(int(pair.clean.split()[0]) % 2 == 0 for pair in pairs)
