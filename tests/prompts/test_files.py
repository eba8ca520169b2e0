"""Task and prompts files: what is read from them, and what is said about wrong ones."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_tokenizers import ToyTokenizer

from circuitfind.errors import TaskError
from circuitfind.prompts.files import check_task, load_task, read_prompts, write_prompts
from circuitfind.prompts.pairs import PromptPair, Role

PAIR = {"clean": "2 + 2 =", "corrupted": "2 + 3 =", "answers": [" 4"], "wrong_answers": [" 5"]}
OTHER = {"clean": "1 + 2 =", "corrupted": "1 + 4 =", "answers": [" 3"], "wrong_answers": [" 5", " 4"]}
Write = Callable[[str, str], Path]

texts = st.text(st.characters(codec="utf-8"), min_size=1)
rows = st.lists(st.tuples(texts, texts, st.lists(texts, min_size=1), st.lists(texts)), min_size=1)
Rows = list[tuple[str, str, list[str], list[str]]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode())
        return path

    return write_file


def jsonl(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def error(path: Path) -> str:
    """What loading the file says, its path left out."""
    with pytest.raises(TaskError) as caught:
        load_task(str(path))
    message = str(caught.value)
    assert str(path.parent) in message
    assert message.count("\n") <= 1
    return message.replace(str(path.parent) + "/", "")


def pairs_of(found: Rows) -> list[PromptPair]:
    """The pairs, made outside the strategy: the shape check draws on ``random``, which hypothesis forbids in there."""
    return [
        PromptPair(clean, corrupted, tuple(right), tuple(wrong))
        for clean, corrupted, right, wrong in found
    ]


@given(rows)
def test_pairs_survive_their_file(tmp_path_factory: pytest.TempPathFactory, found: Rows) -> None:
    path = tmp_path_factory.mktemp("prompts") / "p.jsonl"
    path.write_text(write_prompts(pairs_of(found)), encoding="utf-8", newline="")
    assert read_prompts(path) == pairs_of(found)


@given(rows)
def test_pairs_survive_a_csv_file(tmp_path_factory: pytest.TempPathFactory, found: Rows) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(PAIR)
    writer.writerows(
        (clean, corrupted, json.dumps(right), json.dumps(wrong))
        for clean, corrupted, right, wrong in found
    )
    path = tmp_path_factory.mktemp("prompts") / "p.csv"
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    assert read_prompts(path) == pairs_of(found)


def test_a_written_line_is_that_of_the_contract() -> None:
    pair = PromptPair("Zoë and", "Ann and", (" Zoë",), (" Ann",))
    line = (
        '{"clean": "Zoë and", "corrupted": "Ann and", "answers": [" Zoë"], "wrong_answers": [" Ann"]}\n'
    )
    assert write_prompts([pair]) == line


def test_a_prompts_file_is_a_task_of_its_first_prompts(write: Write) -> None:
    task = load_task(str(write("sums.jsonl", jsonl(PAIR, OTHER))))
    assert (task.name, task.metric) == ("sums", "kl")
    assert task.make(ToyTokenizer(), 1, 0) == [task.example]
    assert [pair.to_dict() for pair in task.make(ToyTokenizer(), 9, 4)] == [PAIR, OTHER]


def test_windows_line_ends_a_byte_order_mark_and_blank_lines_do_no_harm(write: Write) -> None:
    text = "\ufeff" + jsonl(PAIR, OTHER).replace("\n", "\r\n\r\n")
    assert [pair.to_dict() for pair in read_prompts(write("sums.jsonl", text))] == [PAIR, OTHER]


@pytest.mark.parametrize(
    ("second_line", "said"),
    [
        ('{"clean": "a', "the line is not whole JSON: Unterminated string"),
        ("[1, 2]", "[1, 2] instead of an object with the keys clean, corrupted, answers, wrong_answers"),
        (
            jsonl({key: PAIR[key] for key in ("clean", "corrupted", "answers")}),
            "the key 'wrong_answers' is missing",
        ),
        (jsonl(PAIR | {"label": 1}), "unknown key 'label'"),
        (jsonl(PAIR | {"clean": 3}), 'its "clean" is 3; it must be a text'),
        (jsonl(PAIR | {"clean": ""}), "'clean' is empty"),
        (jsonl(PAIR | {"answers": " 4"}), "its \"answers\" is ' 4'; it must be a list"),
        (jsonl(PAIR | {"answers": [4]}), 'its "answers.0" is 4; it must be a text'),
        (jsonl(PAIR | {"answers": []}), "'answers' is empty. Give at least one"),
        (
            jsonl(PAIR | {"wrong_answers": [""]}),
            "an answer in 'wrong_answers' is empty",
        ),
        (jsonl(PAIR | {"corrupted": "\ud800"}), "half a character"),
        (jsonl(PAIR | {"clean": "a" * 200_000}), 'its "clean" is \'aaa'),
        (
            jsonl(PAIR | {"answers": [f" {n}" for n in range(100_000)]}),
            "its \"answers\" is [' 0', ' 1', ",
        ),
        (jsonl(PAIR | {"answers": [" " * 2000]}), 'its "answers.0" is \'    '),
        ("x" * 10_000_000, "the line has 10,000,000 characters; 4,194,304 are the most"),
        (jsonl(PAIR).replace('"corrupted"', '"clean"'), "the key 'clean' stands in it twice"),
        ("[" * 100_000, "not whole JSON"),
        ("1" * 5000, "not whole JSON"),
    ],
)
def test_a_wrong_line_is_named_with_its_number(write: Write, second_line: str, said: str) -> None:
    message = error(write("p.jsonl", jsonl(PAIR) + second_line))
    assert message.startswith("p.jsonl, line 2: ")
    assert said in message


def test_files_without_prompts_say_what_a_prompt_is(write: Write) -> None:
    assert error(write("p.jsonl", "\n \n")).startswith(
        'p.jsonl holds no prompts. Each line is one: {"clean"'
    )
    assert error(write("p.csv", "")).startswith(
        "p.csv holds no prompts. Its first line names the columns: clean,"
    )
    assert error(write("p.csv", "clean,corrupted,answers,wrong_answers\n")).startswith(
        "p.csv holds no prompts."
    )


HEADER = "clean,corrupted,answers,wrong_answers\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clean,corrupted,answers\n", "line 1: the column 'wrong_answers' is missing"),
        (HEADER.replace("clean,", "clean,clean,"), "line 1: a column of the header stands in it twice"),
        (HEADER + '"a\nb",c,"["" x""]",[]\na,b,c\n', "line 4: it has 3 fields, the header 4"),
        (HEADER + "a,b, x,[]\n", "line 2: 'answers' is not whole JSON"),
        (HEADER + 'a,b,"["" x""]",[]\n"a,b', "line 3: not a row of CSV"),
    ],
)
def test_a_wrong_row_of_csv_is_named_with_its_line(write: Write, text: str, said: str) -> None:
    assert error(write("p.csv", text)).startswith(f"p.csv, {said}")


def test_what_is_no_text_can_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    assert error(path) == "Cannot read p.jsonl: it is not text."


# Task files


def test_a_yaml_task_lists_its_prompts(write: Write) -> None:
    task = load_task(
        str(write("t.yaml", "name: sums\ntitle: Adding\nmetric: loss\nprompts:\n- " + json.dumps(PAIR)))
    )
    assert (task.name, task.title, task.paper, task.metric) == ("sums", "Adding", "", "loss")
    assert [pair.to_dict() for pair in task.make(ToyTokenizer(), 5, 0)] == [PAIR]


def test_a_yaml_task_finds_its_prompts_file_beside_it(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("p.jsonl", jsonl(PAIR, OTHER))
    path = write("t.yml", "name: sums\nprompts_file: p.jsonl\n")
    monkeypatch.chdir("/")
    assert len(load_task(str(path)).make(ToyTokenizer(), 5, 0)) == 2


LAUGH = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in pairwise("abcdefghi")
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "t.yaml: it is no task"),
        ("name: [", "t.yaml, line 2: not whole YAML"),
        ("a: 1\n b: 2", "t.yaml, line 2: not whole YAML"),
        ("prompts: []", "t.yaml: the key 'name' is missing"),
        ("name: x", "t.yaml: give either 'prompts'"),
        ("name: x\nprompts: []\nprompts_file: p.jsonl", "t.yaml: give either 'prompts'"),
        ("name: x\nprompts: 3", "t.yaml: 'prompts' must be a list"),
        ("name: x\nprompt: []", "t.yaml: unknown key 'prompt'"),
        ("name: 3\nprompts: []", 't.yaml: its "name" is 3; it must be a text'),
        ("name: x\nprompts: []", "t.yaml holds no prompts"),
        (
            "name: x\nprompts:\n- {clean: a, corrupted: b, answers: [yes], wrong_answers: []}",
            't.yaml, line 3: the pair: its "answers.0" is true; it must be a text',
        ),
        ("name: x\nprompts_file: none.jsonl", "Cannot read none.jsonl: No such file"),
        ("name: x\nprompts: !!set {a, b}", "t.yaml: 'prompts' must be a list of pairs"),
        ("&a\nname: x\nprompts: *a", "t.yaml: not whole YAML: what begins in line 1 stands in itself"),
        ("name: x\nprompts: &a [*a]", "t.yaml: not whole YAML: what begins in line 2 stands in itself"),
        (
            LAUGH + "name: x\nprompts: *i",
            "t.yaml: not whole YAML: it comes to 9.26e+08 values, and 100,000 are",
        ),
        (LAUGH + "name: x\n<<: [*i, *i]\nprompts: []", "t.yaml: not whole YAML: it comes to"),
        ("- a\n" * 200_000, "t.yaml: not whole YAML: it comes to more values, and 100,000 are the most"),
        ("[" * 100_000, "t.yaml: not whole YAML: line 1 is nested more than 50 deep"),
        ("- " * 100_000 + "a", "t.yaml: not whole YAML: line 1 is nested more than 50 deep"),
        ("a" * 3_000_000, "t.yaml has more than 2,097,152 bytes"),
        (
            "name: x\nname: y\nprompts: []",
            "t.yaml: not whole YAML: the key 'name' stands twice in what begins in line 1",
        ),
        ("? [a]\n: b", "t.yaml, line 1: not whole YAML: found unhashable key"),
        ("name: 2020-01-01\nprompts: []", 't.yaml: its "name" is 2020-01-01; it must be a text'),
        (
            "name: !!python/name:os.system x",
            "t.yaml, line 1: not whole YAML: could not determine a constructor",
        ),
        (f"name: x\nprompts_file: {'a' * 300}", "Cannot read aaa"),
        ("name: x\nprompts_file: ..", "t.yaml: its prompts_file '..' is not beside it"),
        ("name: x\nprompts_file: zeros", "t.yaml: its prompts_file 'zeros' is not beside it"),
        ("name: x\nprompts_file: [a]", "t.yaml: 'prompts_file' is ['a']; it must be a text"),
        ("null: x", "t.yaml: unknown key null"),
        ("name: ../x\nprompts: [" + json.dumps(PAIR) + "]", "t.yaml: the task's name is '../x'"),
    ],
)
def test_a_wrong_yaml_task_is_told_where(write: Write, text: str, said: str) -> None:
    path = write("t.yaml", text)
    (path.parent / "zeros").symlink_to("/dev/zero")
    assert error(path).startswith(said)


PYTHON_TASK = """
from dataclasses import dataclass
from circuitfind.prompts.pairs import PromptPair, Task

