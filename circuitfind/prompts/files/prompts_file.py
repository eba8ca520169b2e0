"""Prompts files: .jsonl, one pair a line, and .csv with the same columns and its lists as JSON.

{"clean": "When Mary and John ...", "corrupted": "When Ann ...", "answers": [" Mary"],
"wrong_answers": [" John"]}

A pair may name roles, parts of its clean prompt from one character up to another: "roles": {"IO":
[5, 9]}.

What a pair may be is said in ``prompts/files/schema.py``. A file is read a line at a time, and no
further than the first that is wrong unless all are asked for; its size, and that of a line, are
bounded.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuitfind.errors import TaskError, cut, shown
from circuitfind.files.json_file import read_text as read_file
from circuitfind.prompts.files.schema import KEYS, LISTS, ROLES, key_problem, to_pair
from circuitfind.prompts.pairs import PromptPair

MOST_BYTES = 1 << 26
LONGEST_LINE = 1 << 22
"""Characters: enough for two texts in escapes and all answers."""
MOST_PROMPTS = 100_000


@dataclass(frozen=True)
class Entry:
    """One pair of a file and the line it begins on; for one that can't be read None and the reason,
    ``problem``.
    """

    line: int
    pair: PromptPair | None
    problem: str = ""


def read_prompts(path: Path) -> list[PromptPair]:
    """The pairs of a .jsonl or .csv file. Raises TaskError naming the file and the first line that
    is wrong.
    """
    return pairs_of(read_entries(path), path)


def pairs_of(entries: Iterable[Entry], path: Path) -> list[PromptPair]:
    """The entries' pairs. Raises TaskError for the first that has none, and where there are no entries."""
    pairs = []
    for entry in entries:
        if entry.pair is None:
            raise TaskError(f"{path}, line {entry.line}: {entry.problem}")
        pairs.append(entry.pair)
    if not pairs:
        raise TaskError(f"{path} holds no prompts. {_example(path)}")
    return pairs


def read_entries(path: Path) -> Iterator[Entry]:
    """Every pair of a .jsonl or .csv file, the unreadable ones included. Raises TaskError if it is
    no text file, or has more prompts than one may."""
    text = read_text(path)
    entries = _csv_entries(text) if path.suffix.lower() == ".csv" else _jsonl_entries(text)
    for number, entry in enumerate(entries):
        if number == MOST_PROMPTS:
            raise TaskError(
                f"{path} holds more than {MOST_PROMPTS:,} prompts. Cut it: a run takes a few of them."
            )
        yield entry


def write_prompts(pairs: Sequence[PromptPair]) -> str:
    """The pairs as the text of a .jsonl file."""
    return "".join(json.dumps(pair.to_dict(), ensure_ascii=False) + "\n" for pair in pairs)


def read_text(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """The file's text with its own line ends. Raises TaskError if it can't be read, or may never
    end, as a device.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113  Path's own raise for a long name
        raise TaskError(f"Cannot read {path}: it is no file.")
    return read_file(path, TaskError, most_bytes)


def to_entry(line: int, data: object) -> Entry:
    """The pair that a JSON or YAML object describes."""
    try:
        return Entry(line, to_pair(data))
    except TaskError as error:
        return Entry(line, None, str(error))


def once(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these items. Raises ValueError if a key comes twice."""
    data = dict(items)
    if len(data) < len(items):
        seen: set[str] = set()
        twice = next(key for key, _ in items if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shown(twice)} stands in it twice")
    return data


def _jsonl_entries(text: str) -> Iterator[Entry]:
    for number, line in enumerate(_lines(text), start=1):
        if len(line) > LONGEST_LINE:
            yield Entry(
                number, None, f"the line has {len(line):,} characters; {LONGEST_LINE:,} are the most."
            )
        elif line.strip():
            try:
                yield to_entry(number, json.loads(line, object_pairs_hook=once))
            except (ValueError, RecursionError) as error:
                yield Entry(number, None, _json_problem("the line", error))


def _lines(text: str) -> Iterator[str]:
    """The lines of a text, one at a time: str.splitlines would break prompts at U+2028, too."""
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield text[start:end]
        start = end + 1
    yield text[start:]


def _csv_entries(text: str) -> Iterator[Entry]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        columns = next(reader, None)
        problem = _column_problem(columns)
        if columns is None or problem:
            if problem:
                yield Entry(1, None, problem)
            return
        line = reader.line_num + 1
        for row in reader:
            if row:
                yield _csv_entry(line, columns, row)
            line = reader.line_num + 1
    except csv.Error as error:
        yield Entry(line, None, f"not a row of CSV: {error}.")


def _csv_entry(line: int, columns: list[str], row: list[str]) -> Entry:
    if len(row) != len(columns):
        return Entry(
            line,
            None,
            f"it has {len(row)} fields, the header {len(columns)}. Quote texts that hold commas.",
        )
    data: dict[str, Any] = dict(zip(columns, row, strict=True))
    if not data.get(ROLES):
        data.pop(ROLES, None)
    for key in (*LISTS, *([ROLES] if ROLES in data else [])):
        try:
            data[key] = json.loads(data[key], object_pairs_hook=once)
        except (ValueError, RecursionError) as error:
            how = 'object: "{""IO"": [5, 9]}"' if key == ROLES else 'list: "["" Mary""]"'
            return Entry(line, None, _json_problem(f"'{key}'", error) + f" Write a JSON {how}.")
    return to_entry(line, data)


def _column_problem(columns: list[str] | None) -> str:
    if columns is None:
        return ""
    if len(set(columns)) < len(columns):
        return "a column of the header stands in it twice."
    return key_problem(columns, "column")


def _json_problem(what: str, error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{what} is not whole JSON: {error.msg} at character {error.colno}."
    return f"{what} is not whole JSON: {cut(str(error))}."


def _example(path: Path) -> str:
    columns = f"Its first line names the columns: {','.join(KEYS)}."
    line = "Each line is one: " + json.dumps(
        {"clean": "...", "corrupted": "...", "answers": [" a"], "wrong_answers": [" b"]}
    )
    return columns if path.suffix.lower() == ".csv" else line
