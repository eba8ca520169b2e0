"""JSON from anywhere through a schema: what fits is read, what doesn't is one line that names file, key and value."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

import pytest
from msgspec import Meta, field

from circuitfind.errors import CircuitError, TaskError
from circuitfind.files.json_file import (
    MOST_DEPTH,
    Name,
    Schema,
    decode_json,
    depth,
    fit,
    parse_json,
    read_bytes,
    read_json,
)


class Inner(Schema, frozen=True):
    share: Annotated[float, Meta(ge=0, le=1)] = 0.5


class Item(Schema, frozen=True):
    kind: Literal["first"]


class Outer(Schema, frozen=True):
    name: Name
    number: Annotated[int, Meta(ge=1, le=10)] = 1
    inner: Inner = Inner()
    pair: tuple[float, float] | None = None
    scores: dict[str, float] = field(default_factory=dict)
    kind: Literal["edges", "nodes"] = "edges"
    texts: str | list[str] = ""
    items: list[Item] | None = None
    short: Annotated[str, Meta(max_length=3)] = ""
    large: Annotated[int, Meta(le=4000)] = 0


def test_what_fits_is_read_and_other_keys_are_left_alone() -> None:
    read = decode_json(
        '{"name": "a", "number": 3, "inner": {"share": 1, "new": []}, "newer": {}}', Outer, "f.json"
    )
    assert read == Outer(name="a", number=3, inner=Inner(share=1))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "f.json is not whole JSON: Expecting value in line 1."),
        ('{"name": "a",\n', "f.json is not whole JSON: Expecting property name enclosed in double quotes in line 2."),
        ("[1]", "f.json: it is [1]; it must be an object."),
        ("{}", 'f.json lacks "name".'),
        ('{"name": "a", "inner": 5}', 'f.json: its "inner" is 5; it must be an object.'),
        ('{"name": "a", "inner": {"share": 2}}', 'f.json: its "inner.share" is 2; it must be a number of at most 1.0.'),
        ('{"name": null}', 'f.json: its "name" is null; it must be a text.'),
        ('{"name": "a\\u0000b"}', "f.json: its \"name\" is 'a\\x00b'; it must be a text of other characters."),
        ('{"name": "a", "number": true}', 'f.json: its "number" is true; it must be a whole number.'),
        ('{"name": "a", "number": 1.5}', 'f.json: its "number" is 1.5; it must be a whole number.'),
        ('{"name": "a", "pair": [1, "x"]}', "f.json: its \"pair.1\" is 'x'; it must be a number."),
        ('{"name": "a", "pair": [1]}', 'f.json: its "pair" is [1]; it must be a list of 2.'),
        ('{"name": "a", "scores": {"x": 1, "y": {}}}', 'its "scores.y" is an empty object; it must be a number'),
        ('{"name": "a", "scores": {"x": %s}}' % ("9" * 390), "it must be smaller."),
        ('{"name": "a", "kind": "x"}', "f.json: its \"kind\" is 'x'; it must be 'edges' or 'nodes'."),
        ('{"name": "a", "items": [{"kind": "x"}]}', "its \"items.0.kind\" is 'x'; it must be 'first'."),
        ('{"name": "a", "short": "abcd"}', "its \"short\" is 'abcd'; it must be a text of at most 3 characters."),
        ('{"name": "a", "large": 5000}', 'its "large" is 5000; it must be a whole number of at most 4,000.'),
        ('{"name": "a", "texts": 1}', 'f.json: its "texts" is 1; it must be a text or a list.'),
        ('{"name": "a", "name": "b"}', "f.json: 'name' stands in it twice."),
        ('{"name": NaN}', "f.json: it holds NaN, which is no number."),
        ('{"name": -Infinity}', "f.json: it holds -Infinity, which is no number."),
        ('{"x": 1e999}', "f.json: the number '1e999' is too large."),
        ('{"x": %s}' % ("9" * 9999), "f.json: it holds a number that is too long, of 9,999 digits."),
        ("[" * 200_000, "f.json is nested too deeply."),
        ("[" * 100 + "]" * 100, "f.json is nested too deeply: more than 64 levels."),
        ("[" + "[]," * 3_000_000 + "1]", "f.json holds more than 3,000,000 lists and objects or 10,000,000 values."),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_in_one_line(text: str, said: str) -> None:
    begun = time.perf_counter()
    with pytest.raises(TaskError) as caught:
        decode_json(text, Outer, "f.json", TaskError)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.perf_counter() - begun < 5


def test_a_long_value_is_cut() -> None:
    with pytest.raises(CircuitError) as caught:
        decode_json('{"name": "a", "number": "%s"}' % ("long " * 99999), Outer, "f.json")
    assert len(str(caught.value)) < 300


def test_a_part_of_a_file_is_named_by_where_it_stands() -> None:
    with pytest.raises(CircuitError, match=r'f.json: its "tasks.0.inner" is 5'):
        fit({"name": "a", "inner": 5}, Outer, "f.json", where="tasks.0")
    with pytest.raises(CircuitError, match=r'f.json lacks "tasks.0.name"'):
        fit({}, Outer, "f.json", where="tasks.0")


def test_depth_is_counted_in_lists_and_objects() -> None:
    assert [depth(value) for value in (1, [], {"a": 1}, [[], {"a": [1]}])] == [0, 1, 1, 3]
    deepest = "[" * MOST_DEPTH + "]" * MOST_DEPTH
    assert depth(parse_json(deepest, "f.json")) == MOST_DEPTH


def test_a_file_is_read_with_its_name_in_every_message(tmp_path: Path) -> None:
    good, picture, folder = tmp_path / "good.json", tmp_path / "picture.json", tmp_path
    good.write_text('\N{BYTE ORDER MARK}{"name": "größer"}', encoding="utf-8")
    picture.write_bytes(b"\x89PNG\xff\xfe")
    assert read_json(good, Outer).name == "größer"
    for path, reason in (
        (picture, "it is not text"),
        (folder, "Is a directory"),
        (tmp_path / "no", "No such file"),
    ):
        with pytest.raises(CircuitError, match=f"Cannot read {path}: {reason}"):
            read_json(path, Outer)
    with pytest.raises(CircuitError, match="no file can be named so"):
        read_json(Path("a\0b"), Outer)


def test_no_more_of_a_file_is_read_than_one_of_its_kind_has() -> None:
    with pytest.raises(CircuitError, match="more than 1,000 bytes"):
        read_bytes(Path("/dev/zero"), most_bytes=1000)
