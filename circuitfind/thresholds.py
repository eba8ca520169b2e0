"""The thresholds of a sweep and the plan of each: what can be known of a sweep before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from circuitfind.errors import OutputError, UsageError
from circuitfind.preflight import Plan, RunOptions, check_numbers, make_plan, short_name
from circuitfind.progress import Progress
from circuitfind.runfolder import RUN_FILE, STATE_FILE

EXAMPLE = "--threshold 0.1,0.05,0.02"


@dataclass(frozen=True)
class SweepPlan:
    """One question at several ``thresholds``, from the largest to the smallest.

    ``base`` is the plan of a run at the first of them, except for its folder: that is the sweep's, which holds theirs.
    """

    base: Plan
    thresholds: tuple[float, ...]

    def run_at(self, threshold: float, folder: Path) -> Plan:
        """The plan of the run at ``threshold`` in a sweep that lies in ``folder``: resumed if there is some of it."""
        place = folder / folder_name(threshold)
        resume = self.base.options.resume and any((place / name).exists() for name in (STATE_FILE, RUN_FILE))
        options = replace(self.base.options, threshold=threshold, out=place, resume=resume)
        plan = replace(self.base, options=options, folder=place)
        if not resume:
            return plan
        from circuitfind.resume import asked, find_state

        state = find_state(place, asked(options, plan.task.name, short_name(options.model)))
        return replace(plan, state=state, is_finished=state is None)


def parse_thresholds(text: str | None) -> tuple[float, ...]:
    """The numbers between commas; none if there is no text. Raises UsageError for what is no number or there twice."""
    thresholds: list[float] = []
    for item in text.split(",") if text is not None else ():
        try:
            threshold = float(item) + 0.0  # -0 is 0
        except ValueError:
            wrong = f"has '{item.strip()}' in it" if item.strip() and "," in str(text) else f"is '{text}'"
            raise UsageError(f"--threshold {wrong}; give a number, or several as in {EXAMPLE}.") from None
        if threshold in thresholds:
            raise UsageError(f"--threshold has {threshold:g} in it twice. Give each once, as in {EXAMPLE}.")
        thresholds.append(threshold)
    return tuple(thresholds)


def refuse_too_few(thresholds: tuple[float, ...]) -> None:
    """Raises UsageError for fewer thresholds than make a sweep."""
    if len(thresholds) < 2:
        raise UsageError(f"A sweep needs two thresholds or more. Give several, as in {EXAMPLE}.")


def make_sweep_plan(options: RunOptions, thresholds: tuple[float, ...], progress: Progress) -> SweepPlan:
    """The plan of a sweep. Raises CircuitfindError for whatever is wrong with it or, resumed, with a run in it."""
    refuse_too_few(thresholds)
    if options.resume and (options.force or options.out is None):
        raise UsageError("A sweep is resumed in its folder: give --out and --resume, and no --force.")
    for threshold in thresholds:
        check_numbers(replace(options, threshold=threshold))
    ordered = tuple(sorted(thresholds, reverse=True))
    # a folder that is not empty is what a resumed sweep wants
    first = replace(options, threshold=ordered[0], resume=False, force=options.force or options.resume)
    base = make_plan(first, progress)
    settled = replace(base.options, resume=options.resume, force=options.force)
    plan = SweepPlan(replace(base, options=settled), ordered)
    if options.resume:
        check_resumable(plan)
    return plan


def check_resumable(plan: SweepPlan) -> None:
    """Raises OutputError where there is no sweep in the folder, or a run of something else, or one still at work."""
    folder = plan.base.folder
    if not any(folder.glob("threshold-*")):
        raise OutputError(f"{folder} holds no sweep to resume. Leave out --resume to begin one there.")
    for threshold in plan.thresholds:
        plan.run_at(threshold, folder)


def folder_name(threshold: float) -> str:
    """Where the run at ``threshold`` lies in the sweep's folder, e.g. ``threshold-0.05``."""
    return f"threshold-{threshold:g}" if threshold == float(f"{threshold:g}") else f"threshold-{threshold}"
