"""Whatever changes of all that decides a search's numbers, --resume is refused and names it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from circuitfind.errors import OutputError
from circuitfind.methods.catalogue import CATALOGUE as METHODS
from circuitfind.methods.saved_state import SoFar
from circuitfind.models.loading.catalogue import CATALOGUE
from circuitfind.models.loading.load import load_tokenizer
from circuitfind.pipeline import RunOptions, run
from circuitfind.prompts.files import load_task, write_prompts
from circuitfind.runs import checkpoint, identity, prepare, session
from circuitfind.runs.checkpoint import Keeper, read_state

TASK = """
from dataclasses import replace
from circuitfind.prompts.files import load_task

def mine(logits, answers, wrong_answers):
    return logits[:, 0] * 1.0

TASK = replace(load_task("ioi"), metrics={"mine": mine})
"""


class Killed(BaseException):
    pass


Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Case:
    """A run that is cut off, and what of it is then another: options, or whatever ``change`` does."""

    begun: dict[str, Any] = field(default_factory=dict)
    now: dict[str, Any] = field(default_factory=dict)
    change: Callable[[Patch], object] = lambda patch: None


def other_tokens(patch: Patch) -> None:
    """Two tokens swapped, which no prompt has."""
    path = Path("model/tokenizer.json")
    said = json.loads(path.read_text())
    vocabulary = said["model"]["vocab"]
    first, second = list(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(said))


def other_config(patch: Patch) -> None:
    path = Path("model/config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "layer_norm_epsilon": 1e-3}))


def write_file(seed: int) -> None:
    pairs = load_task("ioi").make(load_tokenizer("tiny"), 3, seed)
    Path("prompts.jsonl").write_text(write_prompts(pairs))


def other_prompts(patch: Patch) -> None:
    write_file(7)


def other_file(patch: Patch) -> None:
    path = Path("task.py")
    path.write_text(path.read_text().replace("* 1.0", "* 2.0"))


def other_version(name: str) -> Callable[[Patch], None]:
    known = identity.version
    return lambda patch: patch.setattr(
        identity, "version", lambda each: "0.1" if each == name else known(each)
    )


def on_another_device(patch: Patch) -> None:
    known = identity.state_identity
    patch.setattr(session, "state_identity", lambda *given: known(*given) | {"device": "cuda"})


def fewer_means(patch: Patch) -> None:
    patch.setattr(prepare, "REFERENCE_PROMPTS", 8)


ACDC = {"threshold": 0.05}
EXACT = {"method": "exact", "edges": 60}
PRUNING = {"method": "edge-pruning", "edges": 60, "steps": 9}
MODEL, FILE, OWN = {"model": "model"}, {"task": "prompts.jsonl"}, {"task": "task.py", "metric": "mine"}
CASES = {
    "task": Case(ACDC, {"task": "docstring"}),
    "prompts": Case(ACDC, {"n_prompts": 4}),
    "seed": Case(ACDC, {"seed": 1}),
    "prompts_sha256": Case(ACDC | FILE, change=other_prompts),
    "bos": Case(ACDC, {"bos": True}),
    "tokenizer_sha256": Case(ACDC | MODEL, change=other_tokens),
    "task_file_sha256": Case(ACDC | OWN, change=other_file),
    "model": Case(ACDC | MODEL, {"model": "tiny"}),
    "model_sha256": Case(ACDC | MODEL, change=other_config),
    "method": Case(ACDC, {"method": "exact", "edges": 60, "threshold": None}),
    "level": Case(ACDC, {"level": "node"}),
    "kv": Case(ACDC, {"kv": "grouped"}),
    "threshold": Case(ACDC, {"threshold": 0.06}),
    "metric": Case(ACDC, {"metric": "loss"}),
    "ablation": Case(ACDC, {"ablation": "zero"}),
    "objective": Case(ACDC | {"metric": "loss"}, {"objective": "match"}),
    "schedule": Case(ACDC, {"schedule": "grouped"}),
    "dtype": Case(ACDC, {"dtype": "float64"}),
    "candidates": Case(ACDC | {"candidates": "exact:60"}, {"candidates": "exact:61"}),
    "positions": Case(EXACT, {"positions": True}),
    "steps": Case(PRUNING, {"steps": 8}),
    "sparsity": Case(PRUNING, {"edges": 61}),
    "prompts_per_step": Case(PRUNING, {"settings": (("prompts_per_step", "2"),)}),
    "start_from": Case(PRUNING, {"start_from": "eap-ig"}),
    "of": Case({"method": "ensemble", "of": ("exact", "eap"), "edges": 60}, {"of": ("exact", "eap-ig")}),
    "combine": Case({"method": "ensemble", "of": ("exact", "eap"), "edges": 60}, {"combine": "max"}),
    "means": Case(ACDC | {"ablation": "mean"}, change=fewer_means),
    "constants_sha256": Case(ACDC | {"ablation": "optimal"}, change=fewer_means),
    "device": Case(ACDC, change=on_another_device),
    "circuitfind": Case(ACDC, change=lambda patch: patch.setattr(identity, "__version__", "0.0")),
    **{name: Case(ACDC, change=other_version(name)) for name in identity.COMPUTING},
}
SETTINGS = {name for info in METHODS.values() for name in info.settings}
"""Options of single methods; one of them stands for all."""
NOT_ASKED = {"order", "score"}
"""Said of a method, and never another for the same options."""
SLOW = ("constants_sha256",)


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "SAVE_SECONDS", 0.0)
    write_file(0)
    Path("task.py").write_text(TASK)
    shutil.copytree(CATALOGUE["tiny"].source.place, "model", ignore=lambda *_: ["train.py"])


def find(options: dict[str, Any], resume: bool = False) -> None:
    chosen = {"task": "ioi", "model": "tiny", "n_prompts": 3, "formats": ()} | options
    run(RunOptions(**chosen, out=Path("run"), resume=resume))


def cut_off(options: dict[str, Any]) -> dict[str, Any]:
    """What the state of a run was of that was killed when it had first been saved."""

    def save(keeper: Keeper, so_far: SoFar) -> None:
        known(keeper, so_far)
        raise Killed

    known = Keeper.save
    with Patch.context() as patch, pytest.raises(Killed):
        patch.setattr(Keeper, "save", save)
        find(options)
    return dict(read_state(Path("run")).identity)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CASES]
)
def test_a_run_is_not_gone_on_with_where_this_is_another(name: str, monkeypatch: Patch) -> None:
    case = CASES[name]
    identity = cut_off(case.begun)
    items = {key.rpartition(": ")[2] for key in identity}  # "of exact: metric" is the metric of a part
    assert items <= CASES.keys() | SETTINGS | NOT_ASKED
    case.change(monkeypatch)
    with pytest.raises(OutputError, match=rf"is a run of something else: .*\b{name}\b"):
        find(case.begun | case.now, resume=True)
    assert dict(read_state(Path("run")).identity) == identity


def test_the_same_run_goes_on() -> None:
    cut_off(ACDC | MODEL)
    find(ACDC | MODEL, resume=True)
    assert Path("run/run.json").exists()
