"""Prompts of other tools as pairs: EAP-IG's and MIB's CSV, Edge-Pruning's and MIB's JSONL,
AutoCircuit's JSON.

Rows with clean and corrupted texts have their answers in columns, and only what these are by
themselves is taken:
- two columns of token ids, one of each kind (``ID_COLUMNS``), each one id or a list of them, of one
  model's tokenizer, which turns them into texts here. A column of the texts beside them is held
  against what comes out;
- a year, in one column (``YEARS``): the last two digits of the first year, or all four. Every later
  year is right, every other wrong. It is one only where the clean prompt says so: it ends in a
  century and names that century's year;
- in JSONL, an answer marked in each text, "1 + 2 = <predict>3</predict>"; what follows the mark is
  left out, and a space before it belongs to the answer, as it does where tokens are made of the
  whole text;
- in AutoCircuit's JSON, lists of texts, or of token ids.

Edge-Pruning's own tasks have the texts up to the answer: prefix and corr_prefix with pronoun and
corr_pronoun, or with digits, a year; or whole sentences whose last word is the answer:
ioi_sentences and corr_ioi_sentences (or text and corr_text), where b, if there, is the wrong name.
MIB's rows have a prompt, and each counterfactual in a column.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from circuitfind.errors import TaskError, UsageError, cut, shown, unknown
from circuitfind.prompts.files.prompts_file import MOST_PROMPTS, once, read_text, to_entry
from circuitfind.prompts.pairs import PromptPair, Tokenizer, is_single_token

FORMATS: Mapping[str, str] = MappingProxyType(
    {
        "eap-ig-csv": ".csv",
        "edge-pruning-jsonl": ".jsonl",
        "mib-jsonl": ".jsonl",
        "autocircuit-json": ".json",
    }
)
YEARS = ("label", "correct_idx", "year", "digits")
YEARS_OF_A_CENTURY = tuple(f"{year:02d}" for year in range(100))
SENTENCES = ("ioi_sentences", "text")
NO_ANSWERS = {
    "plural": "says which of two lists of verbs is right, and the lists are not in the file",
    "corr_input": "is an expression without the examples that stand before it, which are not in the file",
    "seq": "is a sequence of a compiled model's own tokens, which are no text",
}
"""Columns whose rows are no prompts by themselves, and why."""
MIB_COUNTERFACTUALS = ("s2_io_flip_counterfactual", "symbol_counterfactual", "random_counterfactual")
"""Those that MIB's circuit track takes: of IOI, of its multiple choices, of arithmetic."""
CUT = "left out: what follows the answer in {n:,} prompts"
MOST_OBJECTS = 3_000_000
_MARKED = re.compile(r"(?P<prompt>.*?)(?P<space>\s*)<predict>(?P<answer>.*?)</predict>", re.DOTALL)
_BLANK = re.compile(r"\s*")


@dataclass(frozen=True)
class IdColumns:
    """Two columns of token ids; ``texts``: those of what the ids spell, where the file has some."""

    right: str
    wrong: str
    texts: tuple[str, str] | None = None


ID_COLUMNS = (
    IdColumns("correct_idx", "incorrect_idx"),
    IdColumns("clean_answer_idx", "corrupted_answer_idx"),
    IdColumns("answers_idx", "corrupted_answers_idx", ("answers", "corrupted_answers")),
    IdColumns("country_idx", "corrupted_country_idx", ("country", "corrupted_country")),
)


@dataclass(frozen=True)
class ReadPrompts:
    """``notes``: what of the file is left out, and what was taken where there was a choice."""

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
    suffix = FORMATS[format] if format else path.suffix.lower()
    rows, text = Rows(path, tokenizer, corrupted), read_text(path)
    read = rows.of_csv(text) if suffix == ".csv" else rows.of_json(text)
    if not read.pairs:
        raise TaskError(f"{path} holds no prompts.")
    return read


def holds_prompts(path: Path) -> bool:
    """Whether a .json file is one of prompts, not of a circuit: an object with a list of them, or a list."""
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(1 << 16)
    is_list = re.match(rb"\s*\[\s*\{", start) is not None and re.search(
        rb'"(clean|prompt|prefix)"\s*:', start
    )
    return bool(is_list) or re.search(rb'"prompts"\s*:\s*\[', start) is not None


