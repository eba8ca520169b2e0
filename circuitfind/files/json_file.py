"""JSON files from anywhere, read once, at the edge, through a schema: a class that says which keys
there are and of what kind.

    class Task(Schema, frozen=True):
        name: Name = ""
        n_prompts: Annotated[int, Meta(ge=1, le=MOST_PROMPTS)] | None = None

    task = read_json(path, Task, TaskError)

What doesn't fit is one line that names the file, the key, what stands there and what must. Keys
that the schema lacks are left alone: a newer version may add some, and a file's own "version" says
when it can't be read any more.

A file can't cost more than it is worth: its bytes, values and depth are bounded before anything is
made of them; NaN, infinite numbers, and a key that stands in an object twice, which JSON's readers
let through, are refused.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
import msgspec.inspect
from msgspec import Meta

from circuitfind.errors import CircuitError, CircuitfindError, shown

MOST_BYTES = 1 << 28
MOST_OBJECTS = 3_000_000
"""Lists and objects in one file: an 8B model has 1.6 million edges, an object each in some formats."""
MOST_VALUES = 10_000_000
MOST_DEPTH = 64
LONGEST_NUMBER = 400
"""Digits: 309 of them are the largest number; tokenizers' files write 10^30 for "no limit"."""

Name = Annotated[str, Meta(max_length=4096, pattern=r"\A[^\x00]*\Z")]
"""A name, which may be a path: no NUL in it."""
Text = Annotated[str, Meta(max_length=100_000)]

T = TypeVar("T")
if TYPE_CHECKING:
    Kind = type[T]
else:
    Kind = type[T] | Any  # dict[str, float] is no class to those that check types while tests run
Error = type[CircuitfindError]


class Schema(msgspec.Struct, kw_only=True, frozen=True):
    """An object of a file: its fields are the keys that are read. Those without a default must be there."""


def read_json(
    path: Path, schema: Kind[T], error: Error = CircuitError, most_bytes: int = MOST_BYTES
) -> T:
    """The file's content as ``schema``. Raises ``error`` naming the file and what is wrong with it."""
    return decode_json(read_text(path, error, most_bytes), schema, str(path), error)


def decode_json(text: str, schema: Kind[T], source: str, error: Error = CircuitError) -> T:
    """The text's content as ``schema``. Raises ``error`` naming ``source`` and what is wrong with it."""
    return fit(parse_json(text, source, error), schema, source, error)


def read_text(path: Path, error: Error = CircuitError, most_bytes: int = MOST_BYTES) -> str:
    """The text of a file in UTF-8. Raises ``error`` where it can't be read, is no text or is too large."""
    try:
        return read_bytes(path, error, most_bytes).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise error(f"Cannot read {path}: it is not text.") from None


def read_bytes(path: Path, error: Error = CircuitError, most_bytes: int = MOST_BYTES) -> bytes:
    """The bytes of a file. Raises ``error`` where it can't be read or is too large: no more than
    that is read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)
    except OSError as problem:
        raise error(f"Cannot read {path}: {problem.strerror}.") from None
    except ValueError:
        raise error(f"Cannot read {shown(path)}: no file can be named so.") from None  # a NUL
    if len(data) > most_bytes:
        raise error(f"{path} has more than {most_bytes:,} bytes; no file of its kind has so many.")
    return data


def parse_json(text: str, source: str, error: Error = CircuitError) -> Any:
    """The values that a JSON text holds. Raises ``error`` for what is no JSON, too deep, or too much."""
    n_objects = text.count("[") + text.count("{")
    if n_objects > MOST_OBJECTS or text.count(",") > MOST_VALUES:
        raise error(
            f"{source} holds more than {MOST_OBJECTS:,} lists and objects or {MOST_VALUES:,} values."
        )
    try:
        value = _LOADER.decode(text)
    except json.JSONDecodeError as problem:
        raise error(f"{source} is not whole JSON: {problem.msg} in line {problem.lineno}.") from None
    except _NotJsonError as problem:
        raise error(f"{source}: {problem}.") from None
    except RecursionError:
        raise error(f"{source} is nested too deeply.") from None
    if n_objects > MOST_DEPTH and depth(value) > MOST_DEPTH:
        raise error(f"{source} is nested too deeply: more than {MOST_DEPTH} levels.")
    return value


def depth(value: object) -> int:
    """How deep lists and objects stand in one another; 0 of a number."""
    level, levels = [value] if isinstance(value, dict | list) else [], 0
    while level:
        level = [inner for outer in level for inner in _inner(outer) if isinstance(inner, dict | list)]
        levels += 1
    return levels


def fit(value: Any, schema: Kind[T], source: str, error: Error = CircuitError, where: str = "") -> T:
    """``value``, made of JSON values, as ``schema``. Raises ``error`` naming the key that doesn't fit.

    ``where``: what ``value`` is in ``source``, such as "metrics", where it is not the whole.
    """
    try:
        return msgspec.convert(value, schema)
    except msgspec.ValidationError as problem:
        raise error(source + _explain(value, schema, str(problem), where)) from None
    except UnicodeEncodeError:
        raise error(f"{source} holds half a character (a lone surrogate).") from None


class _NotJsonError(ValueError):
    """What Python's reader lets through. Its text says what."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        times = Counter(key for key, _ in pairs)
        twice = next(key for key in times if times[key] > 1)
        raise _NotJsonError(f"{shown(twice)} stands in it twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _NotJsonError(f"the number {shown(text)} is too large")
    return number


def _whole(text: str) -> int:
    if len(text) > LONGEST_NUMBER:
        raise _NotJsonError(f"it holds a number that is too long, of {len(text):,} digits")
    return int(text)


def _no_number(text: str) -> float:
    raise _NotJsonError(f"it holds {text}, which is no number")


_LOADER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_finite, parse_int=_whole, parse_constant=_no_number
)


