"""What every method is: it works on a problem, as a job that can be cut off and resumed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from circuitfind.methods.saved_state import Save, SoFar, save_nothing, save_part
from circuitfind.patching.problem import Problem
from circuitfind.progress import Progress, Silent


@dataclass(frozen=True)
class Job:
    """Work that tells how far it is, and can be cut off and resumed to the same bits.

    ``start`` is what an earlier run of the same model, prompts and options had saved; ``save`` is
    called whenever there is more, and with all there is at the end. A method that takes no time to
    speak of begins anew and saves nothing.
    """

    progress: Progress = Silent()
    start: SoFar | None = None
    save: Save = save_nothing

    def part(self, name: str, done: SoFar | None = None) -> Job:
        """A part of the work by that name, behind what is ``done`` of the rest."""
        return Job(self.progress, self.start and self.start.part(name), save_part(self.save, name, done))


@runtime_checkable
class Scorer(Protocol):
    """A method that scores every edge, or every neuron."""

    @property
    def name(self) -> str:
        """As in ``catalogue.py``."""

    def to_dict(self) -> dict[str, Any]:
        """The block ``method`` of a circuit file: every option, and what a score is."""

    def score(self, problem: Problem, job: Job = ..., /) -> Float[Tensor, "prompt ..."]:
        """Every edge's score, [prompt, receiver, sender], on each prompt or one for all of them; positive
        if ablating the edge hurts, NaN where the graph has no edge.

        Neither ``batch_size`` nor threads change a score.
        """