@dataclass(frozen=True)
class Sum:
    left: int

def make(tokenizer, n_prompts, seed):
    return [PromptPair(f"{i} + 1 =", f"{i} + 2 =", (f" {Sum(i).left + 1}",), (" 99",)) for i in range(RANGE)]

TASK = Task("sums", "Adding", "", "kl", make(None, 1, 0)[0], make)
"""


def test_a_python_task_is_its_task(write: Write, tmp_path: Path) -> None:
    task = load_task(str(write("t.py", PYTHON_TASK.replace("RANGE", "n_prompts"))))
    assert [pair.clean for pair in task.make(ToyTokenizer(), 2, 0)] == ["0 + 1 =", "1 + 1 ="]
    assert [path.name for path in tmp_path.iterdir()] == [
        "t.py"
    ]  # nothing is written beside a user's file


MADE = """
from circuitfind.prompts.pairs import PromptPair, Role, Task

def made(kind, *parts):
    new = object.__new__(kind)  # the tests' check of types would refuse the parts, which a user's Python does not
    for name, part in zip(kind.__dataclass_fields__, parts):
        object.__setattr__(new, name, part)
    return new
"""
TASK = (
    MADE
    + """
P = PromptPair('a', 'b', ('c',), ())
class Nasty(dict):
    def items(self):
        1 / 0
