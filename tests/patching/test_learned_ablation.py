"""Optimal ablation: the loss and its gradient are the literal ones, and what is learned is better than the means."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from circuitfind.circuits.masks import readable
from circuitfind.circuits.outputs import Outputs
from circuitfind.errors import ModelError, OutputError
from circuitfind.evaluation.performance import evaluate
from circuitfind.models.forward import trace
from circuitfind.models.transformer import Transformer
from circuitfind.models.workers import Threads
from circuitfind.patching import learned_ablation
from circuitfind.patching.ablation import outputs_of
from circuitfind.patching.learned_ablation import (
    Learned,
    constants_file,
    learn_constants,
    read_constants,
    to_outputs,
)
from circuitfind.patching.mean_ablation import mean_outputs, standard_deviations
from circuitfind.pipeline import RunOptions, run
from circuitfind.progress import Silent
from circuitfind.prompts.batch import Batch
from circuitfind.prompts.files import read_prompts
from tests.attributions import literal
from tests.oracles.optimal import loss as literal_loss
from tests.random_models import FAMILIES, REFERENCE, random_batch, random_transformer

every_family = pytest.mark.parametrize("family", FAMILIES)
PROMPTS = random_batch(5, (5, 7, 4, 6, 5, 3, 7, 6, 4))


def means_of(model: Transformer, reference: Batch = PROMPTS) -> Outputs:
    return mean_outputs(model, reference, reference.n_pos, "optimal", 8)


def random_constants(model: Transformer, seed: int) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    like = means_of(model, REFERENCE)
    return Outputs.of_parts(
        [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in like.parts]
    )


def learn(model: Transformer, seed: int = 0, reference: Batch = PROMPTS) -> Learned:
    return learn_constants(model, reference, means_of(model, reference), seed, Silent())


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned_ablation, "STEPS", 20)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8, 1.0])
@every_family
def test_the_loss_and_its_gradient_are_those_of_autograd_through_the_literal_run(
    family: str, share: float
) -> None:
    model, batch = random_transformer(family, 3), random_batch(3, (5, 7, 4))
    constants = random_constants(model, 4)
    with Threads(model.device) as threads:
        data = learned_ablation._Data(model, batch, threads)
        kept = data.draw(torch.Generator().manual_seed(1), share)
        found, gradient = data.gradient(constants, [(0, kept)])
    leaves = Outputs.of_parts([x.clone().requires_grad_() for x in constants.parts])
    expected = literal_loss(literal(family, 3), batch, kept, leaves)
    slopes = torch.autograd.grad(expected, leaves.parts)
    assert found == pytest.approx(float(expected.detach()), abs=1e-8)
    assert max(float(slope.abs().max()) for slope in slopes) > 1e-3
    for ours, slope in zip(to_outputs(model, gradient).parts, slopes, strict=True):
        assert torch.allclose(ours, slope, rtol=1e-8, atol=1e-8)


@every_family
def test_adam_goes_from_the_means_as_over_the_literal_losses(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learned_ablation, "STEPS", 3)
    model, batch = random_transformer(family, 3), random_batch(3, (5, 7, 4))
    found = learn(model, 6, batch).constants
    means, units = means_of(model, batch).parts, standard_deviations(model, batch, 2).parts
    moves = [torch.zeros_like(x, requires_grad=True) for x in means]
    optimiser, generator = torch.optim.Adam(moves), torch.Generator().manual_seed(6)
    edges = readable(model.architecture.graph)
    for step in range(3):
        optimiser.param_groups[0]["lr"] = learned_ablation.LEARNING_RATE * (3 - step) / 3
        share = float(torch.rand(1, generator=generator))
        kept = (torch.rand(edges.shape, generator=generator) >= share) & edges
        optimiser.zero_grad()
        constants = Outputs.of_parts(
            [mean + move * unit for mean, move, unit in zip(means, moves, units, strict=True)]
        )
        literal_loss(literal(family, 3), batch, kept, constants).backward()
        optimiser.step()
    for ours, mean, move, unit in zip(found.parts, means, moves, units, strict=True):
        assert float(move.detach().abs().max()) > 1e-3
        assert torch.allclose(ours, mean + move.detach() * unit, rtol=1e-7, atol=1e-7)


@every_family
def test_what_is_learned_is_better_than_the_means_where_it_was_learned(family: str) -> None:
    model = random_transformer(family, 3)
    found = learn(model)
    assert found.loss < found.loss_of_means and found.warning is None
    with Threads(model.device) as threads:
        data = learned_ablation._Data(model, PROMPTS, threads)
        generator = torch.Generator().manual_seed(9)
        runs = [(i % 3, data.draw(generator, i / 30)) for i in range(30)]
        assert data.gradient(found.constants, runs)[0] < data.gradient(means_of(model), runs)[0]


@every_family
def test_with_every_edge_kept_the_constants_change_nothing(family: str) -> None:
    model, batch = random_transformer(family, 1), random_batch(1)
    batch = replace(batch, constants=random_constants(model, 1))
    found = evaluate(model, batch, readable(model.architecture.graph), "optimal", 4)
    assert found.circuit.mean("kl") == pytest.approx(0, abs=1e-12)
    assert (found.ablated.mean("kl") or 0) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_neither_threads_nor_a_second_time_change_a_bit_and_a_seed_does(family: str) -> None:
    model = random_transformer(family, 7, dtype=torch.float32)
    expected = learn(model, 1)
    before = torch.get_num_threads()
    try:
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            found = learn(model, 1)
            assert constants_file(found.constants) == constants_file(expected.constants)
            assert (found.loss_of_means, found.loss) == (expected.loss_of_means, expected.loss)
    finally:
        torch.set_num_threads(before)
    assert constants_file(learn(model, 2).constants) != constants_file(expected.constants)


def test_deviations_are_those_of_every_position_up_to_the_answer() -> None:
    model = random_transformer("llama", 2)
    found = standard_deviations(model, REFERENCE, 2).parts
    alone = [REFERENCE.clean[i : i + 1, : int(end) + 1] for i, end in enumerate(REFERENCE.end)]
    runs = [outputs_of(trace(model, tokens)).parts for tokens in alone]
    for number, deviation in enumerate(found):
        rows = torch.cat([parts[number].flatten(-3, -2) for parts in runs], dim=-2)
        assert torch.allclose(
            deviation.flatten(-3, -2), rows.std(-2, correction=0, keepdim=True), atol=1e-10
        )


def test_constants_survive_their_file_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    constants = random_constants(random_transformer("llama", 1), 3)
    path = tmp_path / "constants.safetensors"
    path.write_bytes(constants_file(constants))
    assert all(
        torch.equal(a, b) for a, b in zip(read_constants(path).parts, constants.parts, strict=True)
    )
    for damage in (b"", constants_file(constants)[:-5]):
        path.write_bytes(damage)
        with pytest.raises(
            OutputError, match="does not hold the constants of optimal ablation, or is damaged"
        ):
            read_constants(path)


def test_a_loss_that_is_no_number_ends_it() -> None:
    model = random_transformer("gpt2", 1)
    broken = replace(model, W_U=model.W_U * math.nan)
    with pytest.raises(
        ModelError, match=r"diverged at step 1 of 20.*\n.*--dtype float64, or --ablation mean"
    ):
        learn(broken)


def test_constants_that_are_no_better_are_warned_of() -> None:
    constants = random_constants(random_transformer("gpt2", 1), 1)
    assert Learned(constants, 2.0, 1.9).warning is None
    assert "no better than the means: 2 nats under random masks, the means 1.5" in str(
        Learned(constants, 1.5, 2.0).warning
    )


# a run


def find(out: Path, **options: Any) -> Any:
    chosen = {"model": "tiny", "n_prompts": 5, "threshold": 0.1, "formats": (), "ablation": "optimal"}
    return run(RunOptions("ioi", **chosen | options, out=out))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"method": "eap-ig", "threshold": None, "edges": 60}])
def test_a_run_leaves_its_constants_and_what_they_gained_and_repeats_to_the_byte(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    first, second = (
        find(tmp_path / "first", **options),
        find(tmp_path / "second", **options, batch_size=1),
    )
    for name in ("circuit.json", "constants.safetensors", "scores.safetensors", "reference.jsonl"):
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()
    record = json.loads((first.folder / "run.json").read_text())["constants"]
    assert record["loss"] < record["loss_of_means"] and record["steps"] == 20
    assert "| learned constants | " in (first.folder / "report.md").read_text()
    assert (
        len(first.circuit.method["constants_sha256"]) == 64
        and first.circuit.method["ablation"] == "optimal"
    )
    assert first.circuit.method["means"]["n_prompts"] == len(
        read_prompts(first.folder / "reference.jsonl")
    )
