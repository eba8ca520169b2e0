"""What a method had come to at any moment is enough to end with the same bits, also out of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from circuitfind.methods import exact, exact_neurons
from circuitfind.methods.attribution.eap import EAP
from circuitfind.methods.catalogue import CATALOGUE
from circuitfind.methods.ensemble import Ensemble, WarmStart
from circuitfind.methods.exact import Exact
from circuitfind.methods.exact_neurons import ExactNeurons
from circuitfind.methods.make import METHODS
from circuitfind.methods.masks import pruning
from circuitfind.methods.masks.probing import SubnetworkProbing
from circuitfind.methods.masks.pruning import EdgePruning
from circuitfind.methods.method import Job, Scorer
from circuitfind.methods.saved_state import Save, SoFar
from circuitfind.methods.search import acdc
from circuitfind.methods.search.acdc import ACDC
from circuitfind.methods.search.neurons import ACDCNeurons, FoundNeurons
from circuitfind.models.transformer import Transformer
from circuitfind.patching.problem import Problem
from circuitfind.progress import Silent
from circuitfind.prompts.batch import Batch
from circuitfind.runs.checkpoint import Spent, Worker, encode_state, read_state
from circuitfind.runs.folder import STATE_FILE
from tests.random_models import random_batch, random_transformer

LENGTHS = (5, 7, 4, 6, 5, 4, 7, 5, 6, 4)  # three blocks of masks' prompts, of which a step takes one
MASKS: dict[str, Any] = {
    "metric": "loss",
    "steps": 7,
    "learning_rate": 0.3,
    "prompts_per_step": 4,
    "seed": 2,
}
METHODS_THAT_SCORE: dict[str, Scorer] = {
    "exact": Exact("kl"),
    "exact, grouped": Exact("loss", kv="grouped"),
    "exact, nodes": Exact("kl", level="node"),
    "exact, neurons": ExactNeurons("kl"),
    "probing": SubnetworkProbing(**MASKS, penalty=2.0),
    "pruning": EdgePruning(**MASKS, sparsity=0.9),
    "pruning, of nodes too": EdgePruning(**MASKS, sparsity=0.9, node_sparsity=0.5),
    "pruning from exact": WarmStart(EdgePruning(**MASKS, sparsity=0.9), Exact("loss")),
    "probing from eap": WarmStart(SubnetworkProbing(**MASKS), EAP("loss")),
    "ensemble": Ensemble((EAP("loss"), Exact("loss"), Exact("kl"))),
    "ensemble of nodes": Ensemble((Exact("loss", level="node"), Exact("kl", level="node")), level="node"),
}
every_scorer = pytest.mark.parametrize("name", METHODS_THAT_SCORE)


@pytest.fixture(autouse=True)
def many_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few tests at once, and gates that move from the first step on."""
    for module in (exact, exact_neurons):
        monkeypatch.setattr(module, "TESTS_AT_ONCE", 3)
    monkeypatch.setattr(pruning, "START", 1.0)


class Counting(Silent):
    """Progress that counts how often it is told."""

    def __init__(self) -> None:
        self.n_updates = 0

    def update(self, done: float, total: float, note: str = "") -> None:
        self.n_updates += 1


def made() -> tuple[Transformer, Batch]:
    return random_transformer("llama", 3, dtype=torch.float32), random_batch(3, LENGTHS)


def through_file(so_far: SoFar, folder: Path) -> SoFar:
    (folder / STATE_FILE).write_bytes(encode_state(so_far, {}, Spent(), Worker.this()))
    return read_state(folder).so_far()


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """To the last bit, NaN where the other is NaN."""
    return one.dtype == other.dtype and torch.equal(one.nan_to_num(9), other.nan_to_num(9))


def all_the_same(one: SoFar, other: SoFar) -> bool:
    names = one.tensors.keys() == other.tensors.keys()
    told = (dict(one.numbers), one.told) == (dict(other.numbers), other.told)
    return names and told and all(same(one.tensors[name], other.tensors[name]) for name in one.tensors)


