"""A state that fits its checksum and nothing else: a run either says what is wrong with it, or ends; never a fault."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from circuitfind import pipeline
from circuitfind.errors import CircuitfindError, OutputError
from circuitfind.methods.saved_state import SoFar
from circuitfind.pipeline import RunOptions, run
from circuitfind.runs import checkpoint
from circuitfind.runs.checkpoint import Keeper, State, encode_state, read_state
from circuitfind.runs.ownership import STATE_FILE

RUNS: dict[str, dict[str, Any]] = {
    "acdc": {"threshold": 0.05},
    "acdc, grouped inputs": {"threshold": 0.05, "kv": "grouped"},
    "acdc, grouped": {"threshold": 0.05, "schedule": "grouped"},
    "acdc, nodes": {"threshold": 0.05, "level": "node"},
    "acdc, neurons": {"threshold": 0.01, "level": "neuron"},
    "candidates": {"threshold": 0.05, "candidates": "exact:60"},
    "exact": {"method": "exact", "edges": 60, "bootstrap": 5},
    "exact, nodes": {"method": "exact", "level": "node", "nodes": 6},
    "exact, neurons": {"method": "exact", "level": "neuron", "neurons": 40},
    "edge-pruning": {"method": "edge-pruning", "edges": 60, "steps": 9},
    "probing": {"method": "subnetwork-probing", "edges": 60, "steps": 9, "start_from": "eap"},
    "ensemble": {"method": "ensemble", "edges": 60, "of": ("exact", "eap"), "combine": "max"},
}
FAST = ("acdc", "exact", "edge-pruning")


class Killed(BaseException):
    """Nothing of the program runs afterwards, as far as a test can have it."""


def options(name: str, **more: Any) -> RunOptions:
    return RunOptions("ioi", "tiny", n_prompts=3, formats=(), out=Path("run"), **RUNS[name] | more)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "PATIENCE", 0.0)


def state_of(name: str, n_saves: int) -> State:
    """What a run of this kind has saved so many times, or last before that."""
    original, counted = Keeper.save, 0

    def save(keeper: Keeper, so_far: SoFar) -> None:
        nonlocal counted
        original(keeper, so_far)
        counted += 1
        if counted == n_saves:
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Keeper, "save", save)
        patch.setattr(pipeline, "write_findings", lambda *_: (_ for _ in ()).throw(Killed))
        run(options(name))
    return read_state(Path("run"))


def damages(so_far: SoFar) -> dict[str, SoFar]:
    """The same state with one thing wrong with it, in every way that is thought of here."""
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "no rows": lambda x: x[:0] if x.ndim else x.reshape(1),
        "a row less": lambda x: x[1:] if x.ndim else x.reshape(1, 1),
        "flat": lambda x: x.flatten() if x.ndim != 1 else x.unsqueeze(0),
        "another dtype": lambda x: x.to(torch.float16),
        "whole numbers": lambda x: x.nan_to_num(0, 0, 0).to(torch.int64),
        "NaN": lambda x: torch.full_like(x, math.nan) if x.is_floating_point() else ~x,
        "infinite": lambda x: torch.full_like(x, math.inf) if x.is_floating_point() else x.flip(0),
        "negative": lambda x: torch.full_like(x, -1e30) if x.is_floating_point() else torch.ones_like(x),
        "zero": torch.zeros_like,
        "some NaN": lambda x: (
            x.index_fill(x.ndim - 1, torch.tensor([0]), math.nan) if _has_floats(x) else x.flip(-1)
        ),
        "upside down": lambda x: x.flip(list(range(x.ndim))),
    }
    found = {}
    for key, tensor in so_far.tensors.items():
        rest = {name: x for name, x in so_far.tensors.items() if name != key}
        found[f"{key} missing"] = replace(so_far, tensors=rest)
        for what, change in changes.items():
            found[f"{key} {what}"] = replace(
                so_far, tensors={**rest, key: change(tensor.clone()).contiguous()}
            )
    for key in so_far.numbers:
        rest_of = {name: x for name, x in so_far.numbers.items() if name != key}
        found[f"{key} missing"] = replace(so_far, numbers=rest_of)
        for value in (-1, 0.5, 10**6, 1e300, math.nan, math.inf, -math.inf):
            found[f"{key} {value}"] = replace(so_far, numbers={**rest_of, key: value})
    found["nothing"] = SoFar({})
    found["something else"] = SoFar({"x": torch.zeros(3)}, {"y": 1})
    return found


def _has_floats(x: Tensor) -> bool:
    return x.is_floating_point() and x.ndim > 0


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in RUNS]
)
def test_a_damaged_state_is_told_or_gone_on_with(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    state = state_of(name, n_saves=4)
    original, made = pipeline.make_ready, []

    def make_ready(plan: Any, notes: Any, clock: Any) -> Any:
        """The model is loaded once."""
        if not made:
            made.append(original(plan, notes, clock))
        for part in ("load", "task"):
            with clock.time(part):
                pass
        return replace(made[0], options=replace(plan.options, device="cpu"))

    monkeypatch.setattr(pipeline, "make_ready", make_ready)
    told = []
    for what, damaged in damages(state.so_far()).items():
        for path in Path("run").iterdir():
            path.unlink()
        Path("run", STATE_FILE).write_bytes(
            encode_state(damaged, state.identity, state.spent, state.worker)
        )
        try:
            run(options(name, resume=True))
        except CircuitfindError as error:
            assert str(error).count("\n") <= 1, what
            told.append(what)
        except Exception as error:
            raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    assert len(told) > 8
    assert not {
        f"{key} {what}" for key in state.so_far().tensors for what in ("flat", "another dtype")
    } - {*told}


# what is beside the tensors


def write_state(said: Any, text: str | None = None) -> None:
    """A state file with this in its metadata, whole by its checksum."""
    text = json.dumps(said) if text is None else text
    head, body = checkpoint._split(save({"kept": torch.zeros(3)}))
    head["__metadata__"] = {"state": text, "sha256": checkpoint._checksum(head, text, body)}
    start = json.dumps(head).encode()
    Path(STATE_FILE).write_bytes(len(start).to_bytes(8, "little") + start + bytes(body))


SAID: dict[str, Any] = {
    "format": "circuitfind.search",
    "version": checkpoint.VERSION,
    "identity": {"task": "ioi"},
    "spent": {"seconds": {"load": 1.0}, "peak_memory": 1, "sittings": 1},
    "worker": asdict(checkpoint.Worker("host", 1, 1.0)),
    "numbers": {"n_tests": 3},
    "told": "3 tests",
}


@pytest.mark.parametrize(
    "value", [None, 3, -1, "x", [], {}, [[]], {"seconds": 3}, 1e400, 10**400, {"pid": 2**80}]
)
@pytest.mark.parametrize("key", sorted(SAID))
def test_metadata_of_another_kind_are_told(key: str, value: Any) -> None:
    write_state({**SAID, key: value})
    try:
        read_state(Path())
    except OutputError as error:
        assert str(error).count("\n") == 1 and "--force" in str(error)
    else:
        assert type(value) is type(SAID[key])


@pytest.mark.parametrize(
    "text",
    ["", "3", "null", "[]", '"x"', "{", "[" * 100_000, json.dumps(SAID).replace('"told"', '"untold"')],
)
def test_metadata_that_are_no_state_are_told(text: str) -> None:
    write_state(None, text)
    with pytest.raises(OutputError, match="damaged"):
        read_state(Path())


@pytest.mark.parametrize("block", ["spent", "worker"])
def test_a_block_of_the_metadata_of_another_kind_is_told(block: str) -> None:
    for key in SAID[block]:
        for value in (None, "x" * 1000, -5, math.inf, {}, [3]):
            write_state({**SAID, block: {**SAID[block], key: value}})
            if (key, value) != ("seconds", {}):
                with pytest.raises(OutputError, match="damaged"):
                    read_state(Path())


def test_a_head_that_claims_to_be_longer_than_the_file_is_told() -> None:
    Path(STATE_FILE).write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    with pytest.raises(OutputError, match="damaged"):
        read_state(Path())
