"""Where a circuit comes from: the model, the task and the prompts that it was found on, as its file
and folder say.

A run folder has run.json, which holds every option, and the prompts themselves; a circuit.json by
itself names the model and the task, whose prompts are made again from their number and seed. What
these files name is opened by the rule of ``review/opening.py``: a task that is none of
circuitfind's own is not, and the prompts in the folder take its place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.record import TASK_SHA256, read_record
from circuitfind.errors import CircuitError
from circuitfind.files.links import file_in
from circuitfind.methods.catalogue import CATALOGUE, DEFAULT_SEARCH
from circuitfind.methods.options import spell_candidates
from circuitfind.options import RunOptions
from circuitfind.progress import Progress
from circuitfind.prompts.files import read_prompts
from circuitfind.prompts.files.source import task_of
from circuitfind.prompts.pairs import Task
from circuitfind.prompts.task_metric import METRICS
from circuitfind.review.opening import Named, changed_task, one_line, open_model, open_task, suggest_task
from circuitfind.runs.plan import CHOICES, Opened

PROMPTS_FILE = "prompts.jsonl"
REFERENCE_FILE = "reference.jsonl"
SCORES_FILE = "scores.safetensors"
OF_METHOD = (
    *(
        "threshold",
        "metric",
        "ablation",
        "objective",
        "schedule",
        "edges",
        "fraction",
        "nodes",
        "neurons",
        "select",
    ),
    *("steps", "bootstrap", "grad_drop", "of", "combine", "start_from", "level", "kv", "dtype"),
)
"""The options that a circuit's block ``method`` decides: how it was found, and nothing of where or
on what.
"""


@dataclass(frozen=True)
class Origin:
    """``options`` are those of the run that found the circuit, as far as they are known, ``opened``
    what it is judged with: its model, and its task or, where that was not opened, the prompts of
    its folder. ``task``: what makes prompts of its kind, None where that was not opened; ``scores``
    those of all edges, where there is such a file; ``cautions`` what the user should know."""

    circuit: Circuit
    options: RunOptions
    opened: Opened
    task: Task | None
    scores: Path | None
    cautions: tuple[str, ...] = ()

    @property
    def suggestion(self) -> str:
        """How to name the task."""
        return suggest_task(self.options.task)


def find_origin(path: Path, named: Named, progress: Progress) -> Origin:
    """The origin of a circuit.json or of what a run folder holds; ``named``: what the user named in
    place of its own.

    What its files name is opened as ``review/opening.py`` has it. Raises CircuitError where the
    circuit is damaged, or its model or task has to be named.
    """
    circuit = Circuit.load(path)
    folder = path if path.is_dir() else path.parent
    record = read_record(folder, circuit)
    options = options_of(circuit, record)
    model = named.model or options.model
    if not model:
        raise CircuitError(f"{path} names no model. Say which with --model.")
    prompts, scores = (file_in(folder, name) if record else None for name in (PROMPTS_FILE, SCORES_FILE))
    task = open_task(options.task, named)
    if task is None and prompts is None:
        raise CircuitError(
            f"{path} is of the task '{one_line(options.task)}', which is none of circuitfind's own: it is not"
            f" opened because a file says so.\n{suggest_task(options.task)}"
        )
    options = replace(options, model=model, task=named.task or options.task)
    if prompts is not None and task is None:
        used, n_own = stored_task(prompts, circuit)
        options = replace(options, n_prompts=n_own)
    else:
        assert task is not None
        used = task
    opened = Opened(used, open_model(options.model, named, path, progress))
    changed = changed_task(used, record.get(TASK_SHA256) or circuit.task.get("file_sha256"))
    return Origin(circuit, options, opened, task, scores, () if changed is None else (changed,))


def stored_task(prompts: Path, circuit: Circuit) -> tuple[Task, int]:
    """A task of the prompts that lie in a run's folder, and how many are the run's own. Behind
    these stand those that a mean ablation took its means over, which a run looks for among the
    task's others."""
    own = read_prompts(prompts)
    reference = file_in(prompts.parent, REFERENCE_FILE)
    others = [] if reference is None else read_prompts(reference)
    return task_of({"name": str(circuit.task.get("name") or prompts.stem)}, [*own, *others]), len(own)


def options_of(circuit: Circuit, record: dict[str, Any]) -> RunOptions:
    """The options of the run as far as an evaluation needs them: its record's, else what the
    circuit's blocks tell.
    """
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
    """A run with the circuit's model, prompts and ablation that finds nothing: its threshold means
    nothing.
    """
    level = "edge" if origin.circuit.neurons is None else "neuron"
    known = (*METRICS, *origin.opened.task.metrics)
    # one that a task file defines, which was not opened, decides nothing here
    metric = origin.options.metric if origin.options.metric in known else None
    return replace(
        origin.options,
        method=DEFAULT_SEARCH,
        metric=metric,
        threshold=1.0,
        objective="match",
        level=level,
    )


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
    said = {name: _plain(method[name]) for name in OF_METHOD if name in method}
    if "consensus" in method:
        said["bootstrap"] = method.get("resamples")
        if not isinstance(said.get("level"), str):
            said.pop("level", None)  # of its intervals, in an older file
    if method.get("candidates"):
        said["candidates"] = spell_candidates(method["candidates"])
    metric, task = said.get("metric"), origin.opened.task
    if metric is not None and metric not in (*METRICS, *task.metrics):
        raise CircuitError(
            f"The circuit was found by the metric '{one_line(str(metric))}', which its task file defines.\n"
            f"{origin.suggestion}"
        )
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