def run(
    method: Scorer, start: SoFar | None = None, batch_size: int = 8, progress: Silent | None = None
) -> tuple[torch.Tensor, list[SoFar]]:
    """The scores, and all that was saved on the way."""
    saved: list[SoFar] = []
    model, batch = made()
    job = Job(progress or Silent(), start, lambda so_far: saved.append(so_far.copy()))
    scores = method.score(Problem(model, batch, batch_size), job)
    return scores, saved


@every_scorer
def test_a_method_taken_up_at_any_moment_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    method = METHODS_THAT_SCORE[name]
    expected, saved = run(method)
    assert len(saved) >= 7
    for number in range(0, len(saved), max(1, len(saved) // 5)):
        found, further = run(method, through_file(saved[number], tmp_path), batch_size=3)
        assert same(found, expected), number
        assert len(further) == len(saved) - number - 1, number
        assert all(map(all_the_same, further, saved[number + 1 :])), number


@every_scorer
def test_from_its_end_there_is_nothing_left_to_do(name: str, tmp_path: Path) -> None:
    method, progress = METHODS_THAT_SCORE[name], Counting()
    expected, saved = run(method)
    found, further = run(method, through_file(saved[-1], tmp_path), progress=progress)
    assert same(found, expected) and progress.n_updates == len(further) == 0


@every_scorer
def test_what_was_saved_tells_how_far_it_was(name: str) -> None:
    _, saved = run(METHODS_THAT_SCORE[name])
    assert all(" of " in so_far.told for so_far in saved)
    assert len({so_far.told for so_far in saved}) >= min(len(saved), 7)


def test_a_method_that_takes_no_time_begins_anew() -> None:
    (model, batch), method = made(), EAP("loss")
    found = method.score(Problem(model, batch, 8), Job(start=SoFar({}, {"step": 3})))
    assert same(found, method.score(Problem(model, batch, 8)))


def test_the_catalogue_says_which_methods_go_on() -> None:
    able = {
        name
        for name, method in METHODS.items()
        if issubclass(method, ACDC) or getattr(method, "resumes", False)
    }
    assert able == {info.name for info in CATALOGUE.values() if info.resumes}
    assert all(getattr(method, "resumes", False) for method in METHODS_THAT_SCORE.values())


def test_parts_stay_apart() -> None:
    both = SoFar({"x": torch.zeros(1)}, {"n": 1}, "first").as_part("1") | SoFar(
        {}, {"n": 2}, "second"
    ).as_part("10")
    first, second = both.part("1"), both.part("10")
    assert first is not None and second is not None
    assert (list(first.tensors), first.numbers, second.tensors, second.numbers) == (
        ["x"],
        {"n": 1},
        {},
        {"n": 2},
    )
    assert both.told == "second" and both.part("0") is None


# the search of neurons


@pytest.mark.parametrize("threshold", [0.001, 0.02])
def test_a_search_of_neurons_taken_up_after_any_chain_ends_with_the_same_bits(
    threshold: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acdc, "SHORTEST_CHAIN", 2)
    monkeypatch.setattr(acdc, "LONGEST_CHAIN", 7)
    model, batch = random_transformer("llama", 3, dtype=torch.float32), random_batch(3, LENGTHS[:3])

    def find(start: SoFar | None, save: Save) -> FoundNeurons:
        return ACDCNeurons(threshold).find(Problem(model, batch, 8), Job(start=start, save=save))

    saved: list[SoFar] = []
    whole = find(None, lambda so_far: saved.append(so_far.copy()))
    assert 0 < int(whole.kept.sum()) < len(whole.kept) and len(saved) > 12
    for number in [*range(0, len(saved), len(saved) // 8), len(saved) - 1]:
        further: list[SoFar] = []
        again = find(
            through_file(saved[number], tmp_path), lambda so_far, to=further: to.append(so_far.copy())
        )
        assert all_the_same(again.to_so_far("kl"), whole.to_so_far("kl")), number
        assert all(map(all_the_same, further, saved[number + 1 :])), number
