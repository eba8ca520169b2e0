"""Several methods as one, beside the definition spelled out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from circuitfind.circuits.masks import readable
from circuitfind.errors import UsageError
from circuitfind.methods.attribution.eap import EAPIG
from circuitfind.methods.ensemble import Ensemble, WarmStart, combine, rank
from circuitfind.methods.ifr import IFR
from circuitfind.methods.masks.pruning import EdgePruning
from circuitfind.methods.method import Job
from circuitfind.patching.problem import Problem
from tests.random_models import random_batch, random_transformer


@dataclass(frozen=True)
class Fixed:
    """A method that has been told its scores."""

    scores: torch.Tensor
    name: str = "fixed"

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name}

    def score(self, problem: Problem, job: Job = Job()) -> torch.Tensor:
        return self.scores


EDGES = readable(random_transformer("gpt2", 0).architecture.graph)


def draw(seed: int, n_prompts: int = 3, scale: float = 1.0) -> torch.Tensor:
    scores = torch.randn(
        n_prompts, *EDGES.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return (scores * scale).masked_fill(~EDGES, math.nan)


def scaled(scores: torch.Tensor) -> torch.Tensor:
    mean = scores.mean(0)[EDGES]
    return scores[:, EDGES] / math.sqrt(sum(float(x) ** 2 for x in mean) / len(mean))


@pytest.mark.parametrize("how", ["mean", "max", "min"])
def test_scores_are_combined_edge_by_edge_in_each_methods_own_size(how: str) -> None:
    each = [draw(1), draw(2, scale=1e4), draw(3, scale=1e-4)]
    found = combine(each, EDGES, how)
    assert torch.equal(found.isnan(), (~EDGES).expand_as(found))
    alike = torch.stack([scaled(scores) for scores in each])
    for prompt in range(3):
        for edge in range(int(EDGES.sum())):
            values = [float(x) for x in alike[:, prompt, edge]]
            wanted = {"mean": sum(values) / 3, "max": max(values, key=abs), "min": min(values, key=abs)}[
                how
            ]
            assert float(found[prompt][EDGES][edge]) == pytest.approx(wanted, rel=1e-9)


def test_methods_without_scores_of_single_prompts_give_one_row() -> None:
    found = combine([draw(1), draw(2, n_prompts=1)], EDGES, "mean")
    wanted = (scaled(draw(1)).mean(0) + scaled(draw(2, n_prompts=1))[0]) / 2
    assert found.shape[0] == 1
    assert torch.allclose(found[0][EDGES], wanted)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_a_rank_is_the_middle_of_the_places_that_equal_sizes_share(sizes: list[int]) -> None:
    ordered = sorted(sizes)
    for size, place in zip(sizes, rank(torch.tensor(sizes, dtype=torch.float64)).tolist(), strict=True):
        places = [i + 1 for i, other in enumerate(ordered) if other == size]
        assert place == pytest.approx(sum(places) / len(places) / len(sizes))


def test_the_mean_rank_does_not_see_units_or_signs() -> None:
    each = [draw(1), draw(2)]
    found = combine(each, EDGES, "rank-mean")
    again = combine([each[0] * -7, each[1] * 1e-6], EDGES, "rank-mean")
    assert torch.equal(found.nan_to_num(), again.nan_to_num())
    assert float(found[0][EDGES].min()) > 0
    assert float(found[0][EDGES].max()) <= 1


def test_an_ensemble_scores_with_all_of_its_methods() -> None:
    model, batch = random_transformer("llama", 3), random_batch(3)
    methods = (EAPIG(metric="kl"), IFR())
    found = Ensemble(methods).score(Problem(model, batch, 8))
    each = [method.score(Problem(model, batch, 8)) for method in methods]
    assert torch.equal(
        found.nan_to_num(), combine(each, readable(model.architecture.graph), "mean").nan_to_num()
    )


def test_scores_that_are_all_zero_do_not_spoil_the_others() -> None:
    nothing = torch.zeros_like(draw(0)).masked_fill(~EDGES, math.nan)
    found = combine([draw(1), nothing], EDGES, "mean")
    assert torch.allclose(found[:, EDGES], scaled(draw(1)) / 2)


@pytest.mark.parametrize("of", [(), (IFR(),)])
def test_an_ensemble_of_fewer_than_two_is_refused(of: tuple[IFR, ...]) -> None:
    with pytest.raises(UsageError, match="Name two methods or more"):
        Ensemble(of)


def test_an_unknown_way_to_combine_is_refused() -> None:
    with pytest.raises(UsageError, match="Did you mean 'rank-mean'"):
        Ensemble((IFR(), EAPIG()), "rank_mean")


def test_learned_masks_start_in_the_order_of_the_sizes_of_the_scores() -> None:
    model, batch = random_transformer("gpt2", 0), random_batch(0)
    learned = EdgePruning(steps=1, learning_rate=1e-9)
    start = Fixed(draw(5))
    found = WarmStart(learned, start).score(Problem(model, batch, 8))
    scores, sizes = found[0][EDGES], draw(5).mean(0).abs()[EDGES]
    order = sizes.argsort()
    assert bool((scores[order].diff() >= -0.05 * scores[order][1:]).all())  # but for what one step moves
    assert float(scores[order][-1]) > 5 * float(scores[order][0])
    assert WarmStart(learned, start).to_dict()["start_from"] == {"name": "fixed"}


@pytest.mark.parametrize(
    ("of", "metric"),
    [
        ((EAPIG("loss"), IFR()), "loss"),
        ((IFR(), EAPIG("loss")), "loss"),
        ((Fixed(draw(1)), Fixed(draw(2))), None),
    ],
)
def test_the_record_names_the_metric_of_those_that_have_one(
    of: tuple[Any, ...], metric: str | None
) -> None:
    assert Ensemble(of).to_dict().get("metric") == metric
