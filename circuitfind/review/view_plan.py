"""What ``circuitfind view`` is asked to do, and all that can be known of it before torch is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from circuitfind.errors import UsageError
from circuitfind.export.html.data import DEFAULT_PAIRS
from circuitfind.export.html.folder import MOST_PROMPTS, RunFolder
from circuitfind.export.html.page import MADE_BY
from circuitfind.options import RunOptions
from circuitfind.progress import Progress
from circuitfind.review.opening import AS_STORED, Named
from circuitfind.review.origin import Origin, evaluation_options, find_origin
from circuitfind.runs.plan import Plan, make_plan
from circuitfind.runs.target import check_target

LEAST_READ = 4096
"""Of a file that is to be replaced so many bytes tell whether circuitfind made it."""


@dataclass(frozen=True)
class ViewOptions:
    """``named``: what the user named in place of the circuit's own; ``n_pairs``: of how many prompt
    pairs attention patterns and writes are shown; ``has_curve``: circuits of other sizes are run,
    where the run left the scores of all edges."""

    circuit: Path
    named: Named = AS_STORED
    n_pairs: int = DEFAULT_PAIRS
    has_curve: bool = True
    device: str = "auto"


@dataclass(frozen=True)
class ViewPlan:
    """Where the circuit comes from, and the run whose model and prompts are looked at."""

    origin: Origin
    run: Plan
    n_pairs: int
    has_curve: bool


def make_view_plan(options: ViewOptions, folder: Path, progress: Progress) -> ViewPlan:
    """The plan; fetches the model if it is not here yet. ``folder``: where the page goes, and nothing else.

    Raises CircuitfindError where the circuit's model or task can't be had.
    """
    if options.n_pairs < 1:
        raise UsageError(f"--pairs is {options.n_pairs}; it must be 1 or more.")
    origin = find_origin(options.circuit, options.named, progress)
    run = make_plan(run_options(options, origin, folder), progress, origin.opened, writes=False)
    has_curve = (
        options.has_curve and RunFolder.of(origin.circuit, folder_of(options.circuit)).curve() is None
    )
    return ViewPlan(origin, run, options.n_pairs, has_curve)


def folder_of(circuit: Path) -> Path:
    """Where the circuit lies."""
    return circuit if circuit.is_dir() else circuit.parent


def run_options(options: ViewOptions, origin: Origin, folder: Path) -> RunOptions:
    """A run on the circuit's own prompts, the first of them, of which the model and the prompts are
    loaded.
    """
    asked = evaluation_options(origin)
    most = None if asked.n_prompts is None else min(asked.n_prompts, max(MOST_PROMPTS, options.n_pairs))
    return replace(asked, n_prompts=most, out=folder, force=True, device=options.device)


def page_path(circuit: Path, out: Path | None) -> Path:
    """Where the page goes: beside the circuit, under its name."""
    if out is not None:
        return out
    return circuit / "circuit.html" if circuit.is_dir() else circuit.with_suffix(".html")


def check_page(path: Path, circuit: Path, force: bool) -> None:
    """Raises OutputError where ``path`` is what the command reads, or no page of circuitfind's,
    unless ``force``.
    """
    instead = "Add --force to replace it, or give another place with --out."
    check_target(path, [circuit], force or is_page(path), instead)


def is_page(path: Path) -> bool:
    """Whether circuitfind made the file."""
    try:
        if path.is_symlink():
            return False
        with path.open("rb") as file:
            return MADE_BY.encode() in file.read(LEAST_READ)
    except OSError:
        return False
