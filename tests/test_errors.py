"""The tree of errors, and what a name that nothing answers to is told."""

from __future__ import annotations

import inspect

import pytest

from circuitfind import errors
from circuitfind.errors import CircuitfindError, unknown


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
def test_an_unknown_name_is_told_the_nearest_and_all_there_are(name: str, known: list[str], message: str) -> None:
    assert unknown("task", name, known) == message


def test_a_plural_that_is_not_regular_can_be_given() -> None:
    assert unknown("device", "gpu", ["cpu"], plural="choices").endswith("Choices: cpu.")
