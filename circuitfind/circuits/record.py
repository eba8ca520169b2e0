"""run.json: the record of the run that a circuit comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, field

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.schema import Count, Number, Share
from circuitfind.errors import CircuitError
from circuitfind.files.json_file import Name, Schema, Text, fit, parse_json, read_text
from circuitfind.files.links import file_in

RUN_FILE = "run.json"
TASK_SHA256 = "task_file_sha256"
"""The key of the sha256 of the task's Python file, where it has one."""
MOST_BYTES = 1 << 26


class Command(Schema, frozen=True):
    """What the run was asked for, as far as it is read again."""

    task: Name | None = None
    model: Name | None = None
    metric: Name | None = None


class Bootstrap(Schema, frozen=True):
    """What a bootstrap found."""

    resamples: Count
    level: Share
    jaccard: Number


class Searched(Schema, frozen=True):
    """What a search counted."""

    tested: Count


class Selected(Schema, frozen=True):
    """What a selection counted."""

    nominal: Count


class Record(Schema, frozen=True):
    """A run.json, as far as it is read again."""

    command: Command
    model_sha256: Name | None = None
    task_file_sha256: Name | None = None
    warnings: Annotated[list[Text], Meta(max_length=10_000)] = field(default_factory=list)
    bootstrap: Bootstrap | None = None
    search: Searched | None = None
    selection: Selected | None = None


def read_record(folder: Path, circuit: Circuit) -> dict[str, Any]:
    """run.json beside a circuit that is that run's; else nothing.

    Raises CircuitError for a link out of the folder, and for a record that is damaged, naming what
    is wrong with it.
    """
    file = file_in(folder, RUN_FILE)
    if file is None:
        return {}
    record = parse_json(read_text(file, CircuitError, MOST_BYTES), str(file))
    if not isinstance(record, dict) or "command" not in record:
        return {}
    return _checked(record, file) if record.get("model_sha256") == circuit.model.get("sha256") else {}


def read_run(file: Path, schema: type[Record] = Record) -> dict[str, Any]:
    """The record of a run. Raises CircuitError where there is none, or it is damaged."""
    return _checked(parse_json(read_text(file, CircuitError, MOST_BYTES), str(file)), file, schema)


def _checked(record: Any, file: Path, schema: type[Record] = Record) -> dict[str, Any]:
    read = fit(record, schema, str(file))
    return {**record, "warnings": read.warnings}
