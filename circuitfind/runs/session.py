"""One process's work on a run: what is asked for, what is loaded, and where what it tells and finds goes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from circuitfind.circuits.units import Units, find_kv, find_level
from circuitfind.evaluation.work import EVALUATION
from circuitfind.methods.make import Method
from circuitfind.methods.saved_state import SoFar
from circuitfind.options import SettledOptions
from circuitfind.patching.ablation import find_ablation
from circuitfind.patching.problem import Problem
from circuitfind.runs.checkpoint import Keeper
from circuitfind.runs.clock import Clock, Noted
from circuitfind.runs.identity import state_identity
from circuitfind.runs.result import NOTHING_TAKEN_OVER, Ready, TakenOver
from circuitfind.runs.time_left import duration


@dataclass(frozen=True)
class Session:
    """``options`` are settled; ``taken_over`` is what an earlier run of a sweep hands on."""

    ready: Ready
    options: SettledOptions
    notes: Noted
    clock: Clock
    keeper: Keeper
    taken_over: TakenOver = NOTHING_TAKEN_OVER

    @cached_property
    def problem(self) -> Problem:
        """The model and the prompts, under the run's ablation."""
        ready = self.ready
        return Problem(
            ready.model.transformer,
            ready.batch,
            ready.work.batch_size,
            ablation=find_ablation(self.options.ablation),
            bytes_in_flight=ready.work.bytes_in_flight,
        )

    @cached_property
    def units(self) -> Units:
        """What is decided on in this model."""
        return self.problem.units(find_level(self.options.level), find_kv(self.options.kv))

    def restart(self, method: Method) -> SoFar | None:
        """The state that an earlier session of the same run left. Raises OutputError where it is of
        something else.
        """
        identity = state_identity(self.ready, self.options, method)
        return self.keeper.start(identity, self.clock.spent, self.notes.warn)

    def tell_resumed(self, status: str, part: str = "search") -> None:
        """Tells which run is resumed, and how far this part of it was."""
        seconds = duration(self.clock.seconds.get(part, 0.0))
        self.notes.stage(f"going on with {self.keeper.folder}: {status}, after {seconds}")

    @property
    def seconds_of_evaluation(self) -> float:
        """About how long the circuit's evaluation will take, from what the full model took on the
        same prompts.
        """
        return EVALUATION * self.clock.seconds.get("task", 0.0)
