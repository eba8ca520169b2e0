"""What ``circuitfind evaluate`` is asked to do, and all that can be known of it before torch is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from circuitfind.circuits.circuit import Circuit
from circuitfind.errors import UsageError, unknown
from circuitfind.files.links import keep_inside
from circuitfind.options import RunOptions
from circuitfind.progress import Progress
from circuitfind.prompts.files import load_task
from circuitfind.prompts.task_metric import METRICS
from circuitfind.review.opening import AS_STORED, Named
from circuitfind.review.origin import Origin, evaluation_options, find_origin
from circuitfind.review.parts import Assessment, check_same, read_latest
from circuitfind.runs.folder import check_free
from circuitfind.runs.ownership import FILES, REPORT_FILE, sha256_of
from circuitfind.runs.plan import CHOICES, Plan, make_plan
from circuitfind.runs.resume import recover

OWN = "faithfulness"
"""The circuit on its own prompts: the part that is always judged."""
PARTS = (
    "ablations",
    "held-out",
    "reference",
    "completeness",
    "minimality",
    "random",
    "hypotheses",
    "curve",
)
"""What is judged beside that, in this order."""
QUICK = ("ablations", "held-out", "reference")
"""The parts that take seconds."""


@dataclass(frozen=True)
class EvaluateOptions:
    """``named``: what the user named in place of the circuit's own; ``parts``: of PARTS;
    ``ablations``: none for all; ``n_held_out`` None as many prompts as the circuit was found on;
    ``also``: tasks or prompts files besides; ``out`` None a folder beside the circuit."""

    circuit: Path
    named: Named = AS_STORED
    metric: str | None = None
    parts: tuple[str, ...] = PARTS
    ablations: tuple[str, ...] = ()
    n_held_out: int | None = None
    also: tuple[str, ...] = ()
    reference: Path | None = None
    n_knock_outs: int = 20
    n_steps: int = 5
    n_candidates: int | None = 10
    n_random: int = 50
    most: int = 200
    seed: int = 0
    out: Path | None = None
    force: bool = False
    resume: bool = False
    device: str = "auto"
    batch_size: int | None = None


@dataclass(frozen=True)
class AssessmentPlan:
    """An evaluation that nothing speaks against so far: where the circuit comes from, the run whose
    model and prompts it is on, the folder of the report, the parts that are judged, what decides
    their numbers, and what an earlier evaluation has come to that this one goes on with."""

    origin: Origin
    options: EvaluateOptions
    run: Plan
    folder: Path
    parts: tuple[str, ...]
    asked: Mapping[str, Any]
    earlier: Assessment | None = None

    @property
    def waiting(self) -> tuple[str, ...]:
        """The parts that are still to be judged, in their order."""
        done = {part.name for part in self.earlier.parts} if self.earlier else set()
        return tuple(part for part in (OWN, *self.parts) if part not in done)


def make_assessment_plan(options: EvaluateOptions, progress: Progress) -> AssessmentPlan:
    """The plan. Raises CircuitfindError for whatever is wrong, before anything is run."""
    check_words(options)
    check_numbers(options)
    origin = find_origin(options.circuit, options.named, progress)
    if options.reference is not None:
        Circuit.load(options.reference)
    for name in options.also:
        load_task(name)
    folder = options.out or default_folder(options.circuit)
    inputs = (
        options.circuit,
        *([options.reference] if options.reference else []),
        *map(Path, options.also),
    )
    recover(folder)
    earlier = read_latest(folder, origin.circuit) if options.resume else None
    check_free(folder, options.force or options.resume, FILES[REPORT_FILE], REPORT_FILE, inputs)
    of_run = replace(evaluation_options(origin), device=options.device, batch_size=options.batch_size)
    run = make_plan(replace(of_run, out=folder, force=True), progress, origin.opened, writes=False)
    if options.metric is not None:
        _check_each("metric", (options.metric,), (*METRICS, *run.task.metrics))
    asked = what_decides(options, origin, run.options)
    if earlier is not None:
        check_same(earlier, asked, folder)
    elif options.resume:
        progress.stage(f"{folder} holds no evaluation yet: it begins anew")
    return AssessmentPlan(origin, options, run, folder, parts_of(options), asked, earlier)


def what_decides(options: EvaluateOptions, origin: Origin, run: RunOptions) -> dict[str, Any]:
    """All that decides the numbers of an evaluation, but for the model's weights and the prompts,
    by what it is called in a message; neither batch size nor device: they change none."""
    others = {name: _sha256(Path(name)) for name in options.also}
    return {
        "circuit": hashlib.sha256(origin.circuit.to_json().encode()).hexdigest(),
        "scores": _sha256(origin.scores),
        "reference": None if options.reference is None else _circuit_sha256(options.reference),
        "ablation": run.ablation,
        "dtype": run.dtype,
        "--metric": options.metric,
        "--ablations": list(options.ablations),
        "--held-out": options.n_held_out,
        "--also": others,
        **{flag: getattr(options, name) for name, flag in FLAGS.items() if name != "n_held_out"},
        "--seed": options.seed,
    }


def _sha256(path: Path | None) -> str | None:
    """Of a file; None where there is none."""
    return sha256_of(path) if path is not None and path.is_file() else None


def _circuit_sha256(path: Path) -> str:
    return hashlib.sha256(Circuit.load(path).to_json().encode()).hexdigest()


def parts_of(options: EvaluateOptions) -> tuple[str, ...]:
    """In the order of PARTS; the reference's only where there is one."""
    return tuple(
        p for p in PARTS if p in options.parts and (p != "reference" or options.reference is not None)
    )


def default_folder(circuit: Path) -> Path:
    """``evaluation`` in a run's folder; beside a file, a folder of its name. Raises OutputError
    where it is a link.
    """
    folder = (
        circuit / "evaluation" if circuit.is_dir() else circuit.with_name(f"{circuit.stem}-evaluation")
    )
    return keep_inside(folder, folder.parent)


def check_words(options: EvaluateOptions) -> None:
    """Raises UsageError, with the nearest known one, for a part or an ablation that there is not."""
    for kind, names, known in (
        ("part", options.parts, PARTS),
        ("ablation", options.ablations, CHOICES["ablation"]),
    ):
        _check_each(kind, names, known)


def _check_each(kind: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise UsageError(unknown(kind, name, known))


def check_numbers(options: EvaluateOptions) -> None:
    """Raises UsageError for a number that is out of range."""
    least = {
        "n_held_out": 1,
        "n_knock_outs": 0,
        "n_steps": 0,
        "n_candidates": 1,
        "n_random": 1,
        "most": 1,
    }
    for name, smallest in least.items():
        value = getattr(options, name)
        if value is not None and value < smallest:
            flag = FLAGS[name]
            raise UsageError(f"{flag} is {value}; it must be {smallest} or more.")


FLAGS = {
    "n_held_out": "--held-out",
    "n_knock_outs": "--knock-outs",
    "n_steps": "--steps",
    "n_candidates": "--knock-out-candidates",
    "n_random": "--random",
    "most": "--most",
}
