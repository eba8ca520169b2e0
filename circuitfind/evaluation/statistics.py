"""The statistics behind the hypothesis tests: numbers in, p values out; no model, no circuit.

Every p value is valid at any number of prompts or draws: binomial tests are exact, and a
permutation test counts the observed order among the permuted ones, (1 + those at least as large) /
(1 + permutations), so that it is never 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.stats import binom, binomtest

from circuitfind.circuits.draws import Draw

Values = Sequence[float]


def holm(p_values: Values) -> tuple[float, ...]:
    """Corrected for their number (Holm 1979): the chance of any false rejection stays below the level.

    The i-th smallest of n is multiplied by n - i + 1, is at least as large as the smaller ones, and
    at most 1.
    """
    corrected, least = [0.0] * len(p_values), 0.0
    for place, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = min(1.0, max(least, p_values[i] * (len(p_values) - place)))
        corrected[i] = least
    return tuple(corrected)


def share_differs(wins: int, n: int, epsilon: float) -> float:
    """The p value of: the probability of a win differs from 1/2 by at most ``epsilon``.

    Two-sided: the largest probability, under any such probability of a win, of a share of wins as
    far from 1/2 as the one that was seen. It is largest at 1/2 + epsilon (and 1/2 - epsilon). With
    an epsilon of 0 this is the sign test.
    """
    fewer = min(wins, n - wins)
    if 2 * fewer == n:
        return 1.0
    p = 0.5 + epsilon
    return min(1.0, float(binom.cdf(fewer, n, p) + binom.sf(n - fewer - 1, n, p)))


def wins_less_often(wins: int, n: int, quantile: float) -> float:
    """The p value of: a win has at least the probability ``quantile``."""
    return float(binomtest(wins, n, quantile, alternative="less").pvalue)


def wins_more_often(wins: int, n: int, quantile: float) -> float:
    """The p value of: a win has at most the probability ``quantile``."""
    return float(binomtest(wins, n, quantile, alternative="greater").pvalue)


def centred_kernel(values: Values) -> Float[np.ndarray, "prompt prompt"]:
    """H K H of the Gaussian kernel exp(-(x - y)^2 / (2 width^2)), H = I - 1/n.

    The width is the median distance of two different prompts; where that is 0, the mean one. Values
    that are all equal have a kernel of zeros.
    """
    x = np.asarray(values)
    distances = np.abs(x[:, None] - x)
    apart = distances[np.triu_indices(len(x), 1)]
    width = float(np.median(apart)) or float(apart.mean())
    if width == 0:
        return np.zeros_like(distances)
    kernel = np.exp(-((distances / width) ** 2) / 2)
    centred: Float[np.ndarray, "prompt prompt"] = (
        kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean()
    )
    return centred


def dependence(x: Values, y: Values, n_permutations: int, seed: int) -> tuple[float, float, float]:
    """HSIC of two numbers a prompt, its normalised size from 0 to 1, and the p value of: they are
    independent.

    HSIC = tr(HKH HLH) / (n - 1)^2 (Gretton et al. 2007), against permutations of the prompts of
    ``y``. Divided by the root of HSIC(x, x) HSIC(y, y) it is 1 for two numbers that are the same up
    to their scale. Needs two prompts.
    """
    of_x, of_y, draw = centred_kernel(x), centred_kernel(y), Draw(seed)
    observed = float((of_x * of_y).sum())
    orders = (draw.order(len(x)) for _ in range(n_permutations))
    as_large = sum(float((of_x * of_y[np.ix_(o, o)]).sum()) >= observed * (1 - 1e-9) for o in orders)
    largest = float(np.sqrt((of_x**2).sum() * (of_y**2).sum()))
    size = observed / largest if largest else 0.0
    return observed / (len(x) - 1) ** 2, size, (1 + as_large) / (1 + n_permutations)
