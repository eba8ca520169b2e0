"""Which run ``--resume`` goes on with, and whether it is the one that is asked for."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.record import RUN_FILE
from circuitfind.errors import BusyError, CircuitError, CircuitfindError, OutputError
from circuitfind.methods.neuron_options import NEURONS
from circuitfind.methods.options import SIZES, spell_candidates
from circuitfind.runs.checkpoint import State, check_same, differences, read_state
from circuitfind.runs.folder import complete, is_cut_off
from circuitfind.runs.lock import at_work, hold
from circuitfind.runs.ownership import STATE_FILE

if TYPE_CHECKING:
    from circuitfind.options import RunOptions
    from circuitfind.progress import Progress
    from circuitfind.prompts.pairs import Task

FLAGS = {"n_prompts": "prompts", "formats": "format", "settings": "set"}
"""Options whose field has another name than their flag."""
OF_CIRCUIT = (*SIZES, NEURONS, "select")
"""What decides which circuit is made of scores, and not what they are."""


def identity(
    model: Mapping[str, Any], task: Mapping[str, Any], method: Mapping[str, Any]
) -> dict[str, Any]:
    """What decides a search's outcome, in a user's words, from the blocks of a circuit file.

    Neither batch size nor threads nor memory are in it: they change no outcome.
    """
    return {
        "task": task["name"],
        "prompts": task["n_prompts"],
        "seed": task["seed"],
        "prompts_sha256": task["prompts_sha256"],
        "bos": task["bos"],
        **({"tokenizer_sha256": task["tokenizer_sha256"]} if "tokenizer_sha256" in task else {}),
        **({"task_file_sha256": task["file_sha256"]} if "file_sha256" in task else {}),
        "model": model["name"],
        "model_sha256": model["sha256"],
        "method": method["name"],
        "level": "edge",  # unless the record says otherwise
        "kv": "per-head",
        **_flat({key: value for key, value in method.items() if key not in ("name", "candidates")}),
        "start_from": (method.get("start_from") or {"name": "none"})["name"],
        "candidates": spell_candidates(method.get("candidates")),
        "positions": bool(method.get("positions")),
    }


def _flat(block: Mapping[str, Any]) -> dict[str, Any]:
    """What stands in the blocks of methods that are part of another, named by where it stands."""
    flat: dict[str, Any] = {}
    for key, value in block.items():
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, dict) and "name" in part for part in parts):
            flat[key] = value
            continue
        flat[key] = ",".join(part["name"] for part in parts)
        for part in parts:
            flat |= {
                f"{key} {part['name']}: {name}": x for name, x in _flat(part).items() if name != "name"
            }
    return flat


def asked(options: RunOptions, task: Task, model: str) -> dict[str, Any]:
    """The part of ``identity`` that is known before torch is: what is left to a default is compared later."""
    known = {
        "task": task.name,
        "task_file_sha256": task.file_sha256,
        "seed": options.seed,
        "bos": options.bos,
        "model": model,
        "method": options.method,
        "threshold": options.threshold,
        "metric": options.metric,
        "ablation": options.ablation,
        "objective": options.objective,
        "schedule": options.schedule,
        "candidates": options.candidates or "none",
        "level": options.level,
        "kv": options.kv,
        "dtype": options.dtype,
        "positions": options.positions,
        "steps": options.steps,
        "of": ",".join(options.of) or None,
        "combine": options.combine,
        "start_from": options.start_from or "none",
        **dict(options.settings),
        **{name: getattr(options, name) for name in OF_CIRCUIT},
    }
    return {key: value for key, value in known.items() if value is not None}


def find_unfinished(
    folder: Path, asked: Mapping[str, Any], resume: bool, progress: Progress
) -> tuple[State | None, bool]:
    """What there is of the run that is asked for in ``folder``, which the user named: its state, if
    it is unfinished, and whether it is finished. ``resume``: it was asked for in so many words, and
    it is told where there is nothing.

    Raises OutputError where the folder holds a run of something else, a damaged state, or another
    process is at work.
    """
    if (folder / STATE_FILE).exists():
        return find_state(folder, asked, resume), False
    if resume and (folder / RUN_FILE).exists():
        check_same(folder, _identity_of_finished(folder), asked)
        return None, True
    if resume:
        progress.stage(f"{folder} holds nothing of a run to go on with: it begins anew")
    return None, False


def recover(folder: Path) -> None:
    """Ends an exchange of files that was cut off in ``folder``, if there is one."""
    if is_cut_off(folder):
        with hold(folder):
            complete(folder)


def find_state(folder: Path, asked: Mapping[str, Any], resume: bool = True) -> State:
    """The state in ``folder``.

    Raises OutputError where it is of something else, where it is damaged, and where another process
    is at work on it.
    """
    state = read_state(folder)
    if resume:
        check_same(folder, state.identity, asked)
    elif differing := differences(state.identity, asked):
        raise OutputError(
            f"{folder} holds an unfinished run of something else: {', '.join(differing)}.\n"
            "Give another --out, or --force to replace it."
        )
    if state.worker.is_another_at_work():
        raise BusyError(at_work(folder, str(state.worker.pid), state.worker.host, state.worker.since))
    return state


def find_latest(parent: Path, asked: Mapping[str, Any], progress: Progress) -> State | None:
    """The state saved last of the unfinished runs below ``parent`` that are what is asked for; None
    where there is none, which is told, with what speaks against the latest of the others.

    Raises BusyError where another process is at work on the only one.
    """
    problems: list[CircuitfindError] = []
    unfinished = sorted(
        parent.glob(f"*/{STATE_FILE}"), key=lambda path: path.stat().st_mtime, reverse=True
    )
    for path in unfinished:
        try:
            return find_state(path.parent, asked)
        except CircuitfindError as problem:
            problems.append(problem)
    for busy in (problem for problem in problems if isinstance(problem, BusyError)):
        raise busy
    why = f" ({str(problems[0]).partition(chr(10))[0].rstrip('.')})" if problems else ""
    progress.stage(f"there is no unfinished run of this below {parent}{why}: it begins anew")
    return None


def _identity_of_finished(folder: Path) -> dict[str, Any]:
    """What the run in ``folder`` was asked for, from its circuit file. Raises OutputError where
    that is damaged.
    """
    try:
        circuit = Circuit.load(folder)
        return identity(circuit.model, circuit.task, circuit.method)
    except (CircuitError, KeyError, TypeError) as error:
        why = (
            str(error)
            if isinstance(error, CircuitError)
            else f"{folder} has no circuit that a run wrote."
        )
        raise OutputError(f"{why}\nGive --force in place of --resume to redo it.") from None


def resume_command(options: RunOptions, folder: Path) -> str:
    """What to type to go on with a run that was cut off.

    >>> from circuitfind.runs.plan import RunOptions
    >>> resume_command(RunOptions("ioi", "tiny", n_prompts=4, bos=False), Path("runs/a b"))
    "circuitfind run ioi --model tiny --prompts 4 --no-bos --out 'runs/a b' --resume"
    """
    words = ["circuitfind", "run", options.task]
    for option in fields(options):
        value = getattr(options, option.name)
        if option.name not in ("task", "out", "force", "resume") and value != option.default:
            words += _as_typed(FLAGS.get(option.name, option.name.replace("_", "-")), value)
    return shlex.join([*words, "--out", str(folder), "--resume"])


def _as_typed(flag: str, value: Any) -> list[str]:
    if flag == "memory":
        return ["--memory", f"{value}B"]
    if flag == "set":
        return [word for name, setting in value for word in ("--set", f"{name}={setting}")]
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
