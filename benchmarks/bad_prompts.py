"""Prompts files, task files and other tools' prompts that are wrong in every way that one can think of.

Each kind makes inputs: what is wrong, the file's name, its bytes. ``benchmarks.robustness`` tries the commands that
read such files on them; here are the inputs alone, and nothing but the standard library is needed to make them.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Any

Wrong = tuple[str, str, bytes]
"""What is wrong with it, the file's name, its bytes."""

PAIR: Mapping[str, Any] = MappingProxyType(
    {
        "clean": "Near the bank, Peter and Tim stopped, and Tim gave a ring to",
        "corrupted": "Near the bank, Jack and Chris stopped, and Laura gave a ring to",
        "answers": [" Peter"],
        "wrong_answers": [" Tim"],
        "roles": {"IO": [15, 20], "S1": [25, 28]},
    }
)
VALUES: Mapping[str, Any] = MappingProxyType(
    {
        "null": None,
        "true": True,
        "zero": 0,
        "minus one": -1,
        "a fraction": 2.5,
        "1e308": 1e308,
        "NaN": float("nan"),
        "infinity": float("inf"),
        "10^30": 10**30,
        "an empty text": "",
        "a space": " ",
        "a NUL": "a\0b",
        "an escape sequence": "\x1b]0;title\x07\x1b[31m",
        "a text from right to left": "\u202eabc",
        "half a character": "\ud800",
        "a character beyond the first plane": "\U0001f600 \U00010348",
        "combining marks": "e" + "\u0301" * 5000,
        "line ends": "a\r\n\u2028\u0085b",
        "a long word": "x" * 130_000,
        "a long text": "a b " * 32_000,
        "a text that is too long": "a " * 100_000,
        "megabytes": "x" * 3_000_000,
        "the mark of another tool": "1 + 2 = <predict>3</predict>",
        "an empty list": [],
        "a list of odd things": [1, None, {}, [], "x", True],
        "a list of empty texts": ["", ""],
        "10,001 texts": [f" {n}" for n in range(10_001)],
        "100,000 texts": [f" {n}" for n in range(100_000)],
        "lists in lists": [[[[["x"]]]]],
        "an object": {"a": {"b": []}},
        "a role out of bounds": {"IO": [0, 10**6]},
        "a role of no width": {"IO": [3, 3]},
        "roles that overlap": {"A": [0, 6], "B": [3, 9]},
        "a role with a bad name": {"\x1b[31m": [0, 4]},
        "a role called END": {"END": [0, 4]},
        "a role with three places": {"IO": [1, 2, 3]},
        "many roles": {f"R{n}": [n, n + 1] for n in range(40_000)},
    }
)


def of_pairs() -> Iterator[tuple[str, dict[str, Any]]]:
    """Pairs with one key of another value, without it, or with one more."""
    for key in PAIR:
        for what, value in VALUES.items():
            yield f"{key}: {what}", {**PAIR, key: value}
        yield f"no {key}", {name: value for name, value in PAIR.items() if name != key}
    yield "another key", {**PAIR, "label": 3}
    yield "many keys", {**PAIR, **{f"k{n}": n for n in range(100_000)}}
    yield "a key of megabytes", {**PAIR, "k" * 3_000_000: 1}
    yield "the same text twice", {**PAIR, "corrupted": PAIR["clean"]}
    yield "a prompt beyond the context", {**PAIR, "clean": " and" * 5000, "corrupted": " or" * 5000}
    yield "answers that can't follow", {**PAIR, "clean": PAIR["clean"] + " ", "answers": ["Peter"]}
    yield "a right answer that is wrong", {**PAIR, "wrong_answers": [" Peter"]}