def task(name='x', title='', paper='', metric='kl', example=P, make=print, metrics={{}}, held_out=None):
    return made(Task, name, title, paper, metric, example, make, metrics, None, held_out)
TASK = task({name})
"""
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\ny = 1 / 0\n", "t.py, line 2: ZeroDivisionError: division by zero"),
        ("x = 1\ndef f(:\n", "t.py, line 2: invalid syntax"),
        ("\nimport no_such_module_at_all\n", "t.py, line 2: ModuleNotFoundError: No module named"),
        ("raise SystemExit(3)", "t.py, line 1: SystemExit: 3"),
        ("task = 1\n", "t.py has no TASK"),
        ("TASK = 3\n", "t.py: TASK is a int; it must be a Task"),
        ("x = '\0'", "t.py"),
        ("raise BaseException('x')", "t.py, line 1: BaseException: x"),
        ("raise GeneratorExit", "t.py, line 1: GeneratorExit"),
        ("raise SyntaxError", "t.py, line 1: SyntaxError"),
        ("import os\nos._exit(7)", "t.py, line 2: SystemExit: it called os._exit(7)"),
        ("class E(Exception):\n  def __str__(self): return str(self)\nraise E", "t.py, line 3: E"),
        ("class E(Exception):\n  def __str__(self): raise ValueError\nraise E", "t.py, line 3: E"),
        ("raise ValueError('x' * 10**6)", "t.py, line 1: ValueError: xxx"),
        (TASK.format(name="5"), 't.py: TASK: its "name" is 5; it must be a text.'),
        (TASK.format(name="None"), 't.py: TASK: its "name" is null; it must be a text.'),
        (TASK.format(name="'x' * 101"), 't.py: TASK: its "name" is \'xxx'),
        (TASK.format(name="'x', 3"), 't.py: TASK: its "title" is 3; it must be a text.'),
        (TASK.format(name="'x', '', '', 5"), 't.py: TASK: its "metric" is 5; it must be a text.'),
        (
            TASK.format(name="'x', '', '', 'kl', None"),
            "t.py: the example is a NoneType; it must be a PromptPair.",
        ),
        (TASK.format(name="'x', '', '', 'kl', P, 3"), "t.py: make is a int; it must be a function."),
        (
            TASK.format(name="'x', '', '', 'kl', P, print, held_out=3"),
            "t.py: held_out is a int; it must be a",
        ),
        (
            TASK.format(name="'x', '', '', 'kl', P, print, Nasty()"),
            "t.py, line 13: ZeroDivisionError",
        ),
    ],
)
def test_a_broken_python_task_is_told_with_its_line(write: Write, text: str, said: str) -> None:
    assert error(write("t.py", text)).startswith(said)


def test_a_prompts_file_whose_name_holds_a_nul_can_not_be_read(write: Write) -> None:
    with pytest.raises(TaskError, match=r"Cannot read .*no file can be named so"):
        load_task(str(write("t.yaml", 'name: x\nprompts_file: "a\\0b"')))


def test_a_yaml_alias_stands_for_its_value(write: Write) -> None:
    again = (
        "- &p {clean: a, corrupted: b, answers: &a [x], wrong_answers: [y]}\n- {<<: *p, answers: *a}\n"
    )
    again = f"name: x\nprompts:\n{again}"
    one, other = load_task(str(write("t.yaml", again))).make(ToyTokenizer(), 5, 0)
    assert one == other == PromptPair("a", "b", ("x",), ("y",))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("[1 / 0]", "t.py, line 12: ZeroDivisionError"),
        ("['a']", "t.py: make, prompt 1 is a str; it must be a PromptPair"),
        ("[TASK.example] * 9", "t.py: make returned 9 prompts when asked for 5"),
        ("None", "t.py: TypeError"),
        (
            "[made(PromptPair, 1, 2, 3, 4)]",
            't.py: make, prompt 1: the pair: its "clean" is 1; it must be a text',
        ),
        (
            "[made(PromptPair, b'a', 'b', (), ())]",
            """t.py: make, prompt 1: the pair: its "clean" is b'a'""",
        ),
        (
            "[made(PromptPair, 'a', 'b', ' c', ())]",
            """t.py: make, prompt 1: the pair: its "answers" is ' c'; it must be a""",
        ),
        (
            "[made(PromptPair, 'a', 'b', (None,), ())]",
            't.py: make, prompt 1: the pair: its "answers.0" is null',
        ),
        (
            "[made(PromptPair, 'a', 'b', (' c',), ('d' * 2000,))]",
            't.py: make, prompt 1: the pair: its "wrong_answers.0" is',
        ),
        (
            "[made(PromptPair, 'a', 'b', (' c',), (), 3)]",
            "t.py: make, prompt 1: its roles must be a tuple",
        ),
        (
            "[made(PromptPair, 'a', 'b', (' c',), (), (3,))]",
            "t.py: make, prompt 1: a role must be Role(name, start, end)",
        ),
        (
            "[made(PromptPair, 'a', 'b', (' c',), (), (Role('R', 0, 10**5000),))]",
            "t.py: make, prompt 1: a role must be",
        ),
        (
            "[PromptPair('a', 'b', (' c',), (), (made(Role, 'R', 0, '1'),))]",
            "t.py: make, prompt 1: a role must be",
        ),
        ("__import__('os')._exit(0)", "t.py, line 12: SystemExit: it called os._exit(0)"),
        ("(_ for _ in ()).throw(GeneratorExit)", "t.py, line 12: GeneratorExit"),
    ],
)
def test_a_python_task_that_makes_nonsense_is_told(write: Write, made: str, said: str) -> None:
    head = f"{MADE}\ndef make(tokenizer, n_prompts, seed):\n"
    tail = "\nTASK = Task('sums', '', '', 'kl', PromptPair('a', 'b', (' c',), ()), make)\n"
    path = write("t.py", f"{head}    pass\n    return {made}\n{tail}")
    with pytest.raises(TaskError) as caught:
        load_task(str(path)).make(ToyTokenizer(), 5, 0)
    assert str(caught.value).replace(f"{path.parent}/", "").startswith(said)


def test_of_a_make_that_never_ends_as_many_prompts_are_taken_as_were_asked_for(write: Write) -> None:
    endless = PYTHON_TASK.replace("[PromptPair(", "(PromptPair(").replace(
        "in range(RANGE)]", "in count())"
    )
    task = load_task(
        str(
            write(
                "t.py", "from itertools import count\n" + endless.replace("1, 0)[0]", "1, 0).__next__()")
            )
        )
    )
    assert [pair.clean for pair in task.make(ToyTokenizer(), 3, 0)] == ["0 + 1 =", "1 + 1 =", "2 + 1 ="]


def test_a_pairs_texts_and_places_are_made_plain(write: Write) -> None:
    text = """
