"""A circuit as files for other programs and for papers.

``FORMATS`` names every format and the function that writes it; a new format is a function from a circuit to bytes and
a line here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

from circuitfind.circuit import Circuit
from circuitfind.comparison import Comparison
from circuitfind.errors import OutputError, UsageError, unknown
from circuitfind.export.dot import circuit_to_dot
from circuitfind.export.picture import PICTURE_FORMATS, render

__all__ = ["FORMATS", "TEXT_FORMATS", "circuit_to_dot", "export_circuit", "export_comparison", "render", "writer"]


def _dot(circuit: Circuit) -> bytes:
    return circuit_to_dot(circuit).encode()


def _picture(format: str, circuit: Circuit) -> bytes:
    return render(circuit_to_dot(circuit), format)


FORMATS: Mapping[str, Callable[[Circuit], bytes]] = MappingProxyType(
    {"dot": _dot, **{format: partial(_picture, format) for format in PICTURE_FORMATS}}
)
TEXT_FORMATS = frozenset({"dot", "svg"})  # what a terminal or a pipe can show


def writer(format: str) -> Callable[[Circuit], bytes]:
    """The function that writes ``format``. Raises UsageError, suggesting the nearest, if there is none."""
    if format not in FORMATS:
        raise UsageError(unknown("export format", format, FORMATS))
    return FORMATS[format]


def export_circuit(circuit: Circuit, format: str, path: Path) -> None:
    """Writes ``circuit`` to ``path``, whole or not at all; what was there is replaced.

    Raises UsageError for an unknown format and OutputError where ``path`` can't be written.
    """
    _write(path, writer(format)(circuit))


def export_comparison(comparison: Comparison, path: Path) -> None:
    """Writes both circuits in one picture, in the format that ``path`` ends in; what was there is replaced.

    An edge has the score that it has now, one that was lost the score that it had. Raises as ``export_circuit`` does.
    """
    format = path.suffix.removeprefix(".").lower()
    writer(format)
    before, after = comparison.before, comparison.after
    both = replace(after, edges={**before.edges, **after.edges})
    marks = {e: "gained" if e in comparison.gained else "lost" if e in comparison.lost else "both" for e in both.edges}
    dot = circuit_to_dot(both, marks=marks)
    _write(path, dot.encode() if format == "dot" else render(dot, format))


def _write(path: Path, content: bytes) -> None:
    try:
        _replace(path, content)
    except OSError as error:
        raise OutputError(f"Cannot write {path}: {error.strerror}. Give another place with --out.") from None


def _replace(path: Path, content: bytes) -> None:
    """Writes beside ``path`` first, so that a full disk or a Ctrl-C leaves no half a file there."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
