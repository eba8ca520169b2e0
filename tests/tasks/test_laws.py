"""What every built-in task owes a run, whatever the tokenizer."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_tokenizers import ToyTokenizer, one_digit, three_digits, two_digits

from circuitfind.prompts.files import builtin_tasks, load_task, write_prompts
from circuitfind.prompts.pairs import PromptPair, check_pair, check_pairs

TASKS = ("docstring", "greater-than", "ioi")
every_task = pytest.mark.parametrize("name", TASKS)
every_tokenizer = pytest.mark.parametrize(
    "tokenizer", [one_digit, two_digits, three_digits, lambda: ToyTokenizer(bos=True)]
)


def test_the_built_in_tasks_are_these_three() -> None:
    assert tuple(builtin_tasks()) == TASKS


@every_task
@every_tokenizer
def test_prompts_pass_every_check(name: str, tokenizer: Callable[[], ToyTokenizer]) -> None:
    pairs = load_task(name).make(tokenizer(), 60, 0)
    assert len(pairs) == 60
    assert check_pairs(pairs, tokenizer()) == []


@every_task
@every_tokenizer
def test_held_out_prompts_pass_every_check_with_the_same_roles_in_other_words(
    name: str, tokenizer: Callable[[], ToyTokenizer]
) -> None:
    task, words = load_task(name), tokenizer()
    assert task.elsewhere is not None
    own, others = (each.make(words, 60, 0) for each in (task, task.elsewhere))
    assert len(others) == 60 and others[:20] == task.elsewhere.make(words, 20, 0)
    assert check_pairs(others, words) == []
    assert {tuple(role.name for role in pair.roles) for pair in (*own, *others)} == {
        tuple(role.name for role in task.example.roles)
    }
    for pair in others:
        for answer in (*pair.answers, *pair.wrong_answers):
            assert words.encode(pair.clean + answer) == words.encode(pair.clean) + words.continuation(
                answer
            )
    spaces = [{_without_roles(pair) for pair in pairs} for pairs in (own, others)]
    assert not spaces[0] & spaces[1]


def _without_roles(pair: PromptPair) -> str:
    """The words between a prompt's roles, nouns of a few letters aside: its template."""
    text = pair.clean
    for role in sorted(pair.roles, key=lambda role: -role.start):
        text = text[: role.start] + "_" + text[role.end :]
    return re.sub(r"\d+|(?<=the )[a-z]+|(?<=a )[a-z]+", "#", text)


@every_task
def test_no_two_prompts_are_the_same(name: str) -> None:
    pairs = load_task(name).make(one_digit(), 300, 1)
    assert len({pair.clean for pair in pairs}) == 300


@every_task
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(-5, 10**9), k=st.integers(0, 6), more=st.integers(0, 6))
def test_the_first_prompts_do_not_depend_on_how_many_are_asked_for(
    name: str, seed: int, k: int, more: int
) -> None:
    make = load_task(name).make
    assert make(one_digit(), k, seed) == make(one_digit(), k + more, seed)[:k]


@every_task
def test_another_seed_gives_other_prompts(name: str) -> None:
    make = load_task(name).make
    assert not set(make(one_digit(), 10, 0)) & set(make(one_digit(), 10, 1))


@every_task
def test_another_process_makes_the_same_prompts(name: str) -> None:
    code = (
        "from toy_tokenizers import one_digit; from circuitfind.prompts.files import load_task, write_prompts; "
        f"import sys; sys.stdout.buffer.write(write_prompts(load_task({name!r}).make(one_digit(), 20, 7)).encode())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "99", "PYTHONPATH": os.pathsep.join(sys.path)}
    there = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=True
    ).stdout
    assert there.decode() == write_prompts(load_task(name).make(one_digit(), 20, 7))


@every_task
@every_tokenizer
def test_an_answer_is_the_token_that_follows_when_prompt_and_answer_are_one_text(
    name: str, tokenizer: Callable[[], ToyTokenizer]
) -> None:
    words = tokenizer()
    for pair in load_task(name).make(words, 20, 3):
        for answer in (*pair.answers, *pair.wrong_answers):
            assert words.encode(pair.clean + answer) == words.encode(pair.clean) + words.continuation(
                answer
            )
            assert len(words.continuation(answer)) == 1


@every_task
def test_the_example_is_a_sound_pair_and_stands_in_the_file(name: str) -> None:
    example = load_task(name).example
    assert check_pair(example) == []
    text = builtin_tasks()[name].read_text(encoding="utf-8")
    assert all(line.strip() in text for line in example.clean.replace('"""', "").splitlines())