@dataclass(frozen=True)
class Rows:
    """A file's rows: what names it in messages, and the tokenizer that its token ids are of."""

    path: Path
    tokenizer: Tokenizer | None
    corrupted: str = "corrupted"

    def of_csv(self, text: str) -> ReadPrompts:
        """The pairs of a CSV."""
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        try:
            columns = list(reader.fieldnames or [])
            self._check_columns(columns)
            find, used = self._answers(columns)
            pairs = tuple(
                self._csv_pair(f"line {reader.line_num}", row, find) for row in self._few(reader)
            )
        except csv.Error as error:
            raise TaskError(f"{self.path}, line {reader.line_num}: not a row of CSV: {error}.") from None
        return ReadPrompts(pairs, self._notes(columns, used, pairs))

    def of_json(self, text: str) -> ReadPrompts:
        """The pairs of JSON objects, one a line or not, those of a list, or those under "prompts"."""
        pairs: list[PromptPair] = []
        notes: Counter[str] = Counter()
        for number, data in enumerate(self._few(self._objects(text, notes)), start=1):
            pair, told = self._json_pair(f"prompt {number}", data)
            pairs.append(pair)
            notes.update(told)
        return ReadPrompts(
            tuple(pairs), tuple(note.format(n=n) if note == CUT else note for note, n in notes.items())
        )

    def _check_columns(self, columns: Sequence[str]) -> None:
        """Raises TaskError unless the columns of the texts are there, each once."""
        if len(set(columns)) < len(columns):
            raise TaskError(
                f"{self.path}: a column of the header stands in it twice. It has {_named(columns)}."
            )
        missing = next((name for name in ("clean", self.corrupted) if name not in columns), None)
        if missing is not None:
            raise TaskError(
                f"{self.path}: the column {shown(missing)} is missing. EAP-IG's and MIB's CSV has clean,"
                f" corrupted and the answers, as token ids or a year. It has {_named(columns)}."
            )

    def _answers(self, columns: Iterable[str]) -> tuple[Answers, tuple[str, ...]]:
        """What makes answers of a row with such columns, and which of them that takes.

        Raises TaskError, naming them, where they are none, or may be several things.
        """
        names = list(columns)
        found: list[tuple[Answers, tuple[str, ...]]] = [
            (TokenIds(self, ids), (ids.right, ids.wrong))
            for ids in ID_COLUMNS
            if {ids.right, ids.wrong} <= set(names)
        ]
        if not found:
            found = [(Year(self, name), (name,)) for name in YEARS if name in names]
        if len(found) == 1:
            return found[0]
        if found:
            which = " and ".join("/".join(taken) for _, taken in found)
            raise TaskError(
                f"{self.path}: its answers may be those of {which}. Leave the columns of one."
            )
        reason = next(
            (f"'{name}' {why}" for name, why in NO_ANSWERS.items() if name in names),
            "there are no answers",
        )
        raise TaskError(
            f"{self.path}: {reason}. It has {_named(names)}.\n"
            f"Answers are token ids ({_known_ids()}) or a year ({', '.join(YEARS)})."
        )

    def _csv_pair(self, where: str, row: Mapping[str, Any], answers: Answers) -> PromptPair:
        if None in row or None in row.values():
            raise self.error(
                where, "it has not as many fields as the header. Quote texts that hold commas."
            )
        right, wrong = answers.of(row["clean"], row, where)
        return self._pair(where, row["clean"], row[self.corrupted], right, wrong)

    def _pair(
        self,
        where: str,
        clean: object,
        corrupted: object,
        right: Sequence[object],
        wrong: Sequence[object],
    ) -> PromptPair:
        """The pair, as a prompts file may hold it. Raises TaskError."""
        data = {
            "clean": clean,
            "corrupted": corrupted,
            "answers": list(right),
            "wrong_answers": list(wrong),
        }
        entry = to_entry(0, data)
        if entry.pair is None:
            raise self.error(where, entry.problem)
        return entry.pair

    def _notes(
        self, columns: Sequence[str], used: Sequence[str], pairs: Sequence[PromptPair]
    ) -> tuple[str, ...]:
        left = [column for column in columns if column and column not in ("clean", self.corrupted, *used)]
        notes = [f"left out: the columns {', '.join(left)}"] if left else []
        if pairs:
            right, wrong = _quoted(pairs[0].answers), _quoted(pairs[0].wrong_answers)
            notes.append(
                f"{' and '.join(used)}: the first prompt's answers are {right}, its wrong ones {wrong}"
            )
        return tuple(notes)

    def _few(self, items: Iterable[Any]) -> Iterator[Any]:
        """The items. Raises TaskError where they are too many."""
        for number, item in enumerate(items):
            if number == MOST_PROMPTS:
                raise TaskError(f"{self.path} holds more than {MOST_PROMPTS:,} prompts. Cut it.")
            yield item

    def _objects(self, text: str, notes: Counter[str]) -> Iterator[dict[str, Any]]:
        """The JSON objects in a text, one after the other, those of one list, or those under "prompts".

        What stands beside these is left out and noted.
        """
        if text.count("{") + text.count("[") > MOST_OBJECTS:
            raise TaskError(f"{self.path} holds more than {MOST_OBJECTS:,} lists and objects.")
        decoder, place = json.JSONDecoder(object_pairs_hook=once), 0
        while (place := _skip_blank(text, place)) < len(text):
            try:
                data, place = decoder.raw_decode(text, place)
            except (ValueError, RecursionError) as error:
                line = text.count("\n", 0, place) + 1
                why = "" if isinstance(error, json.JSONDecodeError | RecursionError) else f": {error}"
                raise TaskError(f"{self.path}, line {line}: no whole JSON object{why}.") from None
            if isinstance(data, dict) and isinstance(data.get("prompts"), list):
                beside = [name for name in data if name != "prompts"]
                notes.update([f"beside the prompts, left out: {_named(beside)}"] if beside else [])
                data = data["prompts"]
            for item in data if isinstance(data, list) else [data]:
                if not isinstance(item, dict):
                    raise TaskError(f"{self.path}: {shown(item)} is no object with clean and corrupted.")
                yield item

    def _json_pair(self, where: str, data: Mapping[str, Any]) -> tuple[PromptPair, tuple[str, ...]]:
        """The pair, and what is to be told of it."""
        key = next((name for name in SENTENCES if f"corr_{name}" in data), None)
        if key is not None:
            return self._of_sentences(data, key, where), ()
        if "prefix" in data:
            return self._of_task(data, where), ()
        if "prompt" in data:
            return self._of_mib(data, where)
        if "answers" in data and {"corrupt", self.corrupted} & set(data):
            return self._of_autocircuit(data, where), ()
        return self._of_texts(data, where)

    def _of_texts(self, data: Mapping[str, Any], where: str) -> tuple[PromptPair, tuple[str, ...]]:
        """The pair of clean and corrupted, the answers marked in them or in columns beside them."""
        if "clean" not in data and set(data) & set(NO_ANSWERS):
            self._answers(data)
        texts = [self._text(data, name, where) for name in ("clean", self.corrupted)]
        found = [_MARKED.match(text) for text in texts]
        if found[0] is None:
            if not set(data) & {*YEARS, *NO_ANSWERS, *(ids.right for ids in ID_COLUMNS)}:
                raise self.error(
                    where, "its clean text marks no answer. Write one as '1 + 2 = <predict>3</predict>'."
                )
            right, wrong = self._answers(data)[0].of(texts[0], data, where)
            return self._pair(where, texts[0], texts[1], right, wrong), ()
        prompts = [
            text if match is None else match["prompt"] for text, match in zip(texts, found, strict=True)
        ]
        answers = [() if match is None else (match["space"] + match["answer"],) for match in found]
        more = any(
            match is not None and text[match.end() :].strip()
            for text, match in zip(texts, found, strict=True)
        )
        wrong = answers[1] if answers[1] != answers[0] else ()
        return self._pair(where, prompts[0], prompts[1], answers[0], wrong), (CUT,) if more else ()

    def _of_autocircuit(self, data: Mapping[str, Any], where: str) -> PromptPair:
        """The pair of AutoCircuit's clean and corrupt, with lists of answers: texts, or token ids."""
        corrupted = "corrupt" if "corrupt" in data else self.corrupted
        clean, other = (self._text(data, name, where) for name in ("clean", corrupted))
        right, wrong = (
            self._listed(data.get(name, []), name, where) for name in ("answers", "wrong_answers")
        )
        return self._pair(where, clean, other, right, wrong)

    def _listed(self, value: object, name: str, where: str) -> list[object]:
        """Answers in a list; token ids become their texts."""
        if not isinstance(value, list):
            raise self.error(where, f"its {name} is {shown(value)}; it must be a list.")
        if all(type(item) is int for item in value):
            return [spell(token, self.the_tokenizer(), f"{self.path}, {where}") for token in value]
        return value

    def _of_task(self, data: Mapping[str, Any], where: str) -> PromptPair:
        """The pair of one of Edge-Pruning's own tasks."""
        prompts = [self._text(data, name, where).rstrip() for name in ("prefix", "corr_prefix")]
        if "digits" in data:
            right, wrong = Year(self, "digits").of(prompts[0], data, where)
        else:
            answers = (self._text(data, name, where) for name in ("pronoun", "corr_pronoun"))
            right, wrong = ((answer if answer[:1].isspace() else f" {answer}",) for answer in answers)
        return self._pair(where, prompts[0], prompts[1], right, wrong)

    def _of_sentences(self, data: Mapping[str, Any], key: str, where: str) -> PromptPair:
        """The pair of two sentences of which the last word is the answer."""
        (clean, right), (corrupted, _) = (
            _split(self._text(data, name, where)) for name in (key, f"corr_{key}")
        )
        wrong = (f" {data['b'].strip()}",) if isinstance(data.get("b"), str) else ()
        return self._pair(where, clean, corrupted, (right,), wrong)

    def _of_mib(self, data: Mapping[str, Any], where: str) -> tuple[PromptPair, tuple[str, ...]]:
        """The pair of MIB's prompt and one of its counterfactuals."""
        column = self._counterfactual(data, where)
        other = data[column]
        if not isinstance(other, dict):
            raise self.error(
                where, f"its {column} is {shown(other)}; it must be an object with a prompt."
            )
        names = data.get("metadata")
        if isinstance(names, dict) and "indirect_object" in names:
            right, wrong = (
                " " + self._text(names, name, where) for name in ("indirect_object", "subject")
            )
        else:
            right, wrong = (self._chosen(each, where) for each in (data, other))
        prompts = [self._text(each, "prompt", where) for each in (data, other)]
        pair = self._pair(where, prompts[0], prompts[1], (right,), (wrong,) if wrong != right else ())
        more = [name for name in data if name.endswith("_counterfactual") and name != column]
        note = f"corrupted prompts are those of {column}"
        return pair, (note + (f"; --corrupted takes {_named(more)}" if more else ""),)

    def _counterfactual(self, data: Mapping[str, Any], where: str) -> str:
        """The column of the corrupted prompts: the one asked for, the only one, or the one that MIB takes."""
        columns = [name for name in data if name.endswith("_counterfactual")]
        if self.corrupted in data:
            return self.corrupted
        if self.corrupted == "corrupted":
            found = (
                columns
                if len(columns) == 1
                else [name for name in MIB_COUNTERFACTUALS if name in columns]
            )
            if len(found) == 1:
                return found[0]
        raise self.error(
            where,
            f"which column has the corrupted prompts? It has {_named(columns or list(data))}: "
            "name one with --corrupted.",
        )

    def _chosen(self, data: Mapping[str, Any], where: str) -> str:
        """MIB's answer: a number or text called label, or the label of the choice that answerKey
        counts to.
        """
        value = data.get("label")
        if "choices" not in data and (isinstance(value, str) or type(value) is int):
            return str(value)
        choices, key = data.get("choices"), data.get("answerKey")
        labels = choices.get("label") if isinstance(choices, dict) else choices
        if (
            isinstance(labels, list)
            and type(key) is int
            and 0 <= key < len(labels)
            and isinstance(labels[key], str)
        ):
            return str(labels[key])
        raise self.error(
            where, "it has no answer: neither a label, nor choices and an answerKey that counts to one."
        )

    def _text(self, data: Mapping[str, Any], name: str, where: str) -> str:
        value = data.get(name)
        if name in data and not isinstance(value, str):
            raise self.error(where, f"its {cut(name)} is {shown(value)}; it must be a text.")
        if not isinstance(value, str):
            raise self.error(where, f"it has no text '{cut(name)}'.")
        return value

    def the_tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises UsageError if none is given."""
        if self.tokenizer is None:
            raise UsageError(
                f"{self.path} has answers as token ids or a year. Say which model's they are with --model."
            )
        return self.tokenizer

    @cached_property
    def spells_years(self) -> bool:
        """Whether the model has a token for each two digits of a year."""
        return all(is_single_token(self.the_tokenizer(), year) for year in YEARS_OF_A_CENTURY)

    def error(self, where: str, problem: str) -> TaskError:
        """The error that says so of a row."""
        return TaskError(f"{self.path}, {where}: {problem}")


@dataclass(frozen=True)
class TokenIds:
    """Answers in two columns of token ids."""

    rows: Rows
    columns: IdColumns

    def of(
        self, clean: str, row: Mapping[str, Any], where: str
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The right answers' texts and the wrong ones'. Raises TaskError where they are not what
        stands beside them.
        """
        right, wrong = (
            self._texts(row, name, where) for name in (self.columns.right, self.columns.wrong)
        )
        for texts, column in zip((right, wrong), self.columns.texts or (), strict=False):
            beside = str(row.get(column) or "")
            odd = next((text for text in texts if beside and text.strip() not in beside), None)
            if odd is not None:
                raise self.rows.error(
                    where,
                    f"a token id means '{odd}' in this model, and its {column} is {shown(beside)}. "
                    "Name the model whose tokens they are.",
                )
        return right, wrong

    def _texts(self, row: Mapping[str, Any], column: str, where: str) -> tuple[str, ...]:
        place = f"{self.rows.path}, {where}"
        return tuple(
            spell(token, self.rows.the_tokenizer(), place) for token in ids(row[column], column, place)
        )


