"""Prompts of other tools: answers as token ids, or marked in the text."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from toy_tokenizers import ToyTokenizer

from circuitfind.errors import TaskError, UsageError
from circuitfind.exchange.prompts import holds_prompts, read_prompts
from circuitfind.prompts.files import check_task, load_task
from circuitfind.prompts.pairs import PromptPair

MARY, JOHN = "So Mary and John met. John gave to", "So Ann and Tom met. Bob gave to"


IDS = "clean,corrupted,correct_idx,incorrect_idx\n"


def table(row: dict[str, object]) -> str:
    """A CSV of that one row."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([row.keys(), row.values()])
    return text.getvalue()


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
    assert read.notes == (
        "left out: the columns corrupted_hard",
        "correct_idx and incorrect_idx: the first prompt's answers are ' Mary', its wrong ones ' John'",
    )
    assert read_prompts(file, tokenizer, corrupted="corrupted_hard").pairs[0].corrupted == "hard one"


def test_a_list_of_ids_is_several_answers(tokenizer, tmp_path):
    file = save(tmp_path, "x.csv", csv_of(tokenizer, '"[{Mary}, {Ann}]"', "{John}.0"))
    assert read_prompts(file, tokenizer).pairs[0].answers == (" Mary", " Ann")


@pytest.mark.parametrize(
    ("right", "wrong", "right_texts", "wrong_texts"),
    [
        ("clean_answer_idx", "corrupted_answer_idx", None, None),
        ("answers_idx", "corrupted_answers_idx", "answers", "corrupted_answers"),
        ("country_idx", "corrupted_country_idx", "country", "corrupted_country"),
    ],
)
def test_ids_stand_in_one_of_the_pairs_of_columns_that_are_known(
    right, wrong, right_texts, wrong_texts, tokenizer, tmp_path
):
    mary, john = (tokenizer.continuation(f" {name}")[0] for name in ("Mary", "John"))
    beside = {right_texts: "['Mary']", wrong_texts: "Johnson"} if right_texts else {"label": "1"}
    row = {"clean": MARY, "corrupted": JOHN, right: f"[{mary}]", wrong: str(john)} | beside
    file = save(tmp_path, "x.csv", table(row))
    read = read_prompts(file, tokenizer)
    assert read.pairs == (PromptPair(MARY, JOHN, (" Mary",), (" John",)),)
    assert read.notes[0] == f"left out: the columns {', '.join(beside)}"
    if right_texts:
        other = save(tmp_path, "y.csv", table(row | {right_texts: "['Peter']"}))
        with pytest.raises(
            TaskError, match=f"line 2: a token id means ' Mary' .*, and its {right_texts} is"
        ):
            read_prompts(other, tokenizer)


YEARS = [
    ("from 1397 to 13", "97"),
    ("a bed costs $ 1397 to $ 13", "97"),
    ("1301, 1350, 1397, 13", "97"),
]


@pytest.mark.parametrize("column", ["label", "correct_idx"])
@pytest.mark.parametrize(("clean", "year"), YEARS)
def test_a_year_that_the_prompt_names_makes_every_later_one_right(
    column, clean, year, tokenizer, tmp_path
):
    row = {"clean": clean, "corrupted": "from 1301 to 13", column: year}
    (pair,) = read_prompts(save(tmp_path, "years.csv", table(row)), tokenizer).pairs
    assert pair.answers == ("98", "99") and pair.wrong_answers == tuple(
        f"{year:02d}" for year in range(98)
    )
    (same,) = read_prompts(
        save(tmp_path, "years.jsonl", json.dumps(row | {column: int(year)})), tokenizer
    ).pairs
    assert same == pair
    with pytest.raises(TaskError, match="not a token for each two digits"):
        read_prompts(tmp_path / "years.csv", ToyTokenizer(digits=1))


def test_the_first_years_of_a_century_and_whole_years_are_years(tokenizer, tmp_path):
    early = {"clean": "from 1702 to 17", "corrupted": "from 1701 to 17", "label": 2}
    whole = {"clean": "from 1702 to 17", "corrupted": "from 1701 to 17", "year": "1702"}
    task = {"prefix": "from 1702 to 17", "corr_prefix": "from 1701 to 17", "digits": "02"}
    rows = [
        read_prompts(save(tmp_path, "x.jsonl", json.dumps(row)), tokenizer).pairs
        for row in (early, whole, task)
    ]
    assert rows[0] == rows[1] == rows[2] and rows[0][0].wrong_answers == ("00", "01", "02")