from numpy import array, int64
a, b, c = array(["One ate", "Two ate", " it"])
P = made(PromptPair, a, b, [c], [], [made(Role, "WHO", int64(0), int64(3))])
TASK = Task("x", "", "", "kl", P, lambda *_: [P])
"""
    task = load_task(str(write("t.py", MADE + text)))
    (pair,) = task.make(ToyTokenizer(), 1, 0)
    assert pair == task.example == PromptPair("One ate", "Two ate", (" it",), (), (Role("WHO", 0, 3),))
    assert {type(pair.clean), type(pair.answers[0])} == {str} and type(pair.roles[0].end) is int
    assert type(pair.answers) is tuple


def test_what_a_task_file_prints_does_not_mix_with_results(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    load_task(str(write("t.py", "print('hello')\n" + PYTHON_TASK.replace("RANGE", "n_prompts"))))
    assert capsys.readouterr() == ("", "hello\n")


def test_a_process_that_a_task_file_forks_ends_as_it_says(write: Write) -> None:
    fork = """
import os
child = os.fork()
if not child:
    os._exit(7)
STATUS = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
""" + PYTHON_TASK.replace("RANGE", "n_prompts").replace('"Adding"', "str(STATUS)")
    assert load_task(str(write("t.py", fork))).title == "7"
    assert os._exit.__module__ == "posix"


# Names


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(TaskError, match=r"No task named 'greaterthan'\. Did you mean 'greater-than'"):
        load_task("greaterthan")


def test_a_missing_file_and_one_of_another_kind_are_told(write: Write, tmp_path: Path) -> None:
    with pytest.raises(
        TaskError, match=r"There is no file nowhere\.jsonl\. Tasks without a file: docstring"
    ):
        load_task("nowhere.jsonl")
    assert error(write("p.txt", "")).startswith("p.txt is no task. Give a task file (.py, .yaml) or")
    with pytest.raises(TaskError, match="is no task"):
        load_task(str(tmp_path))
    for name in ("a" * 1000, "a" * 1000 + ".jsonl", "a\0b.jsonl", "~nobody-of-that-name/a.jsonl", ""):
        with pytest.raises(TaskError):
            load_task(name)


# Checks


def test_a_check_tells_every_wrong_line(write: Write) -> None:
    longer = PAIR | {"corrupted": "2 + 33 ="}
    clash = PAIR | {"wrong_answers": [" 4"]}
    path = write("p.jsonl", jsonl(PAIR, longer) + "oops\n\n" + jsonl(clash))
    report = check_task(str(path), ToyTokenizer(space_joins=True))
    assert [problem.partition(":")[0] for problem in report.problems] == ["line 2", "line 3", "line 5"]
    assert (report.n_prompts, report.tokens_checked) == (4, True)


def test_a_check_of_a_yaml_task_names_the_prompts_file_that_is_wrong(write: Write) -> None:
    write("p.jsonl", jsonl(PAIR) + "oops\n")
    report = check_task(str(write("t.yaml", "name: sums\nprompts_file: p.jsonl\n")))
    assert [problem.partition(":")[0] for problem in report.problems] == ["p.jsonl, line 2"]


def test_without_a_tokenizer_the_words_alone_are_checked(write: Write) -> None:
    path = write("p.jsonl", jsonl(PAIR | {"corrupted": "2 + 33 ="}, PAIR | {"corrupted": PAIR["clean"]}))
    report = check_task(str(path))
    assert [problem.partition(":")[0] for problem in report.problems] == ["line 2"]
    assert not report.tokens_checked


def test_a_check_of_a_broken_file_is_a_report_and_of_a_missing_one_an_error(write: Write) -> None:
    assert "holds no prompts" in check_task(str(write("p.jsonl", ""))).problems[0]
    assert "line 1: ZeroDivisionError" in check_task(str(write("t.py", "1 / 0"))).problems[0]
    assert "name is missing" in check_task(str(write("t.yaml", "prompts: []"))).problems[0].replace(
        "'", ""
    )
    assert (
        "name is 'a b'"
        in check_task(str(write("u.yaml", f"name: a b\nprompts: [{json.dumps(PAIR)}]"))).problems[0]
    )
    with pytest.raises(TaskError, match="There is no file"):
        check_task("nowhere.jsonl")


def test_a_check_tells_a_metric_that_there_is_not_and_one_that_needs_wrong_answers(write: Write) -> None:
    one = json.dumps(PAIR | {"wrong_answers": []})
    (problem,) = check_task(str(write("t.yaml", f"name: x\nmetric: klx\nprompts: [{one}]"))).problems
    assert problem.startswith("No metric named 'klx'. Did you mean 'kl'?")
    (problem,) = check_task(
        str(write("t.yaml", f"name: x\nmetric: prob-diff\nprompts: [{one}]"))
    ).problems
    assert problem.startswith(
        "Prompt 1: it has no wrong answer, which the task's metric, prob-diff, needs"
    )


def test_of_very_many_problems_the_first_are_told(write: Write) -> None:
    problems = check_task(str(write("p.jsonl", "x\n" * 5000))).problems
    assert len(problems) == 1001 and problems[-1].startswith("There are more than 1,000 problems")


def test_a_file_of_too_many_prompts_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("circuitfind.prompts.files.prompts_file.MOST_PROMPTS", 2)
    assert len(read_prompts(write("p.jsonl", jsonl(PAIR, OTHER)))) == 2
    assert error(write("q.jsonl", jsonl(PAIR, OTHER, PAIR))).startswith(
        "q.jsonl holds more than 2 prompts"
    )


def test_a_python_task_is_checked_on_the_prompts_it_makes(write: Write) -> None:
    same = PYTHON_TASK.replace("RANGE", "n_prompts").replace('(" 99",)', '(" 1",)')
    report = check_task(str(write("t.py", same)), ToyTokenizer())
    assert report.n_prompts == 50
    assert report.problems[0].startswith("Prompt 1: the right answer ' 1' and the wrong answer ' 1'")
