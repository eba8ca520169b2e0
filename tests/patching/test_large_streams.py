"""A stream of large numbers: what rounding leaves of what was removed decides nothing, in float32 as in float64."""

from __future__ import annotations

import pytest
import torch

from circuitfind.circuits.masks import readable
from circuitfind.evaluation.performance import evaluate
from circuitfind.methods.outcome import Found
from circuitfind.methods.search.acdc import ACDC
from circuitfind.models.architectures.table import read_transformer
from circuitfind.models.transformer import Transformer
from circuitfind.patching.ablation import ABLATIONS, AblationName
from circuitfind.patching.problem import Problem
from tests.random_models import N_CTX, bridge, make_model, random_batch, with_means

FACTOR = 300.0
DTYPES = (torch.float32, torch.float64)
ROUNDING = 1e-3


def large(dtype: torch.dtype, seed: int = 1) -> Transformer:
    """A Llama whose embeddings are some hundred times what its heads and MLPs write."""
    model = make_model("llama", seed)
    with torch.no_grad():
        model.get_input_embeddings().weight *= FACTOR
    return read_transformer(bridge(model, dtype), N_CTX)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_a_circuit_is_worth_the_same_in_float32_and_float64(ablation: AblationName, share: float) -> None:
    values = []
    for dtype in DTYPES:
        model, batch = large(dtype), random_batch(1)
        edges = readable(model.architecture.graph)
        draw = torch.rand(edges.shape, generator=torch.Generator().manual_seed(3))
        outcome = evaluate(model, with_means(model, batch, ablation), edges & (draw < share), ablation, 4)
        values.append(
            torch.tensor([list(outcome.circuit.values[name]) for name in ("kl", "logit-diff", "loss")])
        )
    assert torch.allclose(*values, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("seed", range(4))
def test_acdc_under_zero_ablation_decides_alike_in_float32_and_float64(seed: int) -> None:
    found: list[Found] = []
    for dtype in DTYPES:
        method = ACDC(threshold=0.05, ablation="zero")
        found.append(method.find(Problem(large(dtype, seed), random_batch(seed), 4)))
    assert torch.equal(found[0].kept, found[1].kept)
    assert torch.allclose(
        *(each.scores.nan_to_num(0.0).double() for each in found), rtol=ROUNDING, atol=ROUNDING
    )


def test_with_every_edge_into_it_removed_a_receiver_reads_nothing_at_all() -> None:
    """An RMSNorm makes nothing of zero; of what rounding would leave it makes up to 1 / sqrt(eps) as much."""
    model, batch = large(torch.float32), random_batch(1)
    edges = readable(model.architecture.graph)
    outcome = evaluate(model, batch, torch.zeros_like(edges), "zero", 4)
    assert set(outcome.ablated.values["logit-diff"]) == {0.0}
