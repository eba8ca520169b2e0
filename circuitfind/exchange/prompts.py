"""Prompts of other tools as pairs: EAP-IG's and MIB's CSV, Edge-Pruning's JSONL.

CSV: clean, corrupted, and as token ids correct_idx and incorrect_idx, each one id or a list of them; other columns (an
index, corrupted_hard) are left out. Greater-than has label instead, the last two digits of the first year: every later
year is right, every other wrong. Ids are of one model's tokenizer, which turns them into texts here.

JSONL: clean and corrupted, each with its answer marked, "1 + 2 = <predict>3</predict>"; what follows the mark is left
out, and a space before it belongs to the answer, as it does where tokens are made of the whole text. Or, of its own
tasks, the texts up to the answer: prefix and corr_prefix with pronoun and corr_pronoun, or with digits, as label above;
or whole sentences whose last word is the answer: ioi_sentences and corr_ioi_sentences (or text and corr_text), where b,
if there, is the wrong name.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from circuitfind.errors import TaskError, UsageError, unknown
from circuitfind.prompts import PromptPair, Tokenizer, is_single_token
from circuitfind.taskfiles.prompts_file import read_text

FORMATS: Mapping[str, str] = MappingProxyType({"eap-ig-csv": ".csv", "edge-pruning-jsonl": ".jsonl"})
CSV_COLUMNS = (("correct_idx", "incorrect_idx"), ("correct_idx",), ("label",))
SENTENCES = ("ioi_sentences", "text")
_MARKED = re.compile(r"(?P<prompt>.*?)(?P<space>\s*)<predict>(?P<answer>.*?)</predict>", re.DOTALL)


@dataclass(frozen=True)
class ReadPrompts:
    """``notes``: what of the file is left out."""

    pairs: tuple[PromptPair, ...]
    notes: tuple[str, ...]


def read_prompts(
    path: Path, tokenizer: Tokenizer | None, format: str | None = None, corrupted: str = "corrupted"
) -> ReadPrompts:
    """The pairs of a file. ``corrupted``: the column that the corrupted prompts are in.

    Raises UsageError for a format that there is not, TaskError naming the first row that is wrong.
    """
    if format is not None and format not in FORMATS:
        raise UsageError(unknown("format of prompts", format, FORMATS, "formats of prompts"))
    name = format or next((name for name, suffix in FORMATS.items() if suffix == path.suffix.lower()), "")
    rows, text = Rows(path, corrupted), read_text(path)
    read = rows.of_csv(text, tokenizer) if name == "eap-ig-csv" else rows.of_json(text, tokenizer)
    if not read.pairs:
        raise TaskError(f"{path} holds no prompts.")
    return read


def looks_foreign(columns: Sequence[object]) -> bool:
    """Whether a file with such columns or keys is one of another tool's, which can be imported."""
    found = set(columns)
    return {"clean", "corrupted"} <= found and bool(found & {"correct_idx", "label"}) and "answers" not in found


@dataclass(frozen=True)
class Rows:
    """A file's rows, with what names it in messages."""

    path: Path
    corrupted: str = "corrupted"

    def of_csv(self, text: str, tokenizer: Tokenizer | None) -> ReadPrompts:
        """The pairs of a CSV with token ids."""
        if tokenizer is None:
            raise UsageError(f"{self.path} has answers as token ids. Say which model's they are with --model.")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        try:
            columns = list(reader.fieldnames or [])
            answers = self._answer_columns(columns)
            pairs = tuple(self._csv_pair(reader.line_num, row, answers, tokenizer) for row in reader)
        except csv.Error as error:
            raise TaskError(f"{self.path}, line {reader.line_num}: not a row of CSV: {error}.") from None
        used = ("clean", self.corrupted, *answers)
        left = [column for column in columns if column and column not in used]
        return ReadPrompts(pairs, (f"left out: the columns {', '.join(left)}",) if left else ())

    def of_json(self, text: str, tokenizer: Tokenizer | None) -> ReadPrompts:
        """The pairs of Edge-Pruning's objects, one a line or not."""
        pairs, cut = [], 0
        for number, data in enumerate(self._objects(text), start=1):
            pair, has_more = self._json_pair(number, data, tokenizer)
            pairs.append(pair)
            cut += has_more
        return ReadPrompts(tuple(pairs), (f"left out: what follows the answer in {cut:,} prompts",) if cut else ())

    def _answer_columns(self, columns: Sequence[str]) -> tuple[str, ...]:
        """Which columns have the answers."""
        missing = next((name for name in ("clean", self.corrupted) if name not in columns), None)
        found = next((names for names in CSV_COLUMNS if set(names) <= set(columns)), None)
        if missing is not None or found is None:
            what = f"the column '{missing}' is missing" if missing else "there are no answers"
            raise TaskError(
                f"{self.path}: {what}. EAP-IG's and MIB's CSV has clean, corrupted and, as token ids, correct_idx and "
                f"incorrect_idx, or label. It has {', '.join(filter(None, columns)) or 'none'}."
            )
        return found

    def _csv_pair(self, line: int, row: Mapping[str, Any], answers: Sequence[str], tokenizer: Tokenizer) -> PromptPair:
        where = f"{self.path}, line {line}"
        if None in row or None in row.values():
            raise TaskError(f"{where}: it has not as many fields as the header. Quote texts that hold commas.")
        if answers == ("label",):
            right, wrong = years(row["label"], tokenizer, where)
        else:
            texts = [tuple(spell(token, tokenizer, where) for token in ids(row[name], name, where)) for name in answers]
            right, wrong = texts[0], (texts[1] if len(texts) > 1 else ())
        return PromptPair(row["clean"], row[self.corrupted], right, wrong)

    def _objects(self, text: str) -> Iterator[dict[str, Any]]:
        """The JSON objects in a text, one after the other; or those of one list."""
        decoder, place = json.JSONDecoder(), 0
        while rest := len(text[place:].lstrip()):
            place = len(text) - rest
            try:
                data, place = decoder.raw_decode(text, place)
            except (ValueError, RecursionError):
                line = text.count("\n", 0, place) + 1
                raise TaskError(f"{self.path}, line {line}: no whole JSON object.") from None
            for item in data if isinstance(data, list) else [data]:
                if not isinstance(item, dict):
                    raise TaskError(f"{self.path}: {json.dumps(item)[:60]} is no object with clean and corrupted.")
                yield item

    def _json_pair(self, number: int, data: Mapping[str, Any], tokenizer: Tokenizer | None) -> tuple[PromptPair, bool]:
        """The pair, and whether there is more behind its answer."""
        where = f"{self.path}, prompt {number}"
        if "prefix" in data:
            return _of_task(data, tokenizer, where), False
        key = next((name for name in SENTENCES if name in data), None)
        if key is not None:
            return _of_sentences(data, key, where), False
        texts = [_text(data, name, where) for name in ("clean", self.corrupted)]
        found = [_MARKED.match(text) for text in texts]
        if found[0] is None:
            raise TaskError(f"{where}: its clean text marks no answer. Write one as '1 + 2 = <predict>3</predict>'.")
        prompts = [text if match is None else match["prompt"] for text, match in zip(texts, found, strict=True)]
        right, wrong = [() if match is None else (match["space"] + match["answer"],) for match in found]
        has_more = any(
            match is not None and text[match.end() :].strip() for text, match in zip(texts, found, strict=True)
        )
        return PromptPair(prompts[0], prompts[1], right, wrong if wrong != right else ()), has_more


