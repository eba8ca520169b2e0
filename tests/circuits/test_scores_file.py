"""Scores on disk: what is written is what is read, to the bytes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load

from circuitfind.circuits.graph import Graph
from circuitfind.circuits.masks import readable
from circuitfind.circuits.scores_file import prompt_scores_file, rounded, scores_file


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [(torch.float32, torch.float32), (torch.float64, torch.float64), (torch.bfloat16, torch.float32)],
)
def test_scores_survive_their_file_with_the_names_of_rows_and_columns(
    dtype: torch.dtype, stored: torch.dtype, tmp_path: Path
) -> None:
    graph = Graph(2, 2)
    edges = readable(graph)
    scores = torch.where(
        edges, torch.rand(edges.shape, generator=torch.Generator().manual_seed(0)), torch.nan
    ).double()
    data = scores_file(graph, scores, dtype)
    read = load(data)["scores"]
    assert read.dtype == stored
    assert torch.equal(read.nan_to_num(-1), scores.to(stored).nan_to_num(-1))
    assert torch.equal(read.isfinite(), edges)
    (tmp_path / "scores.safetensors").write_bytes(data)
    with safe_open(tmp_path / "scores.safetensors", framework="pt") as file:
        names = file.metadata()
    assert json.loads(names["receivers"]) == [str(receiver) for receiver in graph.receivers]
    assert json.loads(names["senders"]) == [str(sender) for sender in graph.senders]


def test_the_same_scores_give_the_same_bytes() -> None:
    graph = Graph(2, 2)
    scores = torch.where(readable(graph), 0.5, torch.nan).double()
    written = {
        scores_file(graph, scores, torch.float32) for _ in range(20)
    }  # safetensors shuffles its head
    assert len(written) == 1


def draw(n_prompts: int, scale: float, seed: int = 0) -> torch.Tensor:
    """Scores of many sizes for the edges of a small graph."""
    generator = torch.Generator().manual_seed(seed)
    edges = readable(Graph(2, 2))
    sizes = torch.randn(n_prompts, *edges.shape, generator=generator) * scale
    return (sizes * torch.rand(sizes.shape, generator=generator) ** 4).masked_fill(~edges, math.nan)


@given(st.floats(1e-12, 1e12), st.integers(0, 1000))
def test_scores_of_prompts_are_kept_to_half_a_thousandth_of_their_size_whatever_it_is(
    scale: float, seed: int
) -> None:
    scores = draw(3, scale, seed)
    kept = rounded(Graph(2, 2), scores)
    edges = readable(Graph(2, 2)).expand_as(scores)
    largest = float(scores[edges].abs().max())
    error = (kept - scores)[edges].abs()
    assert bool((error <= scores[edges].abs() * 2**-11 + largest * 2**-39).all())
    assert torch.equal(kept.isnan(), ~edges)


def test_what_is_read_back_is_what_a_bootstrap_draws_from() -> None:
    graph, scores = Graph(2, 2), draw(4, 3e-5)
    read = load(prompt_scores_file(graph, scores))
    assert read["scores"].dtype == torch.float16
    assert read["scores"].shape == (4, graph.n_edges)
    back = torch.ldexp(read["scores"].float(), read["exponent"])
    places = [graph.order(edge) for edge in graph.edges()]
    again = rounded(graph, scores)[:, [row for row, _ in places], [sender for _, sender in places]]
    assert torch.equal(back, again)
    assert torch.equal(
        rounded(graph, rounded(graph, scores)).nan_to_num(), rounded(graph, scores).nan_to_num()
    )


def test_scores_that_are_all_zero_stay_so() -> None:
    scores = torch.zeros_like(draw(2, 1.0)).masked_fill(~readable(Graph(2, 2)), math.nan)
    assert torch.equal(rounded(Graph(2, 2), scores).nan_to_num(), scores.nan_to_num())
