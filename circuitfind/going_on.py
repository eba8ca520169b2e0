"""What a run goes on from: the state that its keeper has, if it is one of the same model, prompts and method."""

from __future__ import annotations

from typing import Any

import torch

from circuitfind import __version__
from circuitfind.checkpoint import Keeper
from circuitfind.eta import duration
from circuitfind.findings import Ready, method_block, task_block
from circuitfind.methods.make import Method
from circuitfind.methods.scorer import Scorer
from circuitfind.methods.sofar import SoFar
from circuitfind.preflight import RunOptions
from circuitfind.resume import OF_CIRCUIT, identity
from circuitfind.sittings import Clock, Noted


def go_on(
    keeper: Keeper, ready: Ready, options: RunOptions, method: Method, clock: Clock, notes: Noted
) -> SoFar | None:
    """What an earlier sitting of settled ``options`` had come to. Raises OutputError where it was of something else."""
    return keeper.start(state_identity(ready, options, method), clock.spent, notes.warn)


def state_identity(ready: Ready, options: RunOptions, method: Method) -> dict[str, Any]:
    """All that a method's outcome depends on, to the last bit: a state is taken up only where it is the same.

    Scores are the same whatever circuit is made of them. On a CPU they depend on no batch size.
    """
    blocks = identity(ready.model.to_dict(), task_block(ready), method_block(ready, method, options))
    device = options.device.partition(":")[0]
    if isinstance(method, Scorer):
        blocks = {key: value for key, value in blocks.items() if key not in OF_CIRCUIT}
        blocks |= {} if device == "cpu" else {"batch_size": ready.work.batch_size}
    return blocks | {"device": device, "circuitfind": __version__, "torch": torch.__version__}


def taken_up(keeper: Keeper, clock: Clock, told: str, part: str = "search") -> str:
    """Which run goes on, and how far this part of it was."""
    return f"going on with {keeper.folder}: {told}, after {duration(clock.seconds.get(part, 0.0))}"