@dataclass(frozen=True)
class Year:
    """Answers by a year in one column: every later one of its century is right."""

    rows: Rows
    column: str

    def of(
        self, clean: str, row: Mapping[str, Any], where: str
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The later years' last two digits, and the others'. Raises TaskError where the prompt
        names no such year.
        """
        value = str(row[self.column])[:100].strip()
        place = _place_in_century(value, clean)
        if place is None:
            raise self.rows.error(
                where,
                f"its {self.column} is {shown(value)}, and the clean prompt does not end in a century and"
                f" name its year that ends so: {shown(clean[-100:])}.\n{self._why()}",
            )
        if not self.rows.spells_years:
            raise self.rows.error(
                where,
                "this model has not a token for each two digits of a year, which such prompts are scored by. "
                "The task greater-than makes prompts that suit it.",
            )
        return YEARS_OF_A_CENTURY[place + 1 :], YEARS_OF_A_CENTURY[: place + 1]

    def _why(self) -> str:
        alone = "correct_idx without incorrect_idx may be a year or a token id. "
        return f"{alone * (self.column == 'correct_idx')}Token ids stand in two columns: {_known_ids()}."


Answers = TokenIds | Year


def _place_in_century(value: str, clean: str) -> int | None:
    """Which year of the century that the clean prompt ends in ``value`` is; None unless the prompt
    names that year.
    """
    century = re.search(r"(?<!\d)(\d\d)\s*\Z", clean, re.ASCII)
    digits = re.fullmatch(r"(\d\d)?(\d{1,2})", value, re.ASCII)
    if century is None or digits is None or digits[1] not in (None, century[1]):
        return None
    year = f"{century[1]}{digits[2]:0>2}"
    return int(digits[2]) if re.search(rf"(?<!\d){year}(?!\d)", clean, re.ASCII) else None


def ids(value: object, column: str, where: str) -> list[int]:
    """The token ids in a field: one, or a list of them. Raises TaskError."""
    try:
        data = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        data = None
    found: list[Any] = data if isinstance(data, list) else [data]
    whole = [
        int(one) for one in found if type(one) in (int, float) and math.isfinite(one) and one == int(one)
    ]
    if len(whole) < len(found) or not found or min(whole) < 0:
        raise TaskError(
            f"{where}: its {column} is {shown(value)}; it must be a token id, or a JSON list of them."
        )
    return whole


def spell(token: int, tokenizer: Tokenizer, where: str) -> str:
    """The text of a token id, which is that token behind a prompt. Raises TaskError for an id that
    is none.
    """
    try:
        text = tokenizer.decode([token])
    except (IndexError, OverflowError, ValueError, TypeError):
        text = ""
    if not text or tokenizer.continuation(text)[:1] != [token]:
        raise TaskError(
            f"{where}: the token id {cut(str(token))} ('{cut(text)}') is no answer in this model. "
            "Name the one whose tokens they are."
        )
    return text


def _skip_blank(text: str, place: int) -> int:
    match = _BLANK.match(text, place)
    return place if match is None else match.end()


def _split(sentence: str) -> tuple[str, str]:
    """A sentence up to its last word, and that with the space before it."""
    rest, _, word = sentence.rstrip().rpartition(" ")
    return rest, f" {word}"


def _known_ids() -> str:
    return ", ".join(f"{ids.right} with {ids.wrong}" for ids in ID_COLUMNS)


def _quoted(texts: Sequence[str]) -> str:
    """The first texts of some, as a message shows them."""
    return " ".join(f"'{text}'" for text in texts[:2]) or "none"


def _named(names: Sequence[object]) -> str:
    """The names of columns as a message shows them."""
    shown_names = [str(name)[:60] for name in names if name][:30]
    return ", ".join(shown_names) + (", ..." if len(names) > 30 else "") or "none"
