"""Means over other prompts: what is averaged, over what, and that nothing else changes a bit of it."""

from __future__ import annotations

import pytest
import torch

from circuitfind.circuits.outputs import Outputs
from circuitfind.errors import UsageError
from circuitfind.models.forward import trace
from circuitfind.patching.ablation import OF_MEANS, AblationName, outputs_of
from circuitfind.patching.mean_ablation import mean_outputs
from circuitfind.patching.reference import prepare
from circuitfind.prompts.batch import Batch
from tests.random_models import REFERENCE, random_batch, random_transformer, with_means

every_kind = pytest.mark.parametrize("ablation", OF_MEANS)


def parts(outputs: Outputs) -> list[torch.Tensor]:
    return [outputs.embedding, *outputs.z, *outputs.mlp_out]


def alone(i: int) -> torch.Tensor:
    return REFERENCE.clean[i : i + 1, : int(REFERENCE.end[i]) + 1]


def test_the_mean_is_over_every_position_of_every_prompt_up_to_its_answer() -> None:
    model = random_transformer("llama", 2)
    found = parts(mean_outputs(model, REFERENCE, 9, "mean", batch_size=8))
    runs = [parts(outputs_of(trace(model, alone(i)))) for i in range(REFERENCE.n_prompts)]
    for number, mean in enumerate(found):
        rows = torch.cat([run[number].flatten(-3, -2) for run in runs], dim=-2)
        assert mean.shape[-3:-1] == (1, 1)
        assert torch.allclose(mean.flatten(-3, -2), rows.mean(-2, keepdim=True), atol=1e-12)


def test_at_each_position_the_mean_is_over_the_prompts_that_reach_it_and_behind_the_last_over_all() -> (
    None
):
    model = random_transformer("gpt2", 2)
    found = parts(mean_outputs(model, REFERENCE, 9, "mean-positional", batch_size=8))
    over_all = parts(mean_outputs(model, REFERENCE, 9, "mean", batch_size=8))
    runs = [parts(outputs_of(trace(model, alone(i)))) for i in range(REFERENCE.n_prompts)]
    for number, mean in enumerate(found):
        assert mean.shape[-3:-1] == (1, 9)
        for position in range(9):
            here = [run[number][..., 0, position, :] for run in runs if position < run[number].shape[-2]]
            expected = torch.stack(here).mean(0) if here else over_all[number][..., 0, 0, :]
            assert torch.allclose(mean[..., 0, position, :], expected, atol=1e-12)


def test_prompts_that_are_shorter_than_those_of_the_means_take_the_first_positions() -> None:
    model = random_transformer("gpt2", 2)
    short, whole = (mean_outputs(model, REFERENCE, n, "mean-positional", 8) for n in (4, 6))
    assert torch.equal(short.embedding, whole.embedding[:, :4])


@every_kind
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_the_batch_size_changes_no_bit(ablation: AblationName, batch_size: int) -> None:
    model = random_transformer("pythia", 3, dtype=torch.float32)
    usual, found = (mean_outputs(model, REFERENCE, 7, ablation, size) for size in (8, batch_size))
    assert all(torch.equal(a, b) for a, b in zip(parts(found), parts(usual), strict=True))


@every_kind
def test_what_is_removed_is_the_same_for_every_prompt(ablation: AblationName) -> None:
    model = random_transformer("llama", 1)
    baseline = prepare(model, with_means(model, random_batch(1), ablation), ablation)
    now = baseline.change[0] + baseline.clean.embedding
    assert torch.allclose(now, now[:1].expand_as(now), atol=1e-12)
    assert torch.allclose(now, now[:, :1].expand_as(now), atol=1e-6) is (ablation != "mean-positional")


@every_kind
def test_without_the_means_the_ablation_is_refused(ablation: AblationName) -> None:
    with pytest.raises(UsageError, match="needs the means over other prompts"):
        prepare(random_transformer("gpt2", 1), random_batch(1), ablation)


def test_a_batch_keeps_its_means_in_every_block() -> None:
    model = random_transformer("gpt2", 1)
    batch = with_means(model, random_batch(1), "mean")
    assert batch.rows([1]).constants is batch.constants
    moved: Batch = batch.to("cpu")
    assert moved.constants is not None and batch.constants is not None
    assert torch.equal(moved.constants.embedding, batch.constants.embedding)
