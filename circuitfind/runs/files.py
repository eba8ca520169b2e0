"""What a run leaves: its folder, with the circuit in every format that was asked for."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from circuitfind.circuits.bootstrap import Uncertainty
from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.record import RUN_FILE, TASK_SHA256
from circuitfind.circuits.scores_file import (
    neuron_prompt_scores_file,
    neuron_scores_file,
    neuron_uncertainty_file,
    prompt_scores_file,
    scores_file,
    uncertainty_file,
)
from circuitfind.errors import CircuitfindError
from circuitfind.evaluation.performance import Evaluation
from circuitfind.export import FORMATS, Format, Subject
from circuitfind.export.html.data import DEFAULT_PAIRS
from circuitfind.files.json_file import json_file
from circuitfind.methods.neuron_circuit import NeuronOutcome
from circuitfind.methods.outcome import Found
from circuitfind.patching.learned_ablation import constants_file
from circuitfind.prompts.files import write_prompts
from circuitfind.runs.clock import Clock, Noted
from circuitfind.runs.folder import write_run
from circuitfind.runs.memory import needed
from circuitfind.runs.observe import observe
from circuitfind.runs.ownership import CONSTANTS_FILE
from circuitfind.runs.report import Evidence, report
from circuitfind.runs.result import Findings, make_circuit, make_consensus
from circuitfind.version import __version__


@dataclass(frozen=True)
class RunResult:
    """What a run leaves behind: the circuit, its evidence, and the folder where both are written."""

    circuit: Circuit
    evaluation: Evaluation
    folder: Path
    warnings: tuple[str, ...]
    found: Mapping[str, Any]
    """How the circuit came about: what run.json says of the search, or of the selection and the bootstrap."""


def write_findings(
    findings: Findings, folder: Path, notes: Noted, clock: Clock, is_claimed: bool = False
) -> RunResult:
    """The run's folder, with its pictures drawn. ``is_claimed``: it is this run's own already."""
    circuit, options = make_circuit(findings), findings.options
    with clock.time("drawing"):
        notes.stage("drawing the circuit")
        formats = [FORMATS[name] for name in dict.fromkeys(("dot", *options.formats))]
        pictures = write_formats(
            Subject(circuit), [each for each in formats if not each.of_folder], notes
        )
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
    """The circuit in these formats by the names of their files. One that can't hold it is left out
    with a warning: what was found is not lost for it."""
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


VERSIONED = ("torch", "transformer_lens", "transformers", "safetensors", "pygraphviz")


def make_record(findings: Findings) -> dict[str, Any]:
    """run.json without what the run took: everything needed to repeat it."""
    ready, options = findings.ready, asdict(findings.options)
    return {
        "command": {
            key: str(value) if isinstance(value, Path) else value for key, value in options.items()
        },
        "method": findings.method.to_dict(),
        "model_sha256": ready.model.sha256,
        "model_difference": ready.model.difference,
        **({} if ready.task.source is None else {TASK_SHA256: ready.task.source.sha256}),
        "bos": ready.tokenizer.adds_bos,
        "n_pos": ready.batch.n_pos,
        **findings.record,
        **({} if ready.learned is None else {"constants": ready.learned.to_dict()}),
        "threads": torch.get_num_threads(),
        "versions": {
            "circuitfind": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in VERSIONED},
        },
        "platform": f"{platform.system()} {platform.machine()}",
    }


def make_files(
    findings: Findings, circuit: Circuit, pictures: dict[str, bytes], record: dict[str, Any]
) -> dict[str, str | bytes]:
    """The run's files by name; run.json, the last, says that all the others are there."""
    ready = findings.ready
    evidence = Evidence(
        circuit, findings.evaluation, ready.pairs[0], record, tuple(pictures), findings.outcome
    )
    return {
        "circuit.json": circuit.to_json(),
        "scores.safetensors": _scores_file(findings, ready.model.transformer.dtype),
        **bootstrap_files(findings),
        "prompts.jsonl": write_prompts(ready.pairs),
        **({"reference.jsonl": write_prompts(ready.reference)} if ready.reference else {}),
        **({} if ready.learned is None else {CONSTANTS_FILE: constants_file(ready.learned.constants)}),
        **pictures,
        "report.md": report(evidence),
        RUN_FILE: json_file(record),
    }


def _scores_file(findings: Findings, dtype: torch.dtype) -> bytes:
    outcome = findings.outcome
    if isinstance(outcome, NeuronOutcome):
        return neuron_scores_file(outcome.neurons, outcome.scores, dtype)
    return scores_file(findings.graph, outcome.scores, dtype)


def bootstrap_files(findings: Findings) -> dict[str, str | bytes]:
    """The scores of single prompts, what a bootstrap found in them, and its consensus circuit;
    where there are any.
    """
    scored = findings.outcome
    if isinstance(scored, Found) or scored.per_prompt is None or len(scored.per_prompt) < 2:
        return {}
    if isinstance(scored, NeuronOutcome):
        prompts = neuron_prompt_scores_file(scored.neurons, scored.per_prompt)
    else:
        prompts = prompt_scores_file(findings.graph, scored.per_prompt)
    files: dict[str, str | bytes] = {"prompt_scores.safetensors": prompts}
    consensus = make_consensus(findings)
    if consensus is not None and scored.uncertainty is not None:
        files["bootstrap.safetensors"] = _uncertainty_file(findings, scored.uncertainty)
        files["consensus.json"] = consensus.to_json()
    return files


def _uncertainty_file(findings: Findings, uncertainty: Uncertainty) -> bytes:
    if isinstance(findings.outcome, NeuronOutcome):
        return neuron_uncertainty_file(findings.outcome.neurons, uncertainty)
    return uncertainty_file(findings.graph, uncertainty)
