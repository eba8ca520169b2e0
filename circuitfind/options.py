"""What a run is asked for: plain data."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from circuitfind.models.loading.catalogue import DEFAULT_MODEL


@dataclass(frozen=True)
class RunOptions:
    """What a run is asked to do, as the command line or a caller says it.

    ``method`` None is acdc, or eap-ig where a number of edges is asked for; ``metric`` None the
    task's own, ``threshold`` None acdc's default for the metric, ``n_prompts`` None as many as
    there are up to the method's number, ``batch_size`` None what suits the device, ``bos`` None
    what the model's tokenizer does by itself, ``out`` None a new folder under results/ (with
    ``resume`` the latest there of the same), ``memory`` (bytes) None whatever is available,
    ``steps`` None the method's own, ``bootstrap`` (resamples) None no bootstrap. ``of`` names an
    ensemble's methods, ``start_from`` the method whose scores learned masks start from;
    ``settings`` are a method's own options. ``candidates`` (``METHOD:N``) are the edges that a
    search tests, None all. ``level`` and ``kv`` say what is decided on (``circuits/units.py``);
    ``nodes`` is a number of them at node level, ``neurons`` one at neuron level. ``positions``: an
    edge is one thing at each role of the task, or at each position.
    """

    task: str
    model: str = DEFAULT_MODEL
    method: str | None = None
    threshold: float | None = None
    metric: str | None = None
    ablation: str = "corrupted"
    objective: str = "improve"
    n_prompts: int | None = None
    seed: int = 0
    batch_size: int | None = None
    device: str = "auto"
    dtype: str = "float32"
    bos: bool | None = None
    out: Path | None = None
    force: bool = False
    formats: tuple[str, ...] = ("svg",)
    resume: bool = False
    memory: int | None = None
    schedule: str = "sequential"
    edges: int | None = None
    fraction: float | None = None
    select: str = "top"
    steps: int | None = None
    bootstrap: int | None = None
    grad_drop: bool = False
    of: tuple[str, ...] = ()
    combine: str = "mean"
    start_from: str | None = None
    settings: tuple[tuple[str, Setting], ...] = ()
    candidates: str | None = None
    level: str = "edge"
    kv: str = "per-head"
    nodes: int | None = None
    neurons: int | None = None
    positions: bool = False


Setting = bool | int | float | str | None


@dataclass(frozen=True)
class SettledOptions(RunOptions):
    """What a run will do: its method and metric are decided (``methods/options.py``)."""

    method: str = ""
    metric: str = ""


def settled(options: RunOptions, **decided: Any) -> SettledOptions:
    """The options with what was decided in place of what was left open."""
    asked = {field.name: getattr(options, field.name) for field in fields(RunOptions)}
    return SettledOptions(**(asked | decided))
