"""Hard concrete gates (arXiv:1712.01312): random shares that gradients can move, and that are often
exactly 0 or 1.

A gate draws u, uniform in (0, 1), and stretches a concrete variable beyond both ends of [0, 1]:

    s = sigmoid((log u - log(1 - u) + log alpha) / TEMPERATURE),   share = clamp(s (HIGH - LOW) +
    LOW, 0, 1).

It is *open* when its share is above 0, with odds of alpha (-HIGH / LOW)^TEMPERATURE to 1.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from circuitfind.errors import UsageError

TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1
"""Those of arXiv:1712.01312, which subnetwork probing and edge pruning take over."""
OPENS = TEMPERATURE * math.log(-HIGH / LOW)
"""What is added to log alpha to get the log odds that a gate is open."""
LEAST_NOISE = 1e-6
"""Uniform noise keeps this far from 0 and 1 (the Edge-Pruning code's value)."""
FURTHEST = 80.0
"""Log odds beyond this are cut, so that odds are numbers of float32."""

Each = Float[Tensor, " gate"]


def draw(n_gates: int, generator: torch.Generator) -> Each:
    """Uniform noise for as many gates."""
    noise = torch.rand(n_gates, generator=generator, dtype=torch.float64)
    return noise.clamp_(LEAST_NOISE, 1 - LEAST_NOISE)


def sample(log_alpha: Each, noise: Each) -> tuple[Each, Each]:
    """The gates' shares, and their derivatives with respect to log alpha: 0 where a share is 0 or 1."""
    s = torch.sigmoid((noise.logit() + log_alpha) / TEMPERATURE)
    stretched = s * (HIGH - LOW) + LOW
    inside = (stretched > 0) & (stretched < 1)
    return stretched.clamp(0, 1), torch.where(inside, s * (1 - s) * ((HIGH - LOW) / TEMPERATURE), 0.0)


def probability_open(log_alpha: Each) -> Each:
    """How likely a gate's share is above 0: the L0 norm's expectation, gate by gate."""
    return torch.sigmoid(log_alpha + OPENS)


def odds(log_alpha: Each, other: Each | None = None) -> Each:
    """The odds that a gate is open; with ``other``, that two independent ones both are.

    P of both is 1 / ((1 + 1/a) (1 + 1/b)), where a and b are the odds of each; hence 1 / (1/a + 1/b
    + 1/ab).
    """
    log_odds = log_alpha + OPENS
    if other is not None:
        second = other + OPENS
        log_odds = -torch.logsumexp(torch.stack((-log_odds, -second, -(log_odds + second))), dim=0)
    return log_odds.clamp(-FURTHEST, FURTHEST).exp()


def warm_start(scores: Each, start: float) -> Each:
    """Log alphas about ``start`` in the order of ``scores``: the quantiles of a standard logistic
    distribution, which is the gates' own noise. Equal scores start alike. Raises UsageError where a
    score is no number."""
    if not scores.isfinite().all():
        n_bad = int((~scores.isfinite()).sum())
        raise UsageError(
            f"{n_bad} of the {len(scores)} scores to start from are NaN or infinite. Give every edge a finite"
            " score."
        )
    scores = scores.double()
    ordered = scores.sort().values
    ranks = (torch.searchsorted(ordered, scores) + torch.searchsorted(ordered, scores, right=True)) / 2
    return start + (ranks.double() / len(scores)).logit()
