"""p values agree with what can be counted by hand, and are uniform under the null."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from circuitfind.circuits.draws import Draw
from circuitfind.evaluation.statistics import (
    centred_kernel,
    dependence,
    holm,
    share_differs,
    wins_less_often,
    wins_more_often,
)


def test_holm_multiplies_the_smallest_by_all_and_never_falls_behind_a_smaller_one() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx(
        (0.03, 0.06, 0.06)
    )  # 3 x .01, 2 x .03, then 1 x .04 < .06
    assert holm([0.6, 0.9]) == (1.0, 1.0)
    assert holm([0.2]) == (0.2,) and holm([]) == ()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_raises_every_p_value(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(p <= c <= 1 for p, c in zip(p_values, corrected, strict=True))
    assert min(corrected) == min(1.0, len(p_values) * min(p_values))
    pairs = sorted(zip(p_values, corrected, strict=True))
    assert all(a[1] <= b[1] for a, b in itertools.pairwise(pairs))


def as_far(wins: int, n: int, p: Fraction) -> Fraction:
    """The probability of a share as far from 1/2, counted out."""
    far = [k for k in range(n + 1) if abs(2 * k - n) >= abs(2 * wins - n)]
    return sum((math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in far), Fraction(0))


@pytest.mark.parametrize("epsilon", [Fraction(0), Fraction(1, 10), Fraction(1, 4)])
def test_the_share_of_wins_is_tested_at_the_edge_of_what_the_null_allows(epsilon: Fraction) -> None:
    for n in (1, 2, 5, 12):
        for wins in range(n + 1):
            p = share_differs(wins, n, float(epsilon))
            assert p == pytest.approx(float(as_far(wins, n, Fraction(1, 2) + epsilon)), abs=1e-12)
            inside = [Fraction(1, 2) + epsilon * Fraction(step, 4) for step in range(-4, 5)]
            assert all(p >= float(as_far(wins, n, q)) - 1e-12 for q in inside)


def test_with_no_tolerance_it_is_the_sign_test() -> None:
    for wins in range(21):
        assert share_differs(wins, 20, 0.0) == pytest.approx(binomtest(wins, 20, 0.5).pvalue)
    assert share_differs(0, 0, 0.1) == 1.0


def test_wins_are_weighed_against_the_quantile_on_the_right_side() -> None:
    assert wins_more_often(50, 50, 0.9) == pytest.approx(0.9**50)
    assert wins_less_often(0, 3, 0.9) == pytest.approx(0.1**3)
    assert wins_more_often(0, 3, 0.9) == wins_less_often(3, 3, 0.9) == 1.0


def literal_hsic(x: list[float], y: list[float]) -> float:
    """tr(K H L H) / (n - 1)^2, one product of matrices after the other."""
    n = len(x)
    centre = np.eye(n) - 1 / n

    def kernel(values: list[float]) -> np.ndarray:
        width = np.median([abs(a - b) for a, b in itertools.combinations(values, 2)])
        return np.array([[math.exp(-((a - b) ** 2) / (2 * width**2)) for b in values] for a in values])

    return float(np.trace(kernel(x) @ centre @ kernel(y) @ centre)) / (n - 1) ** 2


def noise(seed: int, n: int) -> list[float]:
    return np.random.default_rng(seed).normal(size=n).tolist()


def test_hsic_is_the_trace_of_its_definition() -> None:
    x, y = noise(1, 9), noise(2, 9)
    assert dependence(x, y, 1, 0)[0] == pytest.approx(literal_hsic(x, y), abs=1e-12)
    assert centred_kernel(x).sum(0) == pytest.approx([0.0] * 9, abs=1e-12)


def test_a_permutation_counts_where_it_is_at_least_as_large() -> None:
    x, y, draw = noise(1, 6), noise(3, 6), Draw(5)
    orders = [draw.order(6) for _ in range(40)]
    as_large = sum(
        literal_hsic(x, [y[i] for i in order]) >= literal_hsic(x, y) - 1e-12 for order in orders
    )
    assert 0 < as_large < 40
    assert dependence(x, y, 40, 5)[2] == pytest.approx((1 + as_large) / 41)


def test_under_independence_p_values_are_uniform() -> None:
    p_values = sorted(dependence(noise(2 * i, 12), noise(2 * i + 1, 12), 99, i)[2] for i in range(300))
    expected = [(i + 0.5) / 300 for i in range(300)]
    assert max(abs(p - e) for p, e in zip(p_values, expected, strict=True)) < 1.36 / math.sqrt(
        300
    )  # Kolmogorov, 5%


def test_dependence_without_correlation_is_found() -> None:
    x = noise(4, 60)
    hsic, size, p = dependence(x, [v * v for v in x], 999, 0)
    assert hsic > 0 and 0.1 < size < 1 and p == 0.001
    assert dependence(x, [3 * v - 1 for v in x], 99, 0)[1] == pytest.approx(1.0)


def test_a_number_that_is_the_same_on_every_prompt_depends_on_nothing() -> None:
    assert dependence(noise(4, 8), [2.0] * 8, 99, 0) == (0.0, 0.0, 1.0)


def test_values_most_of_which_are_equal_still_have_a_width() -> None:
    x = [0.0] * 9 + [1.0]
    assert dependence(x, x, 99, 0)[1] == pytest.approx(1.0)
