"""Tensors in a safetensors file from anywhere, as numpy arrays of the shapes that are asked for. No torch."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open

from circuitfind.errors import CircuitError
from circuitfind.files.json_file import fit, parse_json

NUMBERS = ("F16", "F32", "F64")
"""The dtypes of scores."""


def read_metadata(path: Path) -> dict[str, str]:
    """The texts in a file's head. Raises CircuitError for a file that is no safetensors."""
    with _open(path) as file:
        return dict(file.metadata() or {})


def read_tensors(
    path: Path, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Float[np.ndarray, "*shape"]]:
    """The tensors of these names, float64.

    Raises CircuitError for a file that is none, that lacks one of them, and for other shapes or
    dtypes, which are looked at before a number is read.
    """
    with _open(path) as file:
        for name, shape in shapes.items():
            _check(path, name, shape, file)
        return {name: np.asarray(file.get_tensor(name), np.float64) for name in shapes}


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except OSError as error:
        raise CircuitError(
            f"Cannot read {path}: {error.strerror or 'it is no file of tensors'}."
        ) from None
    except (SafetensorError, ValueError):  # ValueError: a path with a NUL
        raise CircuitError(f"{path} is damaged, or no file of tensors (safetensors).") from None


def names_in(metadata: Mapping[str, str], key: str, path: Path) -> list[str]:
    """The list of names that the metadata hold as JSON. Raises CircuitError."""
    source = f"{path}: its metadata's {key!r}"
    return fit(parse_json(metadata.get(key, "[]"), source), list[str], source)


def _check(path: Path, name: str, shape: tuple[int, ...], file: Any) -> None:
    if name not in file.keys():  # noqa: SIM118  a file has no other list of them
        raise CircuitError(f"{path} lacks the tensor '{name}'.")
    stored = file.get_slice(name)
    if stored.get_dtype() not in NUMBERS:
        raise CircuitError(
            f"{path}: its '{name}' are {stored.get_dtype()}; they must be {', '.join(NUMBERS)}."
        )
    if tuple(stored.get_shape()) != shape:
        said = (
            f"the shape {list(stored.get_shape())}; {list(shape)} is asked for, {math.prod(shape):,}"
            " numbers"
        )
        raise CircuitError(f"{path}: its '{name}' have {said}.")