def ids(text: str, column: str, where: str) -> list[int]:
    """The token ids in a field: one, or a list of them. Raises TaskError."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    found = value if isinstance(value, list) else [value]
    whole = [int(one) for one in found if type(one) in (int, float) and math.isfinite(one) and one == int(one)]
    if len(whole) < len(found) or not found or min(whole) < 0:
        raise TaskError(f"{where}: its {column} is '{text[:40]}'; it must be a token id, or a JSON list of them.")
    return whole


def spell(token: int, tokenizer: Tokenizer, where: str) -> str:
    """The text of a token id, which is that token behind a prompt. Raises TaskError for an id that is none."""
    try:
        text = tokenizer.decode([token])
    except (IndexError, OverflowError, ValueError, TypeError):
        text = ""
    if not text or tokenizer.continuation(text)[:1] != [token]:
        raise TaskError(
            f"{where}: the token id {token} ('{text}') is no answer in this model. Name the one whose tokens they are."
        )
    return text


def years(label: object, tokenizer: Tokenizer, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The later years' last two digits, and the others'. Raises TaskError where they are not a token each."""
    text = str(label).strip()
    if not re.fullmatch(r"\d{1,2}", text, re.ASCII):
        raise TaskError(f"{where}: its year is '{text[:40]}'; it must be the last two digits of one.")
    spelled = [f"{year:02d}" for year in range(100)]
    if not all(is_single_token(tokenizer, year) for year in spelled):
        raise TaskError(
            f"{where}: this model has not a token for each two digits of a year, which such prompts are scored by. "
            "The task greater-than makes prompts that suit it."
        )
    return tuple(spelled[int(text) + 1 :]), tuple(spelled[: int(text) + 1])


def _of_task(data: Mapping[str, Any], tokenizer: Tokenizer | None, where: str) -> PromptPair:
    """The pair of one of Edge-Pruning's own tasks."""
    prompts = [_text(data, name, where) for name in ("prefix", "corr_prefix")]
    if "digits" in data:
        if tokenizer is None:
            raise UsageError(f"{where}: years need a tokenizer. Say which model's with --model.")
        right, wrong = years(data["digits"], tokenizer, where)
    else:
        answers = (_text(data, name, where) for name in ("pronoun", "corr_pronoun"))
        right, wrong = ((answer if answer[:1].isspace() else f" {answer}",) for answer in answers)
    return PromptPair(prompts[0].rstrip(), prompts[1].rstrip(), right, wrong)


def _of_sentences(data: Mapping[str, Any], key: str, where: str) -> PromptPair:
    """The pair of two sentences of which the last word is the answer."""
    (clean, right), (corrupted, _) = (_split(_text(data, name, where)) for name in (key, f"corr_{key}"))
    wrong = (f" {data['b'].strip()}",) if isinstance(data.get("b"), str) else ()
    return PromptPair(clean, corrupted, (right,), wrong)


def _split(sentence: str) -> tuple[str, str]:
    """A sentence up to its last word, and that with the space before it."""
    rest, _, word = sentence.rstrip().rpartition(" ")
    return rest, f" {word}"


def _text(data: Mapping[str, Any], name: str, where: str) -> str:
    value = data.get(name)
    if not isinstance(value, str):
        raise TaskError(f"{where}: it has no text '{name}'.")
    return value
