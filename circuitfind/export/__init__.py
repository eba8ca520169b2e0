"""A circuit as files for other programs and for papers; ``export/catalogue.py`` names every format."""

from __future__ import annotations

import os
from pathlib import Path

from circuitfind.circuits.compare import Comparison
from circuitfind.errors import OutputError, UsageError
from circuitfind.export.catalogue import DRAWN, FORMATS, Format, find_format, format_of
from circuitfind.export.drawing.highlight import EARLIER, Highlight
from circuitfind.export.drawing.subject import Look, Subject
from circuitfind.export.formats.dot import circuit_to_dot
from circuitfind.export.formats.picture import render
from circuitfind.files.links import open_new

__all__ = [
    "FORMATS",
    "Format",
    "Look",
    "Subject",
    "circuit_to_dot",
    "export_comparison",
    "export_subject",
    "find_format",
    "render",
]


def export_subject(subject: Subject, format: str, path: Path) -> None:
    """Writes the circuit to ``path``, whole or not at all; what was there is replaced.

    Raises UsageError for an unknown format and OutputError where ``path`` can't be written.
    """
    _write(path, find_format(format).write(subject))


def export_comparison(comparison: Comparison, path: Path) -> None:
    """Writes both circuits in one picture, in the format that ``path`` ends in, one of DRAWN; what
    was there is replaced.

    An edge has the score that it has now, one that was lost the score that it had. Raises as
    ``export_subject`` does.
    """
    name = format_of(path.name) or path.suffix.removeprefix(".").lower()
    format = find_format(name)
    if name not in DRAWN:
        raise UsageError(
            f"{path} would be {name}, which shows one circuit alone. Name one of {', '.join(DRAWN)}."
        )
    look = Look(highlight=Highlight.of(comparison.before, words=EARLIER))
    _write(path, format.write(Subject(comparison.after, look)))


def _write(path: Path, content: bytes) -> None:
    try:
        _replace(path, content)
    except OSError as error:
        raise OutputError(
            f"Cannot write {path}: {error.strerror}. Give another place with --out."
        ) from None


def _replace(path: Path, content: bytes) -> None:
    """Writes beside ``path`` first, so that a full disk or a Ctrl-C leaves no half a file there."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open_new(part) as file:
            file.write(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