def of_bytes(good: bytes, name: str) -> Iterator[Wrong]:
    """A file that is no text, cut off, spoiled, doubled or deep."""
    for what, data in {
        "nothing": b"",
        "blank": b" \n \n",
        "no UTF-8": b"\xff\xfe\x00",
        "zeros": bytes(1000),
        "UTF-16": good.decode().encode("utf-16"),
        "a byte order mark": b"\xef\xbb\xbf" + good,
        "old line ends": good.replace(b"\n", b"\r"),
        "cut off": good[: len(good) // 2],
        "twice": good + good,
        "10 MB in a line": b"x" * 10_000_000,
        "brackets": b"[" * 1_000_000,
        "braces": b'{"a":' * 200_000,
        "empty lists": b"[" + b"[]," * 1_000_000 + b"[]]",
        "lines of nothing much": b"{}\n" * 500_000,
        "a number of 9,999 digits": b"9" * 9_999,
        "quotes": b'"' * 1_000_001,
        "commas": b"," * 5_000_000,
    }.items():
        yield what, name, data
    draw = random.Random(name)
    for number in range(20):
        spoiled = bytearray(good)
        for place in draw.sample(range(len(good)), min(5, len(good))):
            spoiled[place] = draw.randrange(256)
        yield f"spoiled bytes {number}", name, bytes(spoiled)


def jsonl_files() -> Iterator[Wrong]:
    """Prompts files, .jsonl."""
    good = (json.dumps(dict(PAIR)) + "\n").encode()
    for what, pair in of_pairs():
        yield what, "p.jsonl", good + json.dumps(pair).encode()
    twice = json.dumps(dict(PAIR))[:-1] + ', "clean": "x"}'
    yield "a key twice", "p.jsonl", good + twice.encode()
    yield from of_bytes(good, "p.jsonl")


def csv_files() -> Iterator[Wrong]:
    """Prompts files, .csv."""
    good = _csv([_row(PAIR)])
    for what, pair in of_pairs():
        if "megabytes" not in what and "many keys" not in what:
            yield what, "p.csv", _csv([_row(pair)])
    yield "a column twice", "p.csv", b"clean,clean,corrupted,answers,wrong_answers\na,b,c,[],[]\n"
    yield "a row too short", "p.csv", good + b"a,b\n"
    yield "an open quote", "p.csv", good + b'"a'
    yield "a field too long", "p.csv", good + b'"' + b"a" * 200_000 + b'"\n'
    yield "a column without a name", "p.csv", b"," + good
    yield "many columns", "p.csv", b"," * 1_000_000 + b"\n"
    yield from of_bytes(good, "p.csv")


def _row(pair: Mapping[str, Any]) -> dict[str, str]:
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in pair.items()}