@pytest.mark.parametrize(
    ("column", "clean", "value", "says"),
    [
        (
            "correct_idx",
            "So Mary and John met. John gave to",
            "52",
            "correct_idx without incorrect_idx may be",
        ),
        (
            "correct_idx",
            "from 1752 to 17",
            "53",
            "its correct_idx is '53', and the clean prompt does not end in a",
        ),
        ("label", "The nurse ran because", "0", "its label is '0', and the clean prompt does not end"),
        ("label", "from 1700 to 17", "1", "its label is '1'"),
        ("label", "from 1850 to 18", "1750", "its label is '1750'"),
        ("label", "from 11852 to 18", "52", "its label is '52'"),
        ("year", "from 1852 to 18", "MDCCC", "its year is 'MDCCC'"),
    ],
)
def test_what_may_be_no_year_is_refused_with_the_columns_names(
    column, clean, value, says, tokenizer, tmp_path
):
    file = save(tmp_path, "x.csv", table({"clean": clean, "corrupted": "from 1801 to 18", column: value}))
    with pytest.raises(TaskError, match="line 2: its ") as caught:
        read_prompts(file, tokenizer)
    assert says in str(caught.value) and "clean_answer_idx with corrupted_answer_idx" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("clean,corrupted\na,b\n", "there are no answers. It has clean, corrupted"),
        ("clean,corrupted,group,plural\na,b,c,1\n", "'plural' says which of two lists of verbs"),
        ("clean,correct_idx\na,1\n", "the column 'corrupted' is missing"),
        ("clean,clean,corrupted,label\na,b,c,1\n", "stands in it twice"),
        ("clean,corrupted,label,year\na,b,1,1901\n", "may be those of label and year"),
        (
            "clean,corrupted,correct_idx,incorrect_idx,clean_answer_idx,corrupted_answer_idx\na,b,1,1,1,1\n",
            "may be those of correct_idx/incorrect_idx and clean_answer_idx/corrupted_answer_idx",
        ),
        (f"{IDS}a,b,Mary,1\n", "line 2: its correct_idx is 'Mary'"),
        (f"{IDS}a,b,-1,1\n", "its correct_idx is '-1'"),
        (f"{IDS}a,b,,1\n", "its correct_idx is ''"),
        (f"{IDS}a,b,1e999,1\n", "its correct_idx is"),
        (f"{IDS}a,b,9999,1\n", "token id 9999 .* is no answer in this model"),
        (f"{IDS}a,b\n", "not as many fields"),
        (f"{IDS}", "holds no prompts"),
        ("", "is missing"),
        (f'{IDS}"{"a" * 200_000}",b,1,1\n', "field larger than field limit"),
    ],
)
def test_a_csv_that_is_wrong_is_refused_with_its_line(text, says, tokenizer, tmp_path):
    with pytest.raises(TaskError, match=says):
        read_prompts(save(tmp_path, "x.csv", text), tokenizer)


def test_ids_need_a_model(tmp_path):
    with pytest.raises(UsageError, match="Say which model's they are with --model"):
        read_prompts(save(tmp_path, "x.csv", f"{IDS}a,b,1,2\n"), None)


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
            {
                "prefix": "So Ann said that",
                "corr_prefix": "So Tom said that",
                "pronoun": "she",
                "corr_pronoun": "he",
            },
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
        ('{"clean": 3, "corrupted": "c d"}', "its clean is 3; it must be a text"),
        ('{"corrupted": "c d"}', "it has no text 'clean'"),
        ('{"clean": "a", "clean": "b"}', "the key 'clean' stands in it twice"),
        (
            '{"input": "a", "corr_input": "b", "target": "c"}',
            "'corr_input' is an expression without the examples",
        ),
        (
            '{"seq": [1], "corr_seq": [2], "target": [1]}',
            "'seq' is a sequence of a compiled model's own tokens",
        ),
        (
            '{"clean": [1, 2], "corrupt": [1, 3], "answers": [1]}',
            r"its clean is \[1, 2\]; it must be a text",
        ),
        ('{"clean": "a", "corrupt": "b", "answers": 3}', "its answers is 3; it must be a list"),
        (
            '{"clean": "a", "corrupt": "b", "answers": ["c", 3]}',
            'its "answers.1" is 3; it must be a text',
        ),
        ('{"prompt": "a", "label": "b"}', "which column has the corrupted prompts"),
        ('{"clean": "a <predict>b</predict>"}', "it has no text 'corrupted'"),
        (
            '{"clean": "a <predict>b</predict>", "corrupted": "c"}\n{"clean": ',
            "line 2: no whole JSON object",
        ),
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


