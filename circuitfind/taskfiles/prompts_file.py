"""Prompts files: .jsonl, one pair a line, and .csv with the same columns and its lists as JSON.

{"clean": "When Mary and John ...", "corrupted": "When Ann ...", "answers": [" Mary"], "wrong_answers": [" John"]}

A pair may name roles, parts of its clean prompt from one character up to another: "roles": {"IO": [5, 9]}.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuitfind.errors import TaskError
from circuitfind.prompts import PromptPair, Role

TEXTS = ("clean", "corrupted")
LISTS = ("answers", "wrong_answers")
KEYS = (*TEXTS, *LISTS)
ROLES = "roles"
"""The key that may be left out."""
FOREIGN, MARK = frozenset({"correct_idx", "label", "prefix", "ioi_sentences"}), "<predict>"
"""What prompts of other tools have, in columns or in the text."""
OF_ANOTHER_TOOL = (
    "as in a file of EAP-IG's or Edge-Pruning's. Make a prompts file of it: circuitfind import FILE --model M."
)


@dataclass(frozen=True)
class Entry:
    """One pair of a file and the line it begins on; for one that can't be read None and the reason, ``problem``."""

    line: int
    pair: PromptPair | None
    problem: str = ""


def read_prompts(path: Path) -> list[PromptPair]:
    """The pairs of a .jsonl or .csv file. Raises TaskError naming the file and the first line that is wrong."""
    return pairs_of(read_entries(path), path)


def pairs_of(entries: Sequence[Entry], path: Path) -> list[PromptPair]:
    """The entries' pairs. Raises TaskError for the first that has none, and where there are no entries."""
    if not entries:
        raise TaskError(f"{path} holds no prompts. {_example(path)}")
    pairs = []
    for entry in entries:
        if entry.pair is None:
            raise TaskError(f"{path}, line {entry.line}: {entry.problem}")
        pairs.append(entry.pair)
    return pairs


def read_entries(path: Path) -> list[Entry]:
    """Every pair of a .jsonl or .csv file, the unreadable ones included. Raises TaskError if it is no text file."""
    text = read_text(path)
    return list(_csv_entries(text) if path.suffix.lower() == ".csv" else _jsonl_entries(text))


def write_prompts(pairs: Sequence[PromptPair]) -> str:
    """The pairs as the text of a .jsonl file."""
    return "".join(json.dumps(pair.to_dict(), ensure_ascii=False) + "\n" for pair in pairs)


