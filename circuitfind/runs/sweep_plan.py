"""The sizes of a sweep and the plan of each: what can be known of a sweep before torch is imported.

A size is a threshold, a number of edges or nodes, or a fraction of all of them: ``of`` says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from circuitfind.circuits.record import RUN_FILE
from circuitfind.errors import UsageError
from circuitfind.files.links import keep_inside
from circuitfind.methods.catalogue import CATALOGUE as METHODS
from circuitfind.methods.neuron_options import refuse_sweep
from circuitfind.methods.options import SIZES
from circuitfind.options import RunOptions
from circuitfind.progress import Progress
from circuitfind.runs.folder import check_free, what_is_in
from circuitfind.runs.ownership import STATE_FILE, SWEEP_FILE, names_of_run, names_of_sweep
from circuitfind.runs.plan import Plan, check_numbers, inputs, make_plan, short_name

if TYPE_CHECKING:
    from circuitfind.runs.checkpoint import State

EXAMPLES = {
    "threshold": "--threshold 0.1,0.05,0.02",
    "edges": "--edges 100,500,2000",
    "fraction": "--fraction 0.001,0.01,0.1",
    "nodes": "--nodes 10,20,40",
}
PLURAL = {
    "threshold": "thresholds",
    "edges": "numbers of edges",
    "fraction": "fractions",
    "nodes": "numbers of nodes",
}
WHOLE = ("edges", "nodes")
"""Those that are whole numbers."""
Size = float | int


@dataclass(frozen=True)
class SweepPlan:
    """One question at several ``sizes``, from the smallest circuit to the largest; ``of`` is what
    they are sizes of.

    ``base`` is the plan of a run at the first of them, except for its folder: that is the sweep's,
    which holds theirs. Its state is that of the scores which the runs share, where they share any.
    """

    base: Plan
    sizes: tuple[Size, ...]
    of: str = "threshold"

    def run_at(self, size: Size, folder: Path) -> Plan:
        """The plan of the run at ``size`` in a sweep that lies in ``folder``: resumed if there is
        some of it.
        """
        from circuitfind.runs.resume import recover

        place = keep_inside(folder / folder_name(size, self.of), folder)
        recover(place)
        resume = self.base.options.resume and any(
            (place / name).exists() for name in (STATE_FILE, RUN_FILE)
        )
        options = replace(with_size(self.base.options, size, self.of), out=place, resume=resume)
        plan = replace(self.base, options=options, folder=place, state=None)
        if not resume:
            return plan
        state = state_of(plan)
        return replace(plan, state=state, is_finished=state is None)


def parse_sizes(text: str | None, of: str) -> tuple[Size, ...]:
    """The numbers between commas; none if there is no text. Raises UsageError for what is no number
    or there twice.
    """
    sizes: list[Size] = []
    kind, what = (int, "a whole number") if of in WHOLE else (float, "a number")
    for item in text.split(",") if text is not None else ():
        try:
            size: Size = kind(item) + 0  # -0.0 is 0
        except ValueError:
            wrong = f"has '{item.strip()}' in it" if item.strip() and "," in str(text) else f"is '{text}'"
            raise UsageError(f"--{of} {wrong}; give {what}, or several as in {EXAMPLES[of]}.") from None
        if size in sizes:
            raise UsageError(f"--{of} has {size:g} in it twice. Give each once, as in {EXAMPLES[of]}.")
        sizes.append(size)
    return tuple(sizes)


def find_sizes(given: dict[str, str | None]) -> tuple[str, tuple[Size, ...]]:
    """What sizes were given of (a threshold where none were), and the sizes. Raises UsageError
    where two kinds were.
    """
    names = [of for of in SIZES if given[of] is not None]
    if len(names) > 1:
        raise UsageError(
            f"{' and '.join(f'--{of}' for of in names)} each set the circuit's size. Give one of them."
        )
    of = names[0] if names else "threshold"
    return of, parse_sizes(given[of], of)


Options = TypeVar("Options", bound=RunOptions)


def with_size(options: Options, size: Size, of: str) -> Options:
    """The options with this size in them."""
    if of in WHOLE:
        return replace(options, **{of: int(size)})  # type: ignore[arg-type]
    return replace(options, fraction=size) if of == "fraction" else replace(options, threshold=size)


def refuse_too_few(sizes: Sequence[Size], of: str = "threshold") -> None:
    """Raises UsageError for fewer sizes than make a sweep."""
    if len(sizes) < 2:
        raise UsageError(f"A sweep needs two {PLURAL[of]} or more. Give several, as in {EXAMPLES[of]}.")


def make_sweep_plan(
    options: RunOptions, sizes: tuple[Size, ...], progress: Progress, of: str = "threshold"
) -> SweepPlan:
    """The plan of a sweep. Raises CircuitfindError for whatever is wrong with it or, resumed, with
    a run in it.
    """
    refuse_too_few(sizes, of)
    refuse_sweep(options)
    if options.resume and (options.force or options.out is None):
        raise UsageError("A sweep is resumed in its folder: give --out and --resume, and no --force.")
    for size in sizes:
        check_numbers(with_size(options, size, of))
    ordered = tuple(sorted(sizes, reverse=of == "threshold"))
    resume = options.resume or (not options.force and is_unfinished(options, sizes, of))
    # a folder that is not empty is what a resumed sweep wants
    first = replace(with_size(options, ordered[0], of), resume=False, force=options.force or resume)
    base = make_plan(first, progress, writes=False)
    check_places(base, ordered, of)
    settled = replace(base.options, resume=resume, force=options.force)
    plan = SweepPlan(replace(base, options=settled), ordered, of)
    return take_up(plan, progress) if resume else plan


def is_unfinished(options: RunOptions, sizes: Sequence[Size], of: str) -> bool:
    """Whether the folder that the user names holds nothing but some runs of a sweep of these sizes,
    and no table.
    """
    if options.out is None:
        return False
    names = {path.name for path in what_is_in(options.out)}
    return bool(names) and names <= {STATE_FILE, *(folder_name(size, of) for size in sizes)}


def check_places(base: Plan, sizes: Sequence[Size], of: str) -> None:
    """Raises OutputError where the sweep's folder, or that of one of its runs, can't be written or
    holds what is not of an older one."""
    options = base.options
    check_free(base.folder, options.force, names_of_sweep(options.formats), SWEEP_FILE, inputs(options))
    for size in sizes:
        place = keep_inside(base.folder / folder_name(size, of), base.folder)
        check_free(place, options.force, names_of_run(options.formats), inputs=inputs(options))


def take_up(plan: SweepPlan, progress: Progress) -> SweepPlan:
    """The plan with the scores that the sweep in its folder had come to; where there is nothing of
    one, that is told.

    Raises OutputError where it is a sweep of something else, or another process is at work on it.
    """
    folder = plan.base.folder
    has_scores = METHODS[plan.base.options.method].scores and (folder / STATE_FILE).exists()
    if not has_scores and not any(folder.glob(f"{plan.of}-*")):
        progress.stage(f"{folder} holds nothing of a sweep to go on with: it begins anew")
    for size in plan.sizes:
        plan.run_at(size, folder)
    return replace(plan, base=replace(plan.base, state=state_of(plan.base))) if has_scores else plan


def state_of(plan: Plan) -> State | None:
    """The state in the plan's folder; None if its run is finished. Raises OutputError where it is
    of something else, or damaged, or another process is at work on it."""
    from circuitfind.progress import Silent
    from circuitfind.runs.resume import asked, find_unfinished

    wanted = asked(plan.options, plan.task, short_name(plan.options.model))
    return find_unfinished(plan.folder, wanted, resume=True, progress=Silent())[0]


def folder_name(size: Size, of: str = "threshold") -> str:
    """Where the run at ``size`` lies in the sweep's folder, e.g. ``threshold-0.05`` or ``edges-500``."""
    return f"{of}-{size:g}" if size == float(f"{size:g}") and of not in WHOLE else f"{of}-{size}"