def test_autocircuits_lists_of_answers_are_read_texts_or_ids(tokenizer, tmp_path):
    mary, john = (tokenizer.continuation(f" {name}") for name in ("Mary", "John"))
    rows = [
        {"clean": MARY, "corrupt": JOHN, "answers": [" Mary"], "wrong_answers": [" John"]},
        {"clean": MARY, "corrupt": JOHN, "answers": mary, "wrong_answers": john},
    ]
    file = save(
        tmp_path, "x.json", json.dumps({"word_idxs": {"IO": 2}, "prompts": rows, "seq_labels": ["So"]})
    )
    read = read_prompts(file, tokenizer)
    assert read.pairs == (PromptPair(MARY, JOHN, (" Mary",), (" John",)),) * 2
    assert read.notes == ("beside the prompts, left out: word_idxs, seq_labels",)
    assert holds_prompts(file)
    assert not holds_prompts(save(tmp_path, "circuit.json", '{"nodes": {}, "edges": {}}'))


FLIPPED = {"prompt": JOHN, "choices": ["Ann", "Tom"], "answerKey": 0}


@pytest.mark.parametrize(
    ("row", "corrupted", "pair"),
    [
        (
            {
                "prompt": MARY,
                "metadata": {"indirect_object": "Mary", "subject": "John"},
                "abc_counterfactual": {},
            }
            | {"s2_io_flip_counterfactual": FLIPPED},
            "corrupted",
            PromptPair(MARY, JOHN, (" Mary",), (" John",)),
        ),
        (
            {
                "prompt": "Which? Answer:",
                "choices": {"label": [" A", " B"], "text": ["x", "y"]},
                "answerKey": 1,
            }
            | {
                "symbol_counterfactual": {
                    "prompt": "Who? Answer:",
                    "choices": {"label": [" C", " D"]},
                    "answerKey": 0,
                }
            },
            "corrupted",
            PromptPair("Which? Answer:", "Who? Answer:", (" B",), (" C",)),
        ),
        (
            {
                "prompt": "1 + 1 =",
                "label": 2,
                "random_counterfactual": {"prompt": "1 + 3 =", "label": "4"},
            },
            "corrupted",
            PromptPair("1 + 1 =", "1 + 3 =", ("2",), ("4",)),
        ),
        (
            {
                "prompt": "1 + 1 =",
                "label": "2",
                "a_counterfactual": 3,
                "b_counterfactual": {"prompt": "b", "label": "2"},
            },
            "b_counterfactual",
            PromptPair("1 + 1 =", "b", ("2",), ()),
        ),
    ],
)
def test_mibs_rows_have_a_prompt_and_counterfactuals(row, corrupted, pair, tmp_path):
    file = save(tmp_path, "x.jsonl", json.dumps(row))
    assert read_prompts(file, None, corrupted=corrupted).pairs == (pair,)


def test_of_several_counterfactuals_none_is_taken_unasked(tmp_path):
    row = {"prompt": "a", "label": "b", "one_counterfactual": {}, "two_counterfactual": {}}
    with pytest.raises(
        TaskError, match="It has one_counterfactual, two_counterfactual: name one with --corrupted"
    ):
        read_prompts(save(tmp_path, "x.jsonl", json.dumps(row)), None)


def test_an_unknown_format_suggests_the_nearest(tmp_path: Path, tokenizer: Any):
    with pytest.raises(UsageError, match="Did you mean 'eap-ig-csv'"):
        read_prompts(tmp_path / "x.csv", tokenizer, "eapig-csv")
