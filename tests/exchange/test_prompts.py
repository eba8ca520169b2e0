"""Prompts of other tools: answers as token ids, or marked in the text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from toy_tokenizers import ToyTokenizer

from circuitfind.errors import TaskError, UsageError
from circuitfind.exchange.prompts import read_prompts
from circuitfind.prompts import PromptPair
from circuitfind.taskfiles import check_task, load_task

MARY, JOHN = "So Mary and John met. John gave to", "So Ann and Tom met. Bob gave to"


@pytest.fixture
def tokenizer() -> ToyTokenizer:
    return ToyTokenizer(digits=2, space_joins=True)


def save(tmp_path: Path, name: str, text: str) -> Path:
    (tmp_path / name).write_text(text)
    return tmp_path / name


def csv_of(tokenizer: ToyTokenizer, right: str = "{Mary}", wrong: str = "{John}") -> str:
    ids = {name: tokenizer.continuation(f" {name}")[0] for name in ("Mary", "John", "Ann")}
    row = f'7,"{MARY}","{JOHN}","hard one",{right.format(**ids)},{wrong.format(**ids)}'
    return f",clean,corrupted,corrupted_hard,correct_idx,incorrect_idx\n{row}\n"


def test_token_ids_become_the_texts_of_their_tokens(tokenizer, tmp_path):
    file = save(tmp_path, "ioi.csv", csv_of(tokenizer))
    read = read_prompts(file, tokenizer)
    assert read.pairs == (PromptPair(MARY, JOHN, (" Mary",), (" John",)),)
    assert read.notes == ("left out: the columns corrupted_hard",)
    assert read_prompts(file, tokenizer, corrupted="corrupted_hard").pairs[0].corrupted == "hard one"


def test_a_list_of_ids_is_several_answers(tokenizer, tmp_path):
    file = save(tmp_path, "x.csv", csv_of(tokenizer, '"[{Mary}, {Ann}]"', "{John}.0"))
    assert read_prompts(file, tokenizer).pairs[0].answers == (" Mary", " Ann")


def test_a_year_makes_every_later_one_right(tokenizer, tmp_path):
    file = save(tmp_path, "years.csv", "clean,corrupted,label\nfrom 1397 to 13,from 1301 to 13,97\n")
    (pair,) = read_prompts(file, tokenizer).pairs
    assert pair.answers == ("98", "99") and pair.wrong_answers[0] == "00" and len(pair.wrong_answers) == 98
    with pytest.raises(TaskError, match="not a token for each two digits"):
        read_prompts(file, ToyTokenizer(digits=1))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("clean,corrupted\na,b\n", "there are no answers"),
        ("clean,correct_idx\na,1\n", "the column 'corrupted' is missing"),
        ("clean,corrupted,correct_idx\na,b,Mary\n", "line 2: its correct_idx is 'Mary'"),
        ("clean,corrupted,correct_idx\na,b,-1\n", "its correct_idx is '-1'"),
        ("clean,corrupted,correct_idx\na,b,\n", "its correct_idx is ''"),
        ("clean,corrupted,correct_idx\na,b,1e999\n", "its correct_idx is"),
        ("clean,corrupted,correct_idx\na,b,9999\n", "token id 9999 .* is no answer in this model"),
        ("clean,corrupted,correct_idx\na,b\n", "not as many fields"),
        ("clean,corrupted,label\na,b,1850\n", "its year is '1850'"),
        ("clean,corrupted,correct_idx\n", "holds no prompts"),
        ("", "is missing"),
    ],
)
def test_a_csv_that_is_wrong_is_refused_with_its_line(text, says, tokenizer, tmp_path):
    with pytest.raises(TaskError, match=says):
        read_prompts(save(tmp_path, "x.csv", text), tokenizer)


def test_ids_need_a_model(tmp_path):
    with pytest.raises(UsageError, match="Say which model's they are with --model"):
        read_prompts(save(tmp_path, "x.csv", "clean,corrupted,correct_idx\na,b,1\n"), None)


def test_a_marked_answer_keeps_the_space_before_it_and_nothing_behind_it(tmp_path):
    lines = [
        {
            "clean": "1 + 2 = <predict>3</predict>, is it?",
            "corrupted": "1 + 4 = <predict>5</predict>",
            "split": "train",
        },
        {"clean": "4 + 4 =<predict> 8</predict>", "corrupted": "4 + 1 ="},
    ]
    for text in (
        "\n".join(map(json.dumps, lines)),
        json.dumps(lines),
        "\n".join(json.dumps(x, indent=2) for x in lines),
    ):
        read = read_prompts(save(tmp_path, "x.jsonl", text), None)
        assert read.pairs == (
            PromptPair("1 + 2 =", "1 + 4 =", (" 3",), (" 5",)),
            PromptPair("4 + 4 =", "4 + 1 =", (" 8",), ()),
        )
        assert read.notes == ("left out: what follows the answer in 1 prompts",)


@pytest.mark.parametrize(
    ("row", "pair"),
    [
        (
            {"prefix": "So Ann said that", "corr_prefix": "So Tom said that", "pronoun": "she", "corr_pronoun": "he"},
            PromptPair("So Ann said that", "So Tom said that", (" she",), (" he",)),
        ),
        (
            {"ioi_sentences": f"{MARY} Mary", "corr_ioi_sentences": f"{JOHN} Ann", "b": "John"},
            PromptPair(MARY, JOHN, (" Mary",), (" John",)),
        ),
    ],
)
def test_edge_prunings_own_tasks_are_read(row, pair, tmp_path):
    assert read_prompts(save(tmp_path, "x.jsonl", json.dumps(row)), None).pairs == (pair,)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"clean": "a b", "corrupted": "c d"}', "prompt 1: its clean text marks no answer"),
        ('{"clean": 3, "corrupted": "c d"}', "it has no text 'clean'"),
        ('{"clean": "a <predict>b</predict>"}', "it has no text 'corrupted'"),
        ('{"clean": "a <predict>b</predict>", "corrupted": "c"}\n{"clean": ', "line 2: no whole JSON object"),
        ("[1]", "1 is no object"),
        ("", "holds no prompts"),
    ],
)
def test_a_jsonl_that_is_wrong_is_refused_with_its_place(text, says, tmp_path):
    with pytest.raises(TaskError, match=says):
        read_prompts(save(tmp_path, "x.jsonl", text), None)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.csv", "clean,corrupted,correct_idx,incorrect_idx\na,b,1,2\n"),
        ("x.csv", "clean,corrupted,label\na,b,52\n"),
        ("x.jsonl", '{"clean": "1 + 2 = <predict>3</predict>", "corrupted": "1 + 4 ="}\n'),
        ("x.jsonl", '{"prefix": "a", "corr_prefix": "b"}\n'),
    ],
)
def test_a_run_given_such_a_file_tells_of_import(name, text, tmp_path):
    file = save(tmp_path, name, text)
    with pytest.raises(TaskError, match="circuitfind import FILE --model M"):
        load_task(str(file))
    assert any("circuitfind import" in problem for problem in check_task(str(file)).problems)


def test_an_unknown_format_suggests_the_nearest(tmp_path: Path, tokenizer: Any):
    with pytest.raises(UsageError, match="Did you mean 'eap-ig-csv'"):
        read_prompts(tmp_path / "x.csv", tokenizer, "eapig-csv")