def read_text(path: Path) -> str:
    """The file's text with its own line ends. Raises TaskError if it can't be read."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise TaskError(f"Cannot read the task file {path}: {reason}.") from None


def to_entry(line: int, data: object) -> Entry:
    """The pair that a JSON or YAML object describes."""
    problem = _problem(data)
    if problem or not isinstance(data, dict):
        return Entry(line, None, problem)
    answers, wrong_answers = (tuple(data[key]) for key in LISTS)
    roles = tuple(Role(name, *span) for name, span in data.get(ROLES, {}).items())
    return Entry(line, PromptPair(data["clean"], data["corrupted"], answers, wrong_answers, roles))


def _jsonl_entries(text: str) -> Iterator[Entry]:
    for number, line in enumerate(text.split("\n"), start=1):  # str.splitlines would break texts at U+2028
        if line.strip():
            try:
                yield to_entry(number, json.loads(line, object_pairs_hook=_once))
            except (ValueError, RecursionError) as error:
                yield Entry(number, None, _json_problem("the line", error))


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
        return Entry(line, None, f"it has {len(row)} fields, the header {len(columns)}. Quote texts that hold commas.")
    data: dict[str, Any] = dict(zip(columns, row, strict=True))
    if not data.get(ROLES):
        data.pop(ROLES, None)
    for key in (*LISTS, *([ROLES] if ROLES in data else [])):
        try:
            data[key] = json.loads(data[key], object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            how = 'object: "{""IO"": [5, 9]}"' if key == ROLES else 'list: "["" Mary""]"'
            return Entry(line, None, _json_problem(f"'{key}'", error) + f" Write a JSON {how}.")
    return to_entry(line, data)


def _column_problem(columns: list[str] | None) -> str:
    if columns is None:
        return ""
    if len(set(columns)) < len(columns):
        return "a column of the header stands in it twice."
    return _key_problem(columns, "column")


def _problem(data: object) -> str:
    """What is wrong with an object as a prompt pair; empty if nothing is."""
    if not isinstance(data, dict):
        return f"{_kind(data)} instead of an object with the keys {', '.join(KEYS)}."
    if "answers" not in data and MARK in str(data.get("clean")):
        return f"'answers' is missing, {OF_ANOTHER_TOOL}"
    return _key_problem(list(data), "key") or next(
        filter(None, (*(_value_problem(key, data[key]) for key in KEYS), _roles_problem(data.get(ROLES, {})))), ""
    )


def _key_problem(keys: Sequence[object], kind: str) -> str:
    missing = [key for key in KEYS if key not in keys]
    if missing and FOREIGN & set(keys):
        return f"the {kind} '{missing[0]}' is missing, {OF_ANOTHER_TOOL}"
    if missing:
        return f"the {kind} '{missing[0]}' is missing. Each pair has {', '.join(KEYS)}."
    unknown = [key for key in keys if key not in (*KEYS, ROLES)]
    return (
        f"unknown {kind} '{unknown[0]}'. Each pair has {', '.join(KEYS)}, may have {ROLES}, and nothing else."
        if unknown
        else ""
    )


def _value_problem(key: str, value: object) -> str:
    if key in TEXTS:
        return _text_problem(f"'{key}'", value)
    if not isinstance(value, list):
        return f"'{key}' is {_kind(value)}; it must be a list of texts."
    if key == "answers" and not value:
        return "'answers' is empty. Give at least one right answer."
    return next(filter(None, (_text_problem(f"an answer in '{key}'", text) for text in value)), "")


def _roles_problem(value: object) -> str:
    """What is wrong with roles as values; where they stand in the text is looked at with the pair."""
    if not isinstance(value, dict):
        return f"'{ROLES}' is {_kind(value)}; it must be an object such as {{\"IO\": [5, 9]}}."
    for name, span in value.items():
        is_span = isinstance(span, list) and len(span) == 2
        if not isinstance(name, str) or not is_span or not all(type(place) is int for place in span):
            return f"the role '{name}' must be two numbers of characters in the clean prompt, such as [5, 9]."
    return ""


def _text_problem(what: str, value: object) -> str:
    if not isinstance(value, str):
        return f"{what} is {_kind(value)}; it must be a text in quotes."
    if not value:
        return f"{what} is empty."
    if any("\ud800" <= character <= "\udfff" for character in value):
        return f"{what} holds half a character (a lone surrogate)."
    return ""


def _json_problem(what: str, error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{what} is not whole JSON: {error.msg} at character {error.colno}."
    return f"{what} is not whole JSON: {error}."


def _once(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these items. Raises ValueError if a key comes twice."""
    data = dict(items)
    if len(data) < len(items):
        keys = [key for key, _ in items]
        raise ValueError(f"the key '{next(key for key in keys if keys.count(key) > 1)}' stands in it twice")
    return data


def _kind(value: object) -> str:
    kinds = {
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
    }
    return "nothing" if value is None else kinds.get(type(value), f"a {type(value).__name__}")


def _example(path: Path) -> str:
    columns = f"Its first line names the columns: {','.join(KEYS)}."
    line = "Each line is one: " + json.dumps(
        {"clean": "...", "corrupted": "...", "answers": [" a"], "wrong_answers": [" b"]}
    )
    return columns if path.suffix.lower() == ".csv" else line
