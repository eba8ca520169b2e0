"""The metrics, literally, for one prompt's logits in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def objective(
    metric: str, full: Tensor, logits: Tensor, right: Sequence[int], wrong: Sequence[int]
) -> float:
    """The number that a search minimises."""
    if metric == "kl":
        return float((full.softmax(-1) * (full.log_softmax(-1) - logits.log_softmax(-1))).sum())
    if metric == "logit-diff":
        return float(
            torch.stack([logits[t] for t in wrong]).mean()
            - torch.stack([logits[t] for t in right]).mean()
        )
    if metric == "best-margin":
        return float(
            max(logits[t] for t in range(len(logits)) if t not in right) - max(logits[t] for t in right)
        )
    if metric == "agreement":
        return -sum(float(p * q) for p, q in zip(full.softmax(-1), logits.log_softmax(-1), strict=True))
    q = logits.softmax(-1)
    if metric == "prob-diff":
        return float(sum(q[t] for t in wrong) - sum(q[t] for t in right))
    return float(-torch.stack([q[t] for t in right]).sum().log())
