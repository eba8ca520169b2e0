"""Faithfulness prompt by prompt."""

from __future__ import annotations

import json

import pytest

from circuitfind.errors import UsageError
from circuitfind.evaluation.performance import Evaluation, Performance
from circuitfind.evaluation.spread import measure_spread


def evaluation(
    full: list[float], circuit: list[float], ablated: list[float], kl: list[float]
) -> Evaluation:
    runs = ((full, [0.0] * len(kl)), (circuit, kl), (ablated, [9.0] * len(kl)))
    return Evaluation(*(Performance({"logit-diff": tuple(values), "kl": tuple(k)}) for values, k in runs))


def test_each_prompt_has_its_own_denominator() -> None:
    found = measure_spread(evaluation([4, 2, 1], [3, 2, 2], [0, 1, 2], [0.1, 0.3, 0.2]), "logit-diff")
    assert found.values == (0.75, 1.0, 0.0)  # (3-0)/(4-0), (2-1)/(2-1), (2-2)/(1-2)
    assert found.faithfulness is not None and found.faithfulness.median == 0.75
    assert (found.kl.median, found.kl.worst, found.kl.worst_prompt) == (0.2, 0.3, 1)


def test_percentiles_are_interpolated_between_prompts() -> None:
    n = 101
    values = [float(i) / 100 for i in range(n)]
    found = measure_spread(evaluation([1.0] * n, values, [0.0] * n, values), "logit-diff")
    assert found.faithfulness is not None
    assert found.faithfulness.percentiles == pytest.approx((0.05, 0.25, 0.5, 0.75, 0.95))
    assert found.kl.percentiles == pytest.approx((0.05, 0.25, 0.5, 0.75, 0.95))


def test_the_worst_faithfulness_is_the_farthest_from_one_on_either_side() -> None:
    found = measure_spread(evaluation([1, 1, 1], [0.5, 1.0, 4.0], [0, 0, 0], [0, 0, 0]), "logit-diff")
    assert found.faithfulness is not None
    assert (found.faithfulness.worst, found.faithfulness.worst_prompt) == (4.0, 2)


def test_prompts_that_ablation_hardly_moves_are_counted_apart() -> None:
    found = measure_spread(evaluation([4, 1, 2.001], [3, 5, 9], [0, 1, 2], [0.1, 0.1, 0.1]), "logit-diff")
    assert found.values == (0.75, None, None) and found.n_apart == 2  # 0.001 is below 1% of the mean gap
    assert "2 of 3 prompts apart" in found.lines()[0]


def test_without_any_difference_there_is_no_faithfulness_but_a_kl() -> None:
    found = measure_spread(evaluation([1, 1], [1, 1], [1, 1], [0.5, 0.7]), "logit-diff")
    assert found.faithfulness is None and found.kl.worst == 0.7
    assert "no prompt has one" in found.lines()[0]
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False)) == found.to_dict()


def test_a_prompt_without_the_metric_is_refused_by_its_number() -> None:
    with pytest.raises(UsageError, match="logit-diff of prompt 2 is nan"):
        measure_spread(evaluation([1, float("nan")], [1, 1], [0, 0], [0, 0]), "logit-diff")