def _csv(rows: list[dict[str, str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "surrogatepass")


LAUGH = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in pairwise("abcdefghi")
)


def yaml_files() -> Iterator[Wrong]:
    """Task files in YAML; JSON is YAML, so that the same pairs serve."""
    about = {"name": "mine", "title": "Mine", "paper": "", "metric": "kl"}
    for what, pair in of_pairs():
        yield what, "t.yaml", json.dumps({**about, "prompts": [dict(PAIR), pair]}).encode()
    for key in (*about, "prompts", "prompts_file"):
        for what, value in VALUES.items():
            whole = (
                {**about, key: value}
                if key.startswith("prompts")
                else {**about, key: value, "prompts": [dict(PAIR)]}
            )
            yield f"{key}: {what}", "t.yaml", json.dumps(whole).encode()
    texts = {
        "aliases that multiply": LAUGH + "name: x\nprompts: *i",
        "merges that multiply": LAUGH + "name: x\n<<: [*i, *i]",
        "a mapping in itself": "&a\nname: x\nprompts: *a",
        "a list in itself": "name: x\nprompts: &a [*a]",
        "a set": "name: x\nprompts: !!set {a, b}",
        "a set of pairs": "name: x\nprompts: !!pairs [a: b]",
        "bytes": "name: !!binary aGVsbG8=\nprompts: []",
        "a date": "name: 2020-01-01\nprompts: []",
        "a list as a key": "? [a]\n: b",
        "an object of Python's": "name: !!python/object/apply:os.system [x]",
        "two documents": "name: x\n---\nname: y",
        "a NUL in a path": 'name: x\nprompts_file: "a\\0b"',
        "a path out of it": "name: x\nprompts_file: ../../../../etc/passwd",
        "a folder as prompts": "name: x\nprompts_file: .",
        "a device as prompts": "name: x\nprompts_file: /dev/zero",
        "itself as prompts": "name: x\nprompts_file: t.yaml",
        "deep": "- " * 100_000 + "a",
        "an unknown alias": "name: *x",
        "tabs": "name:\n\t- x",
    }
    for what, text in texts.items():
        yield what, "t.yaml", text.encode()
    yield from of_bytes(json.dumps({**about, "prompts": [dict(PAIR)]}).encode(), "t.yaml")


HEAD = """
from circuitfind.prompts.pairs import *
P = PromptPair({clean!r}, {corrupted!r}, (' Peter',), (' Tim',))
""".format(**PAIR)
PARTS = ("name", "title", "paper", "metric", "example", "make", "metrics", "source", "held_out")
ODD = (
    "None",
    "3",
    "True",
    "b'x'",
    "''",
    "'x' * 10**6",
    "[]",
    "{}",
    "print",
    "object()",
    "P",
    "'a/b'",
    "'\\0'",
    "int",
)
FIELDS = ("clean", "corrupted", "answers", "wrong_answers", "roles")
RAISED = (
    "BaseException('x')",
    "GeneratorExit",
    "SystemExit(0)",
    "SyntaxError",
    "StopIteration",
    "MemoryError",
)
MADE = (
    "None",
    "3",
    "P",
    "[3]",
    "['a']",
    "[None]",
    "[P] * 10**5",
    "iter([P])",
    "__import__('itertools').repeat(P)",
    "(x for x in [1 / 0])",
    "{P: P}",
    "{P}",
    "range(10)",
    "open(__file__)",
    "type('L', (list,), {'__len__': lambda s: -1})()",
    "type('L', (list,), {'__iter__': lambda s: 1 / 0})()",
    "__import__('os')._exit(3)",
)


def python_files() -> Iterator[Wrong]:
    """Task files in Python: what they raise, what TASK is, what its parts are, what make returns."""
    parts = {"name": "'mine'", "title": "''", "paper": "''", "metric": "'kl'", "example": "P"}
    parts |= {"make": "lambda t, n, s: [P][:n]", "metrics": "{}", "source": "None", "held_out": "None"}
    for part in PARTS:
        for odd in ODD:
            yield f"{part} is {odd}", "t.py", _task(parts | {part: odd})
    for made in MADE:
        yield f"make returns {made}", "t.py", _task(parts | {"make": f"lambda t, n, s: {made}"})
    for field in FIELDS:
        for odd in (
            *ODD,
            "(None,)",
            "('',)",
            "'\\ud800'",
            "('x',) * 10**5",
            "(Role('R', 0, 10**5000),)",
            "(Role(1, 2, 3),)",
        ):
            pair = f"replace(P, {field}={odd})"
            yield (
                f"{field} is {odd}",
                "t.py",
                _task(parts | {"example": pair, "make": f"lambda t, n, s: [{pair}]"}),
            )
    for raised in RAISED:
        yield f"raises {raised}", "t.py", f"raise {raised}".encode()
        yield (
            f"make raises {raised}",
            "t.py",
            _task(parts | {"make": "boom"}, f"def boom(*a): raise {raised}\n"),
        )
    texts = {
        "no TASK": "x = 1",
        "a wrong TASK": "TASK = 3",
        "a TASK that lies": HEAD + "class T:\n  __class__ = property(lambda s: 1 / 0)\nTASK = T()",
        "an error that has no text": "class E(Exception):\n  def __str__(self): raise ValueError\nraise E",
        "an error whose text never ends": "class E(Exception):\n  def __str__(self): return str(self)\nraise E",
        "an error of megabytes": "raise ValueError('x' * 10**7)",
        "escapes in an error": "raise ValueError('\\x1b]0;x\\x07')",
        "it ends the process": "import os\nos._exit(7)",
        "it is no Python": "def f(:",
        "it is deep": "x = " + "(" * 100_000,
        "it recurses": "def f(): f()\nf()",
        "it imports itself": "import t",
        "it prints": "print('hello')\nTASK = 3",
    }
    for what, text in texts.items():
        yield what, "t.py", text.encode()
    yield from of_bytes(_task(parts), "t.py")


def _task(parts: Mapping[str, str], before: str = "") -> bytes:
    head = f"{HEAD}from dataclasses import replace\n{before}"
    return f"{head}TASK = Task({', '.join(f'{key}={value}' for key, value in parts.items())})\n".encode()


COLUMNS = (
    ("correct_idx", "incorrect_idx"),
    ("clean_answer_idx", "corrupted_answer_idx"),
    ("answers_idx", "corrupted_answers_idx", "answers", "corrupted_answers"),
    ("country_idx", "corrupted_country_idx", "country", "corrupted_country"),
    ("label",),
    ("correct_idx",),
    ("year",),
    ("plural", "group"),
)


def foreign_csv_files() -> Iterator[Wrong]:
    """EAP-IG's and MIB's layouts, each column of another value."""
    for columns in COLUMNS:
        good = {"clean": "from 1352 to 13", "corrupted": "from 1301 to 13"} | dict.fromkeys(columns, "52")
        yield f"{columns}", "f.csv", _csv([good])
        for key in good:
            for what, value in VALUES.items():
                text = value if isinstance(value, str) else json.dumps(value)
                yield f"{columns}, {key}: {what}", "f.csv", _csv([good | {key: text}])
            yield (
                f"{columns}, no {key}",
                "f.csv",
                _csv([{name: good[name] for name in good if name != key}]),
            )
    yield (
        "everything at once",
        "f.csv",
        _csv([dict.fromkeys(("clean", "corrupted", *sum(COLUMNS, ())), "1")]),
    )
    yield from of_bytes(_csv([good]), "f.csv")


ROWS: tuple[dict[str, Any], ...] = (
    {"clean": "1 + 2 = <predict>3</predict>", "corrupted": "1 + 4 = <predict>5</predict>"},
    {
        "prefix": "So Ann said that",
        "corr_prefix": "So Tom said that",
        "pronoun": "she",
        "corr_pronoun": "he",
    },
    {"prefix": "from 1352 to 13", "corr_prefix": "from 1301 to 13", "digits": "52"},
    {"ioi_sentences": "John gave to Mary", "corr_ioi_sentences": "Bob gave to Ann", "b": "John"},
    {"clean": "I like", "corrupt": "I hate", "answers": [" it"], "wrong_answers": [" that"]},
    {"input": "True and", "corr_input": "True or", "target": "True"},
    {
        "prompt": "Mary and John met. John gave to",
        "metadata": {"indirect_object": "Mary", "subject": "John"},
        "s2_io_flip_counterfactual": {
            "prompt": "Mary and John met. Mary gave to",
            "choices": ["a"],
            "answerKey": 0,
        },
    },
    {
        "prompt": "Which? Answer:",
        "choices": {"label": ["A", "B"]},
        "answerKey": 1,
        "symbol_counterfactual": {"prompt": "Who? Answer:", "choices": {"label": ["C"]}, "answerKey": 0},
    },
)


def foreign_json_files() -> Iterator[Wrong]:
    """Edge-Pruning's, MIB's and AutoCircuit's layouts, each key of another value."""
    for number, row in enumerate(ROWS):
        for what, changed in _changed(row):
            yield f"row {number}, {what}", "f.jsonl", json.dumps(changed).encode()
    for what, changed in _changed({"prompts": list(ROWS), "word_idxs": {"IO": 2}}):
        yield f"under prompts, {what}", "f.json", json.dumps(changed).encode()
    yield from of_bytes(json.dumps({"prompts": list(ROWS)}).encode(), "f.jsonl")


def _changed(row: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "as it is", row
    for key, old in row.items():
        for what, value in VALUES.items():
            yield f"{key}: {what}", row | {key: value}
        yield f"no {key}", {name: value for name, value in row.items() if name != key}
        if isinstance(old, dict):
            yield from ((f"{key}.{what}", row | {key: inner}) for what, inner in _changed(old))


KINDS: Mapping[str, tuple[Callable[[], Iterator[Wrong]], tuple[tuple[str, ...], ...]]] = MappingProxyType(
    {
        "prompts (.jsonl)": (
            jsonl_files,
            (("tasks", "check", "FILE"), ("tasks", "check", "FILE", "--model", "tiny")),
        ),
        "prompts (.csv)": (csv_files, (("tasks", "check", "FILE", "--model", "tiny"),)),
        "task files (.yaml)": (
            yaml_files,
            (("tasks", "check", "FILE", "--model", "tiny"), ("tasks", "show", "FILE")),
        ),
        "task files (.py)": (
            python_files,
            (
                ("tasks", "check", "FILE", "--model", "tiny"),
                ("tasks", "show", "FILE", "--json"),
                ("tasks", "show", "FILE", "--model", "tiny", "--prompts", "2"),
            ),
        ),
        "other tools' prompts (.csv)": (
            foreign_csv_files,
            (("import", "FILE", "--model", "tiny", "--out", "OUT", "--force"),),
        ),
        "other tools' prompts (.json)": (
            foreign_json_files,
            (("import", "FILE", "--model", "tiny", "--out", "OUT", "--force"),),
        ),
    }
)
"""The kinds by name: their inputs, and the commands that read them. FILE is the input, OUT a place to write to."""
