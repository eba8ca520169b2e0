"""Circuits run one after another agree with each run on its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from circuitfind.evaluation.performance import NAMES, evaluate
from circuitfind.evaluation.trials import Kept, Trials
from circuitfind.models.workers import Threads
from circuitfind.patching.ablation import AblationName
from circuitfind.prompts.roles import Roles
from tests.random_models import FAMILIES, random_batch, random_transformer, with_means

LENGTHS = (5, 7, 4, 6, 7, 3, 5)


def some(edges: Kept, share: float, seed: int) -> Kept:
    return edges & (torch.rand(edges.shape, generator=torch.Generator().manual_seed(seed)) < share)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("ablation", ["corrupted", "mean"])
def test_every_circuit_is_worth_what_it_is_worth_by_itself(family: str, ablation: AblationName) -> None:
    model = random_transformer(family, seed=3)
    batch = with_means(model, random_batch(4, LENGTHS), ablation)
    with Threads(model.device) as threads:
        trials = Trials(model, batch, ablation, 4, threads)
        circuits = [some(trials.edges, share, seed) for seed, share in enumerate((0.9, 0.5, 0.2))]
        found = [trials.evaluate(kept) for kept in circuits]
    for kept, evaluation in zip(circuits, found, strict=True):
        expected = evaluate(model, batch, kept, ablation, 4)
        for name in NAMES:
            for run in ("full", "circuit", "ablated"):
                values, wanted = (getattr(e, run).values[name] for e in (evaluation, expected))
                assert values == pytest.approx(wanted, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_circuit_of_positions_is_worth_what_it_is_worth_by_itself(family: str) -> None:
    model, batch = random_transformer(family, seed=3), random_batch(4, LENGTHS)
    of = torch.full_like(batch.clean, -1)
    for prompt, end in enumerate(batch.end.tolist()):
        of[prompt, :end], of[prompt, end] = torch.arange(end) % 2, 2
    batch = replace(batch, roles=Roles(("A", "B", "END"), of))
    found = []
    for size in (2, 4):
        with Threads(model.device) as threads:
            trials = Trials(model, batch, "corrupted", size, threads)
            kept = some(trials.edges, 0.5, 1)
            trials.settle(kept)
            found.append(trials.evaluate(kept))
    assert trials.graph.roles == ("A", "B", "END")
    assert found[0] == found[1] == evaluate(model, batch, kept, "corrupted", 4)
    assert found[0].circuit.mean("kl") > 1e-3


def test_positions_of_no_role_hold_numbers_whatever_was_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, batch = random_transformer("gpt2", seed=3), random_batch(4, LENGTHS)
    of = torch.where(torch.arange(batch.n_pos) <= batch.end.unsqueeze(1), 0, -1)
    of[range(batch.n_prompts), batch.end] = 1
    batch = replace(batch, roles=Roles(("A", "END"), of))
    monkeypatch.setattr(
        torch.Tensor, "new_empty", lambda x, *shape, **how: x.new_full(shape, float("nan"))
    )
    with Threads(model.device) as threads:
        trials = Trials(model, batch, "corrupted", 4, threads)
        found = trials.run(some(trials.edges, 0.5, 1))
    assert found.mean("kl") is not None


def measured(threads: Threads, batch_size: int, settle: bool, **models: Any) -> list[tuple[float, ...]]:
    trials = Trials(models["model"], models["batch"], "corrupted", batch_size, threads)
    circuit = some(trials.edges, 0.6, 1)
    if settle:
        trials.settle(circuit)
    found = []
    for row, sender in circuit.nonzero().tolist()[::9]:
        without = circuit.clone()
        without[row, sender] = False
        found.append(trials.run(without, ("kl", "logit-diff")).values["kl"])
    return found


def test_neither_batch_size_nor_earlier_runs_change_a_bit() -> None:
    models = {"model": random_transformer("gpt2", seed=5), "batch": random_batch(6, LENGTHS)}
    with Threads(models["model"].device) as threads:
        expected = measured(threads, 4, settle=False, **models)
        assert len(set(expected)) > 1
        assert measured(threads, 4, settle=True, **models) == expected
        assert measured(threads, 64, settle=True, **models) == expected


def test_only_what_is_asked_for_is_measured() -> None:
    model, batch = random_transformer("gpt2", seed=5), random_batch(6, LENGTHS)
    with Threads(model.device) as threads:
        trials = Trials(model, batch, "corrupted", 4, threads)
        assert tuple(trials.run(trials.edges, ("kl",)).values) == ("kl",)
        assert trials.run(trials.edges, ("kl",)).values["kl"] == pytest.approx(
            [0.0] * len(LENGTHS), abs=1e-12
        )


def test_what_one_judgement_has_run_another_has_for_nothing() -> None:
    model, batch, told = random_transformer("gpt2", seed=5), random_batch(6, LENGTHS), list[int]()
    with Threads(model.device) as threads:
        trials = Trials(model, batch, "corrupted", 4, threads)
        circuit = some(trials.edges, 0.5, 1)
        parts = [some(circuit, 0.9, seed) for seed in range(3)]
        assert not trials.knows(circuit, parts, ("kl",))
        first = trials.run_within(circuit, parts, ("kl",), told.append)
        assert trials.knows(circuit, parts, ("kl",)) and not trials.knows(circuit, parts, ("loss",))
        threads.map = None  # type: ignore[assignment, method-assign]  # nothing can be run any more
        assert trials.run_within(circuit, parts, ("kl",), told.append) == first
    assert told == [3, 3]