# what is wrong, in words

_PROBLEM = re.compile(r"(?P<said>.*?)(?: - at (?:`key` in )?`\$(?P<path>.*)`)?", re.DOTALL)
_STEP = re.compile(r"\.(?P<key>[^.\[\]]+)|\[(?P<index>\d+)\]|(?P<any>\[\.\.\.\])")
_EXPECTED = re.compile(r"Expected (?P<kinds>`[^`]*`)(?P<rest>.*)", re.DOTALL)
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


def _explain(value: Any, schema: Any, problem: str, where: str) -> str:
    """What doesn't fit, to follow the file's name: the key, its value and what it must be."""
    found = _PROBLEM.fullmatch(problem)
    assert found is not None
    names, inner = _follow(value, schema, found["path"] or "", problem)
    key = ".".join(filter(None, (where, *names)))
    missing = re.fullmatch(r"Object missing required field `(.*)`", found["said"])
    if missing:
        return f' lacks "{key + "." if key else ""}{missing[1]}".'
    subject = f'its "{shown(key, quote=False)}"' if key else "it"
    must = _requirement(found["said"], _choices(schema, names))
    return f": {subject} is {shown(inner)}; it must be {must}."


def _follow(value: Any, schema: Any, path: str, problem: str) -> tuple[list[str], Any]:
    """The keys on the way to what doesn't fit, and that."""
    names, inner = [], value
    for step in _STEP.finditer(path):
        if step["any"]:
            key: Any = _first_wrong(inner, lambda: _fails(value, schema, problem))
        else:
            key = int(step["index"]) if step["index"] else step["key"]
        names.append(str(key))
        inner = inner[key]
    return names, inner


def _fails(value: Any, schema: Any, problem: str) -> bool:
    """Whether ``value`` doesn't fit for the same reason."""
    try:
        msgspec.convert(value, schema)
    except msgspec.ValidationError as other:
        return str(other) == problem
    return False


def _first_wrong(among: dict[str, Any], fails: Callable[[], bool]) -> str:
    """The key of ``among``, which stands in a value that ``fails``, for which it does. Leaves it
    alone in there.
    """
    items = list(among.items())
    while len(items) > 1:
        half = items[: len(items) // 2]
        among.clear()
        among.update(half)
        items = half if fails() else items[len(items) // 2 :]
    among.clear()
    among.update(items)
    return items[0][0]


def _requirement(said: str, choices: Iterable[object]) -> str:
    """What a value must be, as msgspec says it, in words."""
    match = _EXPECTED.fullmatch(said)
    if match is None:
        return (
            "smaller" if said == "Number out of range" else " or ".join(map(shown, choices)) or "another"
        )
    kinds = [_KINDS.get(kind.strip(), kind.strip()) for kind in match["kinds"].strip("`").split("|")]
    rest = re.sub(r", got .*", "", match["rest"], flags=re.DOTALL)
    if "matching regex" in rest:
        return f"{kinds[0]} of other characters"
    unit = " characters" if "length" in rest and kinds == ["a text"] else ""
    rest = rest.replace(" of length", "")
    for sign, word in (("<=", "of at most"), (">=", "of at least"), ("<", "below"), (">", "above")):
        rest = rest.replace(f" {sign} ", f" {word} ")
    rest = re.sub(r"(?<![\d.])\d{4,}(?![\d.])", lambda number: f"{int(number[0]):,}", rest)
    return " or ".join(kinds) + (f" of{rest}" if re.match(r" \d", rest) else rest) + unit


def _choices(schema: Any, names: Sequence[str]) -> tuple[object, ...]:
    """The values that the schema takes where only some words are taken."""
    kinds = [msgspec.inspect.type_info(schema)]
    for name in names:
        kinds = [inner for kind in _alternatives(kinds) for inner in _kinds_at(kind, name)]
    found = (
        kind.values for kind in _alternatives(kinds) if isinstance(kind, msgspec.inspect.LiteralType)
    )
    return tuple(value for values in found for value in values)


def _alternatives(kinds: Iterable[msgspec.inspect.Type]) -> Iterator[msgspec.inspect.Type]:
    """Each kind, and of a union those that it is of."""
    for kind in kinds:
        yield from kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)


def _kinds_at(kind: msgspec.inspect.Type, name: str) -> Iterator[msgspec.inspect.Type]:
    """What a value of this kind has at that key or place."""
    if isinstance(kind, msgspec.inspect.StructType):
        yield from (field.type for field in kind.fields if field.encode_name == name)
    elif isinstance(kind, msgspec.inspect.DictType):
        yield kind.value_type
    elif isinstance(kind, msgspec.inspect.ListType | msgspec.inspect.VarTupleType):
        yield kind.item_type
    elif isinstance(kind, msgspec.inspect.TupleType):
        yield kind.item_types[int(name)]


def _inner(value: dict[str, Any] | list[Any]) -> Iterator[Any]:
    return iter(value.values() if isinstance(value, dict) else value)


def json_file(value: Any) -> str:
    """A JSON document for people and programs."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
