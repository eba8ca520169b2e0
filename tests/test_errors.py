"""The tree of errors, and what a name that nothing answers to is told."""

from __future__ import annotations

import inspect

import pytest

from circuitfind import errors
from circuitfind.errors import CircuitfindError, shorten, shown, unknown


def test_every_error_is_drawn_in_the_tree_and_stands_under_its_root() -> None:
    own = ((name, value) for name, value in vars(errors).items() if inspect.isclass(value))
    classes = {name: value for name, value in own if value.__module__ == errors.__name__}
    assert len(classes) >= 6
    assert all(issubclass(value, CircuitfindError) for value in classes.values())
    assert all(name in (errors.__doc__ or "") for name in classes)


@pytest.mark.parametrize(
    ("name", "known", "message"),
    [
        (
            "greaterthan",
            ["ioi", "greater-than"],
            "No task named 'greaterthan'. Did you mean 'greater-than'? Tasks: greater-than, ioi.",
        ),
        ("IOI", ["ioi", "docstring"], "No task named 'IOI'. Did you mean 'ioi'? Tasks: docstring, ioi."),
        ("zebra", ["ioi", "docstring"], "No task named 'zebra'. Tasks: docstring, ioi."),
        ("", ["ioi"], "No task named ''. Tasks: ioi."),
        ("qwen", ["Qwen2", "GPT2"], "No task named 'qwen'. Did you mean 'Qwen2'? Tasks: GPT2, Qwen2."),
    ],
)
def test_an_unknown_name_is_told_the_nearest_and_all_there_are(
    name: str, known: list[str], message: str
) -> None:
    assert unknown("task", name, known) == message


def test_a_plural_that_is_not_regular_can_be_given() -> None:
    assert unknown("device", "gpu", ["cpu"], plural="choices").endswith("Choices: cpu.")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("ioi", "'ioi'"),
        (1.5, "1.5"),
        (None, "null"),
        ({"a": [1, True]}, "{'a': [1, true]}"),
        ([[[[1]]]], "[[...]]"),
        (list(range(99)), "[0, 1, 2, 3, 4, ...]"),
        ("a\nb\x1b[31m\ud800 größer", "'a\\nb\\x1b[31m\\ud800 größer'"),
        ("x y " * 999, "'" + "x y " * 50 + "...'"),
    ],
)
def test_a_value_is_shown_as_far_as_it_helps(value: object, said: str) -> None:
    assert shown(value) == said


def test_a_message_never_carries_more_than_200_characters_of_a_value() -> None:
    for long in ("x" * 10**6, "x " * 10**6):
        said = str(CircuitfindError(f"The model's name is '{long}', which is none. Give another."))
        assert said.startswith("The model's name is 'x") and "x..." in said.replace("x ...", "x...")
        assert said.count("x") <= 202
    assert said.endswith("', which is none. Give another.") or len(said) < 400
    listed = "Tasks: " + ", ".join(f"task-{number}" for number in range(60)) + "."
    assert str(CircuitfindError(listed)) == listed == shorten(listed)
