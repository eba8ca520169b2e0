"""What rounding decides: a search in bfloat16 tells of every test that float32 would have decided otherwise."""

from __future__ import annotations

import pytest
import torch

from circuitfind.circuits.masks import readable
from circuitfind.circuits.units import Units
from circuitfind.methods.outcome import Found
from circuitfind.methods.search.acdc import ACDC
from circuitfind.methods.search.reuse import decision_order, is_tested, undecidable
from circuitfind.methods.search.rounding import MARGINS, margin_of, scores_of
from circuitfind.models.loading.load import load_tokenizer
from circuitfind.models.loading.locate import locate
from circuitfind.models.loading.model import load_model
from circuitfind.models.transformer import Transformer, in_dtype
from circuitfind.patching.problem import Problem
from circuitfind.progress import Silent
from circuitfind.prompts.batch import Batch, tokenise
from circuitfind.prompts.files import load_task
from tests.random_models import random_batch, random_transformer


def loaded(dtype: torch.dtype, n_prompts: int) -> tuple[Transformer, Batch]:
    tokenizer = load_tokenizer("tiny")
    batch = tokenise(load_task("ioi").make(tokenizer, n_prompts, 0), tokenizer)
    model = load_model("tiny", locate("tiny", Silent()), batch, "cpu", dtype)
    assert model.difference < 1e-5 and model.transformer.dtype == dtype
    return model.transformer, batch


def exact_scores(model: Transformer, batch: Batch, found: Found) -> torch.Tensor:
    """Every test's score in float32, in the run as it then was."""
    graph, exact = model.architecture.graph, in_dtype(model, torch.float32)
    order, tested, scores = (
        decision_order(graph),
        is_tested(graph, found).flatten(),
        torch.zeros(found.kept.numel()),
    )
    tests, places = [], []
    for number, place in enumerate(order.tolist()):
        if tested[place]:
            before = readable(graph).flatten()
            before[order[:number]] = found.kept.flatten()[order[:number]]
            after = before.clone()
            after[place] = False
            tests.append((before.reshape(found.kept.shape), after.reshape(found.kept.shape)))
            places.append(place)
    scores[places] = scores_of(Problem(exact, batch, 8), tests).float()
    return scores.reshape(found.kept.shape)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["sequential", "screened"])
def test_what_bfloat16_decides_otherwise_than_float32_is_told(schedule: str) -> None:
    threshold, (model, batch) = 0.02, loaded(torch.bfloat16, 8)
    graph, found = (
        model.architecture.graph,
        ACDC(threshold, schedule=schedule).find(Problem(model, batch, 8)),
    )
    margin = margin_of(Problem(model, batch, 8), found.kept)
    told = {str(edge) for edge in undecidable(Units(graph), found, threshold, margin)}
    differs = is_tested(graph, found) & ((exact_scores(model, batch, found) < threshold) == found.kept)
    assert {str(edge) for edge in graph.edges() if differs[graph.order(edge)]} <= told
    assert margin < threshold and len(told) < found.n_tests / 2


def test_the_margin_of_bfloat16_is_what_its_scores_differ_by() -> None:
    model, batch = in_dtype(random_transformer("llama", 3), torch.bfloat16), random_batch(3)
    kept = readable(model.architecture.graph)
    assert 1e-4 < margin_of(Problem(model, batch, 8), kept) < 10
    for dtype, margin in MARGINS.items():
        assert margin_of(Problem(in_dtype(model, dtype), batch, 8), kept) == margin


def test_what_lies_behind_the_last_block_is_never_rounded() -> None:
    model = random_transformer("gpt2", 3, dtype=torch.float32)
    rounded = in_dtype(model, torch.bfloat16)
    assert rounded.dtype == rounded.layers[0].W_in.dtype == torch.bfloat16
    assert torch.equal(rounded.W_U, model.W_U) and torch.equal(rounded.final_gain, model.final_gain)
