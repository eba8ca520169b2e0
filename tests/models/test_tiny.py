"""The bundled model: small, at home with the words of its task, and solving it by the names, not by their places."""

from __future__ import annotations

import re
from functools import cache

import pytest
from transformers import AutoTokenizer, GPT2LMHeadModel, PreTrainedTokenizerFast

from circuitfind.models.loading.load import HubTokenizer
from circuitfind.prompts.pairs import PromptPair, is_single_token
from tools.train_tiny import TINY, answer_logits, held_out, load_task, names_of, score, vocabulary

SEEDS = (0, 1, 2, 12345)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(TINY, local_files_only=True)


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    return GPT2LMHeadModel.from_pretrained(TINY, local_files_only=True).eval()


@cache
def pairs_of(n_prompts: int, seed: int) -> tuple[PromptPair, ...]:
    words = HubTokenizer(AutoTokenizer.from_pretrained(TINY, local_files_only=True))
    return tuple(load_task().TASK.make(words, n_prompts, seed))


def likeliest(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, prompts: list[str]
) -> list[str]:
    return [
        tokenizer.decode([token])
        for token in answer_logits(model, tokenizer, prompts).argmax(-1).tolist()
    ]


def test_the_folder_weighs_under_a_megabyte() -> None:
    assert sum(file.stat().st_size for file in TINY.iterdir() if file.is_file()) < 1_000_000


def test_the_vocabulary_is_that_of_the_task_as_it_is_now(tokenizer: PreTrainedTokenizerFast) -> None:
    assert sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__) == vocabulary(load_task())


@pytest.mark.parametrize("seed", SEEDS)
def test_prompts_come_back_from_their_tokens(tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
    words = HubTokenizer(tokenizer)
    for pair in pairs_of(50, seed):
        for text in (pair.clean, pair.corrupted, pair.clean + pair.answers[0]):
            assert words.decode(words.encode(text)) == text


@pytest.mark.parametrize("seed", SEEDS)
def test_prompts_hold_no_unknown_word_and_corruption_keeps_their_length(
    tokenizer: PreTrainedTokenizerFast, seed: int
) -> None:
    words = HubTokenizer(tokenizer)
    for pair in pairs_of(200, seed):
        clean, corrupted = words.encode(pair.clean), words.encode(pair.corrupted)
        assert len(clean) == len(corrupted)
        assert words.unknown_token not in (*clean, *corrupted)


def test_its_names_are_one_token_and_other_names_are_not(tokenizer: PreTrainedTokenizerFast) -> None:
    task, words = load_task(), HubTokenizer(tokenizer)
    assert [name for name in task.NAMES if is_single_token(words, f" {name}")] == names_of(task)


def test_no_token_is_added_to_a_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    assert HubTokenizer(tokenizer).encode("Today") == tokenizer.convert_tokens_to_ids(["Today"])


def test_the_task_is_solved(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast) -> None:
    result = score(model, tokenizer, pairs_of(200, 12345))
    assert result.accuracy > 0.99
    assert result.logit_diff > 3


def test_the_task_is_solved_for_pairs_of_names_never_trained_on(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    unseen = held_out(pairs_of(2000, 7))
    assert len(unseen) >= 100
    assert score(model, tokenizer, unseen).accuracy > 0.99


def test_every_template_is_solved_whichever_name_comes_first(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    task = load_task()
    one, other = names_of(task)[3], names_of(task)[8]
    for template in task.TEMPLATES:
        fill = {"first": one, "second": other, "place": task.PLACES[0], "thing": task.THINGS[0]}
        prompts = [template.format(giver=giver, **fill) for giver in (one, other)]
        assert likeliest(model, tokenizer, prompts) == [f" {other}", f" {one}"], template


def test_the_answer_is_the_name_that_occurs_once_even_in_the_last_place(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    pairs = pairs_of(100, 3)
    prompts = [told_last(pair) for pair in pairs]
    right = [
        found == pair.answers[0]
        for found, pair in zip(likeliest(model, tokenizer, prompts), pairs, strict=True)
    ]
    assert sum(right) / len(right) > 0.95


def told_last(pair: PromptPair) -> str:
    """The clean prompt with its names moved: the one that occurs twice in the first two places, the other last."""
    receiver, giver = pair.answers[0].strip(), pair.wrong_answers[0].strip()
    names = iter((giver, giver, receiver))
    return re.sub(rf"\b({receiver}|{giver})\b", lambda _: next(names), pair.clean)


def test_corrupted_prompts_do_not_favour_the_answer(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert abs(score(model, tokenizer, pairs_of(200, 12345)).corrupted_logit_diff) < 0.5
