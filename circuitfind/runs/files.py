"""What a run leaves: its folder, with the circuit in every format that was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuitfind.circuits.circuit import Circuit
from circuitfind.errors import CircuitfindError
from circuitfind.evaluation.performance import Evaluation
from circuitfind.export import FORMATS, Format, Subject
from circuitfind.review.view_plan import DEFAULT_PAIRS
from circuitfind.runs.clock import Clock, Noted
from circuitfind.runs.folder import write_run
from circuitfind.runs.memory import needed
from circuitfind.runs.observe import observe
from circuitfind.runs.result import Findings, make_circuit, make_files, make_record


@dataclass(frozen=True)
class RunResult:
    """What a run leaves behind: the circuit, its evidence, and the folder where both are written."""

    circuit: Circuit
    evaluation: Evaluation
    folder: Path
    warnings: tuple[str, ...]
    found: Mapping[str, Any]
    """How the circuit came about: what run.json says of the search, or of the selection and the bootstrap."""


def write_findings(findings: Findings, folder: Path, notes: Noted, clock: Clock, is_claimed: bool = False) -> RunResult:
    """The run's folder, with its pictures drawn. ``is_claimed``: it is this run's own already."""
    circuit, options = make_circuit(findings), findings.options
    with clock.time("drawing"):
        notes.stage("drawing the circuit")
        formats = [FORMATS[name] for name in dict.fromkeys(("dot", *options.formats))]
        pictures = write_formats(Subject(circuit), [each for each in formats if not each.of_folder], notes)
    record = make_record(findings) | {
        "warnings": notes.warnings,
        "timings": clock.seconds,
        "sittings": clock.spent().sittings,
        "batch_size": findings.ready.work.batch_size,
        "bytes_in_flight": findings.ready.work.bytes_in_flight,
        "estimated_memory_bytes": needed(findings.ready.work),
        "peak_memory_bytes": clock.spent().peak_memory,
    }
    last = [each for each in formats if each.of_folder]

    def more(place: Path) -> dict[str, bytes]:
        return write_last(findings, circuit, place, last, notes)

    may_replace = options.force or options.resume or is_claimed
    write_run(folder, make_files(findings, circuit, pictures, record), may_replace, more)
    return RunResult(circuit, findings.evaluation, folder, tuple(notes.warnings), findings.record)


def write_formats(subject: Subject, formats: Sequence[Format], notes: Noted) -> dict[str, bytes]:
    """The circuit in these formats by the names of their files. One that can't hold it is left out with a warning: what
    was found is not lost for it."""
    files = {}
    for format in formats:
        name = f"circuit.{format.suffix}"
        try:
            files[name] = format.write(subject)
            for line in format.told(subject):
                notes.stage(f"{name}: {line}")
        except CircuitfindError as error:
            notes.warn(f"{name} is left out: {error}")
    return files


def write_last(
    findings: Findings, circuit: Circuit, folder: Path, formats: Sequence[Format], notes: Noted
) -> dict[str, bytes]:
    """The files that are made of the run's others, which lie in ``folder``."""
    observations = None
    if any(format.observes for format in formats):
        observations = observe(findings.ready, circuit, DEFAULT_PAIRS)
    subject = Subject(circuit, folder=folder, observations=observations)
    return write_formats(subject, formats, notes)
