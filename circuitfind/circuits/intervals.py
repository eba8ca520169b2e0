"""Confidence intervals over prompts that hold what they promise with few of them: means, and ratios of means.

A percentile interval of n prompts is too narrow: it knows neither that the spread is itself
estimated (Student's t) nor that prompts are skewed, and of 8 prompts "95%" held the truth 84 to 89
times in a hundred; BCa (Efron 1987), which corrects skew and bias to second order, does no better
with so few. Here an end is the farther of two:

- that of the studentised bootstrap (Efron 1979; Hall 1988): with f what was found and s its
  standard error, of each resample t* = (f* - f) / s*; the ends are f - s q(t*, 1 - tail) and f - s
  q(t*, tail), which takes skew into account;
- that of Student's t with n - 1 degrees of freedom, f +- s t, which heavy tails need, as resamples
  don't have them.

Measured by simulation (``tests/evaluation/test_intervals.py``: normal, skewed and heavy-tailed
prompts), "95%" holds the truth 92 to 98 times in a hundred from LEAST_PROMPTS on (90 for a KL of
which few prompts have most), and down to 87 below. What few prompts decide that are quite unlike
the rest, no interval knows that has seen none of them.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.special import stdtrit

LEAST_PROMPTS = 16
"""With fewer prompts than this, an interval holds the truth less often than it says."""
LEAST_SPREAD = 1e-6
"""A resample whose standard error is less than this share of that found is of prompts that are all alike."""
AT_ONCE = 1 << 20
"""Numbers of resamples that stand in memory at once."""
Ends = tuple[Float[np.ndarray, "*rows"], Float[np.ndarray, "*rows"]]


def promise(level: float, n_prompts: object) -> str:
    """How sure an interval over so many prompts is, in words.

    >>> promise(0.95, 16)
    '95%'
    >>> promise(0.95, 8)
    'nominally 95%, which 8 prompts are too few for'
    """
    if isinstance(n_prompts, int) and n_prompts < LEAST_PROMPTS:
        return f"nominally {level:.0%}, which {n_prompts} prompts are too few for"
    return f"{level:.0%}"


def farther_ends(
    found: Float[np.ndarray, "*rows"],
    error: Float[np.ndarray, "*rows"],
    drawn: Float[np.ndarray, "*rows draw"],
    errors: Float[np.ndarray, "*rows draw"],
    n_prompts: int,
    level: float,
) -> Ends:
    """The lower and upper ends for what was ``found`` with a standard ``error``, and ``drawn`` with
    ``errors`` of their own in resamples of two prompts or more. A resample of prompts that are all
    alike tells nothing."""
    tells = errors > LEAST_SPREAD * error[..., None]
    pivots = np.divide(drawn - found[..., None], errors, out=np.zeros_like(drawn), where=tells)
    tail = (1 - level) / 2
    low, high = np.quantile(pivots, [tail, 1 - tail], axis=-1)
    of_t = stdtrit(n_prompts - 1, 1 - tail)
    ends = found - error * np.maximum(high, of_t), found + error * np.maximum(-low, of_t)
    return np.asarray(ends[0]), np.asarray(ends[1])


def ratio_interval(
    above: Float[np.ndarray, " prompt"],
    below: Float[np.ndarray, " prompt"],
    draws: Int[np.ndarray, "draw prompt"],
    level: float,
    least: float,
) -> tuple[float, float] | None:
    """The interval of mean(above) / mean(below), both of the same prompts, of which ``draws`` are
    the resamples.

    The standard error is that of the first order: the residuals above - ratio below, by the mean
    below. None for fewer than two prompts, or where the mean below is at most ``least`` in more
    than 1 - ``level`` of the resamples.
    """
    is_sound = [np.abs(below[some].mean(-1)) > least for some in _pieces(draws)]
    sound = draws[np.concatenate(is_sound)]
    if len(below) < 2 or abs(below.mean()) <= least or len(sound) < level * len(draws):
        return None
    drawn = [_ratio(above[some], below[some]) for some in _pieces(sound)]
    ratios, errors = (np.concatenate(each) for each in zip(*drawn, strict=True))
    low, high = farther_ends(*_ratio(above, below), ratios, errors, len(below), level)
    return float(low), float(high)


def _pieces(draws: Int[np.ndarray, "draw prompt"]) -> list[Int[np.ndarray, "some prompt"]]:
    """The resamples in pieces that take little memory whatever the number of prompts."""
    rows = max(1, AT_ONCE // draws.shape[1])
    return [draws[first : first + rows] for first in range(0, len(draws), rows)]


def _ratio(
    above: Float[np.ndarray, "*rows prompt"], below: Float[np.ndarray, "*rows prompt"]
) -> tuple[Float[np.ndarray, "*rows"], Float[np.ndarray, "*rows"]]:
    """The ratio of the means, and its standard error."""
    n_prompts, total = below.shape[-1], below.sum(-1)
    ratio = np.asarray(above.sum(-1) / total)
    residuals = above - ratio[..., None] * below
    spread = np.sqrt((residuals**2).sum(-1) * n_prompts / (n_prompts - 1))
    return ratio, np.asarray(spread / np.abs(total))


def mean_intervals(
    deviations: Float[np.ndarray, "row prompt"], counts: Float[np.ndarray, "draw prompt"], level: float
) -> Ends:
    """The ends of each row's mean, less that mean, from its ``deviations`` from it; ``counts`` are
    how often each prompt stands in each resample.

    Deviations are taken as whole numbers of so few bits that every sum is exact: bits depend on no
    order of summing.
    """
    n_prompts = deviations.shape[1]
    bits = (52 - n_prompts.bit_length()) // 2
    unit = np.abs(deviations).max(1, initial=0.0) / (1 << bits)
    whole = np.rint(
        np.divide(deviations, unit[:, None], out=np.zeros_like(deviations), where=unit[:, None] > 0)
    )
    drawn, squares = (power @ counts.T / n_prompts for power in (whole, whole**2))
    errors = np.sqrt(np.maximum(squares - drawn**2, 0.0) / (n_prompts - 1))
    error = np.sqrt((whole**2).sum(1) / n_prompts / (n_prompts - 1))
    low, high = farther_ends(np.zeros(len(whole)), error, drawn, errors, n_prompts, level)
    return low * unit, high * unit
