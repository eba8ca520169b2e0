"""What ``circuitfind evaluate`` is asked to do, and all that can be known of it before torch is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from circuitfind.circuit import Circuit
from circuitfind.errors import UsageError, unknown
from circuitfind.origin import Origin, evaluation_options, find_origin
from circuitfind.ownmetric import METRICS
from circuitfind.preflight import CHOICES, Plan, make_plan
from circuitfind.progress import Progress
from circuitfind.review.opening import AS_STORED, Named
from circuitfind.runfolder import check_free
from circuitfind.runs.ownership import FILES, REPORT_FILE
from circuitfind.taskfiles import load_task

PARTS = ("ablations", "held-out", "completeness", "minimality", "random", "hypotheses", "curve", "reference")
"""What is judged beside the faithfulness on the circuit's own prompts."""
QUICK = ("ablations", "held-out", "reference")
"""The parts that take seconds."""


@dataclass(frozen=True)
class EvaluateOptions:
    """``named``: what the user named in place of the circuit's own; ``parts``: of PARTS; ``ablations``: none for all;
    ``n_held_out`` None as many prompts as the circuit was found on; ``also``: tasks or prompts files besides;
    ``out`` None a folder beside the circuit."""

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
    device: str = "auto"
    batch_size: int | None = None


@dataclass(frozen=True)
class AssessmentPlan:
    """An evaluation that nothing speaks against so far: where the circuit comes from, the run whose model and prompts
    it is on, the folder of the report, and the parts that are judged."""

    origin: Origin
    options: EvaluateOptions
    run: Plan
    folder: Path
    parts: tuple[str, ...]


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
    inputs = (options.circuit, *([options.reference] if options.reference else []), *map(Path, options.also))
    check_free(folder, options.force, FILES[REPORT_FILE], REPORT_FILE, inputs)
    asked = replace(evaluation_options(origin), device=options.device, batch_size=options.batch_size)
    run = make_plan(replace(asked, out=folder, force=True), progress, origin.opened, writes=False)
    if options.metric is not None:
        _check_each("metric", (options.metric,), (*METRICS, *run.task.metrics))
    return AssessmentPlan(origin, options, run, folder, parts_of(options))


def parts_of(options: EvaluateOptions) -> tuple[str, ...]:
    """In the order of PARTS; the reference's only where there is one."""
    return tuple(p for p in PARTS if p in options.parts and (p != "reference" or options.reference is not None))


def default_folder(circuit: Path) -> Path:
    """``evaluation`` in a run's folder; beside a file, a folder of its name."""
    return circuit / "evaluation" if circuit.is_dir() else circuit.with_name(f"{circuit.stem}-evaluation")


def check_words(options: EvaluateOptions) -> None:
    """Raises UsageError, with the nearest known one, for a part or an ablation that there is not."""
    for kind, names, known in (("part", options.parts, PARTS), ("ablation", options.ablations, CHOICES["ablation"])):
        _check_each(kind, names, known)


def _check_each(kind: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise UsageError(unknown(kind, name, known))


def check_numbers(options: EvaluateOptions) -> None:
    """Raises UsageError for a number that is out of range."""
    least = {"n_held_out": 1, "n_knock_outs": 0, "n_steps": 0, "n_candidates": 1, "n_random": 1, "most": 1}
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
