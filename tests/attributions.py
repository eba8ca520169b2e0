"""What tests of methods that score edges have in common."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Protocol

import torch

from circuitfind.methods.method import Job
from circuitfind.metrics.measures import MetricName
from circuitfind.metrics.objective import make_objective
from circuitfind.models.components import Layer, Mlp, Readout
from circuitfind.models.forward import at_end, trace
from circuitfind.models.transformer import Transformer
from circuitfind.patching.problem import Problem
from circuitfind.progress import Progress, Silent
from circuitfind.prompts.batch import Batch
from tests.oracles.literal import Literal
from tests.random_models import random_batch, random_model, random_transformer


class Scorer(Protocol):
    def score(self, problem: Problem, job: Job = ...) -> torch.Tensor: ...


def score(
    method: Scorer,
    model: Transformer,
    batch: Batch,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> torch.Tensor:
    return method.score(Problem(model, batch, batch_size), Job(progress or Silent()))


def late(batch: Batch) -> Batch:
    """The batch with the first three tokens of clean and corrupted prompts the same: runs begin behind them."""
    return replace(batch, corrupted=torch.cat((batch.clean[:, :3], batch.corrupted[:, 3:]), dim=1))


@cache
def literal(family: str, seed: int) -> Literal:
    return Literal(random_model(family, seed))


def agrees(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Fails where scores are not the literal ones, or none of those is worth the comparison."""
    assert float(expected.nan_to_num(0).abs().max()) > 1e-3
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.allclose(found, expected, rtol=1e-8, atol=1e-8, equal_nan=True)


def same_bits(method: Scorer, family: str, dtype: torch.dtype) -> None:
    """Fails where the batch size or the number of threads changes a bit of a score."""
    model, batch = random_transformer(family, 7, dtype=dtype), random_batch(7, (5, 7, 4, 6, 7, 3, 5))
    batch = batch if family == "gpt2" else late(batch)
    expected = score(method, model, batch)
    assert expected.dtype == dtype
    before = torch.get_num_threads()
    try:
        for n_threads, batch_size in ((2, 4), (2, 3), (1, 1)):
            torch.set_num_threads(n_threads)
            found = score(method, model, batch, batch_size)
            assert torch.equal(found.nan_to_num(9), expected.nan_to_num(9)), (n_threads, batch_size)
    finally:
        torch.set_num_threads(before)


def total_effect(model: Transformer, batch: Batch, metric: MetricName) -> torch.Tensor:
    """How much higher the objective is on each corrupted prompt."""
    finals = [at_end(trace(model, tokens).final, batch.end) for tokens in (batch.clean, batch.corrupted)]
    clean, corrupted = make_objective(metric, model, batch, finals[0])(torch.stack(finals))
    return corrupted - clean


def linear(model: Transformer) -> Transformer:
    """The model with norms that only divide by 1e9, attention spread evenly, and every hidden ReLU open."""
    scale = 1e9

    def straight(layer: Layer) -> Layer:
        assert layer.b_Q is not None and layer.b_in is not None
        open_hidden = layer.b_in.abs() + 1e4  # and what it adds to the stream is taken off again
        layer = replace(layer, b_in=open_hidden, b_out=layer.b_out - open_hidden @ layer.W_out)
        layer = replace(layer, W_Q=layer.W_Q * 0, b_Q=layer.b_Q * 0)
        return replace(layer, W_V=layer.W_V * scale, W_in=layer.W_in * scale)

    norm = replace(model.architecture.readout.norm, eps=scale**2)
    blocks = tuple(replace(block, norm=norm, mlp=Mlp("relu")) for block in model.architecture.blocks)
    architecture = replace(model.architecture, blocks=blocks, readout=Readout(norm))
    layers = tuple(map(straight, model.layers))
    return replace(model, architecture=architecture, layers=layers, final_gain=model.final_gain * scale)
