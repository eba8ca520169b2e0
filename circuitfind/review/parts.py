"""What an evaluation has come to, part by part: report.json, which ``--resume`` reads again, and
what it was asked for.

A part is done or it isn't: the report is written anew after each, and says which are missing. All
that decides a number is in ``asked`` (``review/evaluate_plan.py``) but for the model's weights and
the prompts, which are known once loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from circuitfind.circuits.circuit import Circuit
from circuitfind.errors import OutputError, shown
from circuitfind.files.json_file import Schema, fit, parse_json, read_text
from circuitfind.files.links import file_in, keep_inside
from circuitfind.runs.folder import BESIDE
from circuitfind.runs.ownership import REPORT_FILE, read_record, sha256_of
from circuitfind.version import __version__

FORMAT, VERSION = "circuitfind.evaluation", 1
PICTURES = ("curve.svg", "curve.png")
UNFINISHED = "unfinished"


@dataclass(frozen=True)
class Section:
    """One judgement: plain values for programs, lines for people, and rows where it is a table (the
    first its head).
    """

    name: str
    title: str
    values: Mapping[str, Any]
    lines: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Part:
    """One part of an evaluation, done: what it says, what it warned of, its seconds and its pictures."""

    name: str
    sections: tuple[Section, ...] = ()
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    pictures: Mapping[str, bytes] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """What report.json says of it beside its sections' values."""
        shown = [
            {"name": s.name, "title": s.title, "lines": s.lines, "rows": s.rows} for s in self.sections
        ]
        return {
            "name": self.name,
            "sections": shown,
            "warnings": self.warnings,
            "pictures": list(self.pictures),
        }


@dataclass(frozen=True)
class Assessment:
    """Everything that was judged of a circuit so far; ``missing``: the parts that were asked for
    and are not done.

    ``asked``: all that decides a number. ``warnings``: those of loading, before any part's own.
    """

    circuit: Circuit
    model: str
    metric: str
    asked: Mapping[str, Any]
    parts: tuple[Part, ...]
    loading: tuple[str, ...]
    seconds: Mapping[str, float]
    missing: tuple[str, ...] = ()

    @property
    def sections(self) -> tuple[Section, ...]:
        return tuple(section for part in self.parts for section in part.sections)

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(
            dict.fromkeys((*self.loading, *(warning for part in self.parts for warning in part.warnings)))
        )

    @property
    def pictures(self) -> dict[str, bytes]:
        return {name: data for part in self.parts for name, data in part.pictures.items()}

    @property
    def timings(self) -> dict[str, float]:
        return {**self.seconds, **{part.name: part.seconds for part in self.parts}}

    def to_dict(self) -> dict[str, Any]:
        """report.json."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "circuit": {
                "n_edges": len(self.circuit.edges),
                "edges_sha256": hashlib.sha256(
                    "\n".join(map(str, self.circuit.edges)).encode()
                ).hexdigest(),
                **{block: dict(getattr(self.circuit, block)) for block in ("model", "task", "method")},
            },
            "model": self.model,
            "metric": self.metric,
            "asked": dict(self.asked),
            **{section.name: section.values for section in self.sections},
            "parts": [part.to_dict() for part in self.parts],
            "missing": list(self.missing),
            "warnings": list(self.warnings),
            "loading_warnings": list(self.loading),
            "timings": self.timings,
            "circuitfind": __version__,
        }


class _Shown(Schema, frozen=True):
    name: str
    title: str
    lines: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class _Part(Schema, frozen=True):
    name: str
    sections: tuple[_Shown, ...]
    warnings: tuple[str, ...]
    pictures: tuple[str, ...]


class _Report(Schema, frozen=True):
    model: str
    metric: str
    asked: dict[str, Any]
    parts: tuple[_Part, ...]
    loading_warnings: tuple[str, ...]
    timings: dict[str, float]


def read_assessment(folder: Path, circuit: Circuit) -> Assessment | None:
    """What the report in ``folder`` has come to; None where there is none. A part whose pictures
    are gone, or are not as they were written, is not done. Raises OutputError for a report that is
    damaged or of an older version."""
    path = file_in(folder, REPORT_FILE)
    if path is None:
        return None
    values = parse_json(read_text(path, OutputError), str(path), OutputError)
    report = fit(values, _Report, str(path), OutputError)
    files = values.get("files")
    written = files if isinstance(files, dict) else {}
    parts = tuple(
        Part(
            part.name,
            tuple(
                Section(s.name, s.title, _values(values, s.name, path), s.lines, s.rows)
                for s in part.sections
            ),
            part.warnings,
            report.timings.get(part.name, 0.0),
            {name: (folder / name).read_bytes() for name in part.pictures},
        )
        for part in report.parts
        if all(_is_there(folder, name, written.get(name)) for name in part.pictures)
    )
    seconds = {
        name: took for name, took in report.timings.items() if name not in {part.name for part in parts}
    }
    return Assessment(
        circuit, report.model, report.metric, report.asked, parts, report.loading_warnings, seconds
    )


def unfinished_place(folder: Path) -> Path:
    """Where the report of an evaluation grows that is to replace a complete one in ``folder``, which
    stays as it is until all parts are done.
    """
    return keep_inside(folder / BESIDE / UNFINISHED, folder)


def read_latest(folder: Path, circuit: Circuit) -> Assessment | None:
    """What the latest evaluation in ``folder`` has come to: the unfinished one, else the report."""
    return read_assessment(unfinished_place(folder), circuit) or read_assessment(folder, circuit)


def is_complete(folder: Path) -> bool:
    """Whether a report of all its parts lies in ``folder``."""
    record = read_record(folder / REPORT_FILE)
    return record is not None and record.get("missing") == []


def check_same(earlier: Assessment, asked: Mapping[str, Any], folder: Path) -> None:
    """Raises OutputError where the evaluation in ``folder`` was asked for something else, by the
    first difference.
    """
    for name, now in asked.items():
        before = earlier.asked.get(name)
        if before != now:
            raise OutputError(
                f"The evaluation in {folder} is of another {name}: {shown(before)}, not {shown(now)}.\n"
                "Ask for the same, give another --out, or --force in place of --resume to begin anew."
            )


def _values(report: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    values = report.get(name)
    if not isinstance(values, dict):
        raise OutputError(f"{path} lacks the values of its section {name!r}. Give --force to begin anew.")
    return values


def _is_there(folder: Path, name: str, sha256: object) -> bool:
    path = file_in(folder, name) if name in PICTURES else None
    return path is not None and sha256_of(path) == sha256
