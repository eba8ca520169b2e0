"""Intervals hold the truth as often as they say, of few prompts too, as simulations show that know the truth."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import t as student

from circuitfind.circuits import intervals
from circuitfind.circuits.intervals import LEAST_PROMPTS, mean_intervals, promise, ratio_interval

N_RUNS, N_DRAWS = 400, 1000
Numbers = np.ndarray
Rng = np.random.Generator


def normal(rng: Rng, shape: tuple[int, int]) -> tuple[Numbers, Numbers, float]:
    below = rng.normal(4, 1.5, shape)
    return 0.8 * below + rng.normal(0, 1, shape), below, 0.8


def skewed(rng: Rng, shape: tuple[int, int]) -> tuple[Numbers, Numbers, float]:
    """The effect varies a lot between prompts, and so does the share of it that the circuit has (2/3 on average)."""
    below = 3 * rng.lognormal(0, 0.7, shape)
    return below * rng.beta(4, 2, shape), below, 4 / 6


def heavy(rng: Rng, shape: tuple[int, int]) -> tuple[Numbers, Numbers, float]:
    """Of a few prompts the effect is far off, even of the other sign."""
    below = 3 + 1.5 * rng.standard_t(4, shape)
    return 0.7 * below + rng.standard_t(3, shape), below, 0.7


def of_kl(rng: Rng, shape: tuple[int, int]) -> tuple[Numbers, Numbers, float]:
    """The ablated model's KL, and the circuit's, of which few prompts have most."""
    ablated = rng.lognormal(1.5, 0.6, shape)
    return ablated * (rng.lognormal(-1.9, 0.9, shape) - 1), -ablated, 1 - math.exp(-1.9 + 0.9**2 / 2)


KINDS = (normal, skewed, heavy, of_kl)
every_kind = pytest.mark.parametrize("kind", KINDS)
Draw = Callable[[Rng, tuple[int, int]], tuple[Numbers, Numbers, float]]


def resamples(n_prompts: int, n_draws: int) -> Numbers:
    return np.random.default_rng(0).integers(n_prompts, size=(n_draws, n_prompts))


def counted(draws: Numbers) -> Numbers:
    return np.stack([np.bincount(row, minlength=draws.shape[1]) for row in draws]).astype(float)


@every_kind
@pytest.mark.parametrize(
    ("n_prompts", "least"), [(4, 0.86), (8, 0.87), (LEAST_PROMPTS, 0.89), (32, 0.89)]
)
def test_the_interval_of_a_ratio_holds_the_truth(kind: Draw, n_prompts: int, least: float) -> None:
    above, below, truth = kind(np.random.default_rng(n_prompts), (N_RUNS, n_prompts))
    draws, held, of_percentiles = resamples(n_prompts, N_DRAWS), 0, 0
    for x, y in zip(above, below, strict=True):
        found = ratio_interval(x, y, draws, 0.95, 1e-9)
        assert found is not None
        held += found[0] <= truth <= found[1]
        low, high = np.quantile(x[draws].sum(1) / y[draws].sum(1), [0.025, 0.975])
        of_percentiles += low <= truth <= high
    assert held / N_RUNS >= (least if kind is of_kl or n_prompts < LEAST_PROMPTS else 0.91)
    assert held / N_RUNS <= 0.995
    assert held > of_percentiles


@every_kind
@pytest.mark.parametrize(
    ("n_prompts", "least"), [(4, 0.91), (8, 0.91), (LEAST_PROMPTS, 0.92), (32, 0.93)]
)
def test_the_interval_of_a_mean_holds_the_truth(kind: Draw, n_prompts: int, least: float) -> None:
    rng = np.random.default_rng(n_prompts)
    values, truth = kind(rng, (2000, n_prompts))[0], float(kind(rng, (2000, 1000))[0].mean())
    means = values.mean(1)
    low, high = mean_intervals(values - means[:, None], counted(resamples(n_prompts, 200)), 0.95)
    assert least <= float(((means + low <= truth) & (truth <= means + high)).mean()) <= 0.99


def test_an_interval_is_that_of_a_literal_loop() -> None:
    x, y = (rng.normal(3, 1, 6) for rng in map(np.random.default_rng, (1, 2)))
    draws, level = resamples(6, 50), 0.9

    def ratio(prompts: list[int]) -> tuple[float, float]:
        total = sum(y[i] for i in prompts)
        found = sum(x[i] for i in prompts) / total
        squares = sum((x[i] - found * y[i]) ** 2 for i in prompts)
        return found, math.sqrt(squares * 6 / 5) / abs(total)

    found, error = ratio(list(range(6)))
    each = [ratio(list(prompts)) for prompts in draws]
    pivots = [(f - found) / s for f, s in each if s > 1e-6 * error]
    assert len(pivots) == len(each)
    of_t = student.ppf(0.95, 5)
    low = min(found - of_t * error, found - float(np.quantile(pivots, 0.95)) * error)
    high = max(found + of_t * error, found - float(np.quantile(pivots, 0.05)) * error)
    assert ratio_interval(x, y, draws, level, 1e-9) == pytest.approx((low, high), rel=1e-12)
    deviations = x - x.mean()
    mean_low, mean_high = mean_intervals(deviations[None], counted(draws), level)
    as_ratio = ratio_interval(x, np.ones(6), draws, level, 1e-9)
    assert (x.mean() + mean_low[0], x.mean() + mean_high[0]) == pytest.approx(as_ratio, rel=1e-5)
    assert mean_high[0] >= of_t * statistics.stdev(x) / math.sqrt(6) * (1 - 1e-5)


def test_resamples_of_one_prompt_alone_count_for_nothing() -> None:
    x, y, draws = (
        np.array([1.0, 3.0, 2.0]),
        np.ones(3),
        np.array([[0, 0, 0], [0, 1, 2], [2, 2, 2], [0, 1, 1]]),
    )
    found = ratio_interval(x, y, draws, 0.95, 1e-9)
    assert found is not None and all(map(math.isfinite, found)) and found[1] - found[0] < 10


def test_there_is_none_of_one_prompt_or_where_nothing_is_below() -> None:
    assert ratio_interval(np.ones(1), np.ones(1), resamples(1, 9), 0.95, 1e-9) is None
    below = np.array([1.0, -1.0, 1.0, -1.0])
    assert ratio_interval(np.ones(4), below, resamples(4, 100), 0.95, 1e-9) is None


def test_the_order_of_edges_and_slices_of_them_change_no_bit() -> None:
    deviations = np.random.default_rng(0).standard_t(2, (300, 16))
    counts = counted(resamples(16, 100))
    low, high = mean_intervals(deviations, counts, 0.95)
    for place in (0, 7, 299):
        one = mean_intervals(deviations[place : place + 1], counts, 0.95)
        assert (one[0][0], one[1][0]) == (low[place], high[place])


def test_few_prompts_are_told_not_to_keep_the_promise() -> None:
    assert promise(0.95, LEAST_PROMPTS) == promise(0.95, None) == "95%"
    assert (
        promise(0.95, LEAST_PROMPTS - 1)
        == f"nominally 95%, which {LEAST_PROMPTS - 1} prompts are too few for"
    )


def test_how_many_resamples_are_in_memory_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(4)
    above, below, draws = random.normal(size=40), random.normal(1, 0.2, size=40), resamples(40, 300)
    expected = ratio_interval(above, below, draws, 0.95, 1e-9)
    for at_once in (1, 40 * 7, 1 << 20):
        monkeypatch.setattr(intervals, "AT_ONCE", at_once)
        assert ratio_interval(above, below, draws, 0.95, 1e-9) == expected is not None
