"""Where a circuit comes from: the model, the task and the prompts that it was found on, as its file and folder say.

A run folder has run.json, which holds every option, and the prompts themselves; a circuit.json by itself names the
model and the task, whose prompts are made again from their number and seed.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from circuitfind.circuit import Circuit
from circuitfind.errors import CircuitError, CircuitfindError
from circuitfind.methods.catalogue import CATALOGUE, DEFAULT_SEARCH
from circuitfind.methods.options import spell_candidates
from circuitfind.preflight import CHOICES, RunOptions
from circuitfind.prompts import Task
from circuitfind.record import read_record
from circuitfind.taskfiles import load_task

PROMPTS_FILE = "prompts.jsonl"
SCORES_FILE = "scores.safetensors"


@dataclass(frozen=True)
class Origin:
    """``options`` are those of the run that found the circuit, as far as they are known; ``task`` what makes prompts of
    its kind, None where that is not here; ``prompts`` the run's own, ``scores`` those of all edges, where there are
    such files."""

    circuit: Circuit
    options: RunOptions
    task: Task | None
    prompts: Path | None
    scores: Path | None


def find_origin(path: Path, model: str | None = None, task: str | None = None) -> Origin:
    """The origin of a circuit.json or of what a run folder holds. ``model``, ``task``: others in place of its own.

    Raises CircuitError where the circuit is damaged, or names no model, or no task that is here.
    """
    circuit = Circuit.load(path)
    folder = path if path.is_dir() else path.parent
    record = read_record(folder, circuit)
    options = options_of(circuit, record)
    named = model or options.model
    if not named:
        raise CircuitError(f"{path} names no model. Say which with --model.")
    files = {
        name: folder / name if record and (folder / name).is_file() else None for name in (PROMPTS_FILE, SCORES_FILE)
    }
    prompts = files[PROMPTS_FILE] if task is None else None
    found = find_task(task or options.task, is_asked=task is not None)
    if found is None and prompts is None:
        raise CircuitError(f"{path} is of the task '{options.task}', which is not here. Name its file with --task.")
    options = replace(options, model=named, task=task or (str(prompts) if found is None else options.task))
    return Origin(circuit, options, found, prompts, files[SCORES_FILE])


def options_of(circuit: Circuit, record: dict[str, Any]) -> RunOptions:
    """The options of the run as far as an evaluation needs them: its record's, else what the circuit's blocks tell."""
    said, task, method = record.get("command", {}), circuit.task, circuit.method
    return RunOptions(
        task=said.get("task") or task.get("name") or "",
        model=said.get("model") or circuit.model.get("name") or "",
        method=_one_of("method", method.get("name"), DEFAULT_SEARCH),
        metric=method.get("metric") or said.get("metric"),
        ablation=_one_of("ablation", method.get("ablation"), "corrupted"),
        dtype=_one_of("dtype", method.get("dtype"), "float32"),
        n_prompts=task.get("n_prompts"),
        seed=task.get("seed") or 0,
        bos=task.get("bos"),
        positions=bool(circuit.graph.roles),
        formats=(),
    )


def evaluation_options(origin: Origin) -> RunOptions:
    """A run with the circuit's model, prompts and ablation that finds nothing: its threshold means nothing."""
    level = "edge" if origin.circuit.neurons is None else "neuron"
    return replace(origin.options, method=DEFAULT_SEARCH, threshold=1.0, objective="match", level=level)


def search_options(origin: Origin) -> RunOptions:
    """The options that find the circuit anew: those of ``origin`` and all that its block ``method`` says.

    Raises CircuitError where this version has no such method.
    """
    method = origin.circuit.method
    info = CATALOGUE.get(str(method.get("name")))
    if info is None:
        raise CircuitError(
            f"The circuit was found by '{method.get('name')}', a method that this circuitfind hasn't got."
        )
    names = {field.name for field in fields(RunOptions)} - {"positions"}  # there a list of roles; the graph tells
    said = {name: _plain(value) for name, value in method.items() if name in names}
    if method.get("candidates"):
        said["candidates"] = spell_candidates(method["candidates"])
    involved = [CATALOGUE[name] for name in said.get("of", ()) if name in CATALOGUE] or [info]
    if not any(part.has_metric for part in involved):
        said["metric"] = None
    settings = tuple((name, method[name]) for name in sorted(info.settings) if name in method)
    return replace(origin.options, **said, method=info.name, settings=settings)


def _plain(value: Any) -> Any:
    """An option as it is asked for; of other methods their names."""
    if isinstance(value, dict):
        return value.get("name")
    return tuple(map(_plain, value)) if isinstance(value, list) else value


def _one_of(kind: str, value: object, otherwise: str) -> str:
    return str(value) if value in CHOICES[kind] else otherwise


def find_task(name: str, is_asked: bool) -> Task | None:
    """The task of that name or file. Raises TaskError where it is asked for and is not here; else None."""
    try:
        return load_task(name)
    except CircuitfindError:
        if is_asked:
            raise
        return None
