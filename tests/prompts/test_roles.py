"""Roles: named in prompts and files, found in tokens, refused where they are wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_tokenizers import ToyTokenizer, one_digit, three_digits, two_digits

from circuitfind.circuits.graph import END, REST
from circuitfind.errors import TaskError, UsageError
from circuitfind.prompts.batch import tokenise
from circuitfind.prompts.files import check_task, load_task, read_prompts, write_prompts
from circuitfind.prompts.pairs import PromptPair, Role, check_roles, fill
from circuitfind.prompts.roles import find_roles

TASKS = {
    "ioi": ("IO", "S1", "S2", REST, END),
    "greater-than": ("NOUN", "XX", "YY", REST, END),
    "docstring": (*(f"{letter}_def" for letter in "ABCDE"), "A_doc", "B_doc", REST, END),
}
TEXT = "Ann met Tom and Tom gave"


def pair(*roles: Role, clean: str = TEXT) -> PromptPair:
    return PromptPair(clean, clean.replace("Ann", "Bob"), (" Ann",), (" Tom",), roles)


NAMED = (Role("IO", 0, 3), Role("S1", 8, 11), Role("S2", 16, 19))


def test_a_filled_template_tells_where_each_value_stands() -> None:
    text, places = fill("At {place}, {one} and {other}", place="the station", one="Ann", other="Tom")
    assert text == "At the station, Ann and Tom"
    assert {field: text[slice(*span)] for field, span in places.items()} == {
        "place": "the station",
        "one": "Ann",
        "other": "Tom",
    }


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize(
    "tokenizer", [one_digit, two_digits, three_digits, lambda: ToyTokenizer(bos=True)]
)
def test_the_roles_of_the_built_in_tasks_are_found_in_every_prompt(
    name: str, tokenizer: type[ToyTokenizer]
) -> None:
    words = tokenizer()
    pairs = load_task(name).make(words, 20, 0)
    roles = find_roles(pairs, words)
    assert roles.names == TASKS[name]
    for i, made in enumerate(pairs):
        tokens = words.encode(made.clean)
        own = [roles.names[number] for number in roles.of[i, : len(tokens)].tolist()]
        assert own[-1] == END and own.count(END) == 1 and set(roles.of[i, len(tokens) :].tolist()) <= {-1}
        assert set(own) == set(TASKS[name])
        spelled = {
            role: "".join(
                words.decode([token]) for token, its in zip(tokens, own, strict=True) if its == role
            )
            for role in own
        }
        for role in made.roles:
            if name != "greater-than":
                assert spelled[role.name].strip() == made.clean[role.start : role.end]


def test_ioi_names_the_receiver_and_both_mentions_of_the_giver() -> None:
    for made in [*load_task("ioi").make(one_digit(), 40, 3), load_task("ioi").example]:
        texts = {role.name: made.clean[role.start : role.end] for role in made.roles}
        assert (f" {texts['IO']}",) == made.answers and (f" {texts['S1']}",) == (
            f" {texts['S2']}",
        ) == made.wrong_answers
        places = {role.name: role.start for role in made.roles}
        assert places["S1"] < places["S2"]


@pytest.mark.parametrize(
    ("tokenizer", "century", "year"), [(one_digit, 2, 2), (two_digits, 1, 1), (three_digits, 1, 1)]
)
def test_a_token_that_two_roles_touch_belongs_to_the_first(
    tokenizer: type[ToyTokenizer], century: int, year: int
) -> None:
    words = tokenizer()
    roles = find_roles(load_task("greater-than").make(words, 4, 0), words)
    counts = [(roles.of == roles.names.index(name)).sum(1).tolist() for name in ("XX", "YY")]
    assert counts == [[century] * 4, [year] * 4]


def test_docstring_names_the_definition_and_what_is_documented() -> None:
    example = load_task("docstring").example
    texts = {role.name: example.clean[role.start : role.end] for role in example.roles}
    assert [texts[f"{letter}_def"] for letter in "ABCDE"] == ["path", "size", "color", "limit", "state"]
    assert (texts["A_doc"], texts["B_doc"], f" {texts['C_def']}") == ("path", "size", *example.answers)


def test_without_roles_each_position_is_one() -> None:
    pairs = [pair(), pair(clean=TEXT.replace("met", "saw"))]
    roles = find_roles(pairs, one_digit())
    assert roles.names == ("0", "1", "2", "3", "4", END)
    assert roles.of.tolist() == [[0, 1, 2, 3, 4, 5]] * 2


def test_without_roles_prompts_of_several_lengths_are_refused() -> None:
    pairs = [pair(), pair(clean=TEXT + " it to")]
    with pytest.raises(UsageError, match=r"6 to 8 tokens[\s\S]*Name roles"):
        find_roles(pairs, one_digit())


def test_a_role_that_is_in_no_other_prompt_is_told_with_its_prompt() -> None:
    with pytest.raises(
        TaskError, match=r"Prompt 2: its roles are IO, S1; those of the first prompt IO, S1, S2\."
    ):
        find_roles([pair(*NAMED), pair(*NAMED[:2])], one_digit())
    with pytest.raises(TaskError, match="Prompt 2: its roles are none"):
        find_roles([pair(*NAMED), pair()], one_digit())


@pytest.mark.parametrize(
    ("roles", "says"),
    [
        ((Role("IO", 0, 3), Role("S1", 2, 5)), "'IO' and 'S1' share characters"),
        ((Role("IO", 3, 3),), "from character 3 to 3"),
        ((Role("IO", 5, 3),), "from character 5 to 3"),
        ((Role("IO", -1, 3),), "from character -1 to 3"),
        ((Role("IO", 0, 99),), "from character 0 to 99; .*between 0 and 24"),
        ((Role("IO", 0, 3), Role("IO", 4, 7)), "'IO' is there twice"),
        ((Role("a b", 0, 3),), "'a b' has no possible name"),
        ((Role("x" * 17, 0, 3),), "no possible name"),
        ((Role("END", 0, 3),), "'END' is the last token by itself"),
        ((Role("rest", 0, 3),), "'rest' is what no other role names"),
        ((Role("V", 20, 24),), "'V' has no token of its own"),  # the last token is END
        ((Role("A", 0, 1), Role("B", 1, 3)), "'B' has no token of its own"),
    ],
)
def test_what_is_wrong_with_roles_is_told(roles: tuple[Role, ...], says: str) -> None:
    with pytest.raises(TaskError, match=f"Prompt 1: .*{says}"):
        find_roles([pair(*roles)], one_digit())
    assert len(check_roles(pair(*roles), pair(*roles), one_digit())) == 1


def test_a_tokenizer_that_does_not_tell_places_is_told() -> None:
    class Blind:
        encode, continuation, decode = ToyTokenizer.encode, ToyTokenizer.continuation, ToyTokenizer.decode

    with pytest.raises(TaskError, match="does not tell where"):
        find_roles([pair(*NAMED)], Blind())  # type: ignore[arg-type]


def test_roles_go_where_their_prompts_go() -> None:
    pairs = [pair(*NAMED), pair(*NAMED, clean=TEXT + " it")]
    batch = tokenise(pairs, words := one_digit())
    batch = replace(batch, roles=find_roles(pairs, words))
    assert batch.roles is not None
    assert batch.roles.of.tolist() == [[0, 3, 1, 3, 2, 4, -1], [0, 3, 1, 3, 2, 3, 4]]
    chosen = batch.rows([1, 0, 1]).roles
    assert chosen is not None and chosen.of.tolist() == [batch.roles.of[i].tolist() for i in (1, 0, 1)]
    moved = batch.to("meta").roles
    assert moved is not None and moved.of.device.type == "meta"
    assert torch.equal(batch.roles.here("S2"), batch.roles.of == 2)


# files


def test_roles_survive_their_file(tmp_path: Path) -> None:
    pairs = [pair(*NAMED), pair(*NAMED[:1]), pair()]
    file = tmp_path / "prompts.jsonl"
    file.write_text(write_prompts(pairs))
    assert read_prompts(file) == pairs
    assert [json.loads(line).get("roles") for line in file.read_text().splitlines()] == [
        {"IO": [0, 3], "S1": [8, 11], "S2": [16, 19]},
        {"IO": [0, 3]},
        None,
    ]


def test_roles_are_a_column_of_csv_and_a_key_of_yaml(tmp_path: Path) -> None:
    csv, task = tmp_path / "prompts.csv", tmp_path / "task.yaml"
    csv.write_text(
        "clean,corrupted,answers,wrong_answers,roles\n"
        f'{TEXT},{TEXT.replace("Ann", "Bob")},"["" Ann""]","["" Tom""]","{{""IO"": [0, 3]}}"\n'
        f'{TEXT},{TEXT.replace("Ann", "Bob")},"["" Ann""]","["" Tom""]",\n'
    )
    assert read_prompts(csv) == [pair(NAMED[0]), pair()]
    task.write_text(f"name: mine\nprompts:\n  - {json.dumps(pair(*NAMED).to_dict())}\n")
    assert load_task(str(task)).make(one_digit(), 1, 0) == [pair(*NAMED)]


@pytest.mark.parametrize(
    ("roles", "says"),
    [
        ([["IO", 0, 3]], r"""the pair: its "roles" is \[\['IO', 0, 3\]\]; it must be an object"""),
        ({"IO": 3}, 'the pair: its "roles.IO" is 3; it must be a list'),
        ({"IO": [0, 1, 2]}, r'the pair: its "roles.IO" is \[0, 1, 2\]; it must be a list of 2'),
        ({"IO": [0, "3"]}, """the pair: its "roles.IO.1" is '3'; it must be a whole number"""),
        ({"IO": [0, True]}, 'the pair: its "roles.IO.1" is true; it must be a whole number'),
        ({"IO": [0, 2.5]}, 'the pair: its "roles.IO.1" is 2.5; it must be a whole number'),
        ({"IO": [0, 10**20]}, 'the pair: its "roles.IO.1" is 1000'),
        (
            {f"R{n}": [n, n + 1] for n in range(1001)},
            'the pair: its "roles" is .*; it must be an object of at most',
        ),
    ],
)
def test_roles_of_another_kind_are_told_with_their_line(roles: object, says: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(write_prompts([pair()]) + json.dumps(pair().to_dict() | {"roles": roles}) + "\n")
    with pytest.raises(TaskError, match=f"line 2: {says}"):
        read_prompts(file)


def test_a_check_tells_wrong_roles_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(write_prompts([pair(*NAMED), pair(*NAMED[:2]), pair(*NAMED[:2], Role("S2", 16, 99))]))
    problems = check_task(str(file)).problems
    assert [problem.partition(":")[0] for problem in problems] == ["line 2", "line 3"]
    assert "its roles are IO, S1" in problems[0] and "from character 16 to 99" in problems[1]
    assert check_task(str(file), one_digit()).problems == problems
    assert check_task("ioi", one_digit()).problems == ()
