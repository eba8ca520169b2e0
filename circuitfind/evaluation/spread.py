"""How a circuit does prompt by prompt: a mean over prompts hides those on which it fails.

Faithfulness of prompt i is (m_i(C) - m_i(ablated)) / (m_i(full) - m_i(ablated)). Where ablation
hardly moves a prompt its denominator is noise; such prompts are counted and left out. The mean of
these ratios is not the faithfulness of ``performance.py``, which is a ratio of means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from circuitfind.evaluation.meter import mean, unit, values_of
from circuitfind.evaluation.performance import Evaluation
from circuitfind.metrics.measures import MetricName

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
NEGLIGIBLE = 0.01
"""A prompt's denominator is noise below this share of the mean size of all denominators."""


@dataclass(frozen=True)
class Quantiles:
    """Of one number a prompt: its 5th, 25th, 50th, 75th and 95th percentile, interpolated linearly,
    and the worst.

    ``worst_prompt``: its number, from 0.
    """

    percentiles: tuple[float, ...]
    worst: float
    worst_prompt: int

    @property
    def median(self) -> float:
        return self.percentiles[QUANTILES.index(0.5)]

    def to_dict(self) -> dict[str, Any]:
        named = {f"q{100 * q:02.0f}": x for q, x in zip(QUANTILES, self.percentiles, strict=True)}
        return {"median": self.median, "worst": self.worst, "worst_prompt": self.worst_prompt, **named}

    def __str__(self) -> str:
        low, lower, _, upper, high = self.percentiles
        return (
            f"median {self.median:.3g}, half of the prompts in {lower:.3g}..{upper:.3g}, nine in ten in "
            f"{low:.3g}..{high:.3g}, worst {self.worst:.3g} (prompt {self.worst_prompt + 1})"
        )


@dataclass(frozen=True)
class Spread:
    """``values``: the faithfulness of each prompt, None where its denominator is noise;
    ``faithfulness`` their quantiles, None if no prompt has one, the worst of them the farthest from
    1. ``kl`` in nats, the worst the largest.
    """

    metric: MetricName
    values: tuple[float | None, ...]
    faithfulness: Quantiles | None
    kl: Quantiles

    @property
    def n_apart(self) -> int:
        """How many prompts have no faithfulness."""
        return self.values.count(None)

    def to_dict(self) -> dict[str, Any]:
        return {
            "metric": self.metric,
            "n_prompts": len(self.values),
            "n_apart": self.n_apart,
            "faithfulness": self.faithfulness and self.faithfulness.to_dict(),
            "kl": self.kl.to_dict(),
            "values": list(self.values),
        }

    def lines(self) -> list[str]:
        apart = f"; {self.n_apart} of {len(self.values)} prompts apart: ablation hardly moves them"
        each = "no prompt has one" if self.faithfulness is None else str(self.faithfulness)
        return [
            f"Faithfulness ({self.metric}) prompt by prompt: {each}{apart if self.n_apart else ''}.",
            f"KL prompt by prompt ({unit('kl')}): {self.kl}.",
        ]


def measure_spread(evaluation: Evaluation, metric: MetricName) -> Spread:
    """Costs no run. Raises UsageError where a prompt has no value of the metric."""
    full, circuit, ablated = (
        values_of(run, metric) for run in (evaluation.full, evaluation.circuit, evaluation.ablated)
    )
    values = per_prompt(full, circuit, ablated)
    found = [(number, value) for number, value in enumerate(values) if value is not None]
    faithfulness = summarise(found, [abs(value - 1) for _, value in found]) if found else None
    kl = values_of(evaluation.circuit, "kl")
    return Spread(metric, values, faithfulness, summarise(list(enumerate(kl)), kl))


def per_prompt(
    full: Sequence[float], circuit: Sequence[float], ablated: Sequence[float]
) -> tuple[float | None, ...]:
    """The faithfulness of each prompt; None where |full - ablated| is at most 1e-9 or negligible
    beside the others'.
    """
    gaps = [f - a for f, a in zip(full, ablated, strict=True)]
    least = max(1e-9, NEGLIGIBLE * mean([abs(gap) for gap in gaps]))
    triples = zip(circuit, ablated, gaps, strict=True)
    return tuple((c - a) / gap if abs(gap) > least else None for c, a, gap in triples)


def summarise(numbered: Sequence[tuple[int, float]], badness: Sequence[float]) -> Quantiles:
    """Of prompts with their numbers; the worst is the first of the largest badness."""
    values = [value for _, value in numbered]
    prompt, worst = numbered[max(range(len(badness)), key=badness.__getitem__)]
    return Quantiles(tuple(np.quantile(values, QUANTILES).tolist()), worst, prompt)
