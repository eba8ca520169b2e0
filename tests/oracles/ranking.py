"""How far some items stand above others, literally: every pair of them, every threshold."""

from __future__ import annotations

from collections.abc import Sequence


def auc(scores: Sequence[float], positive: Sequence[bool]) -> float:
    """The share of pairs, one of each, in which the positive one has the higher score; of equal ones half counts."""
    above = [s for s, p in zip(scores, positive, strict=True) if p]
    others = [s for s, p in zip(scores, positive, strict=True) if not p]
    won = sum(1.0 if high > low else 0.5 if high == low else 0.0 for high in above for low in others)
    return won / (len(above) * len(others))


def average_precision(scores: Sequence[float], positive: Sequence[bool]) -> float:
    """The sum over thresholds, from high to low, of the precision there times the recall gained there."""
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        taken = [p for s, p in zip(scores, positive, strict=True) if s >= threshold]
        now = sum(taken) / sum(positive)
        total += sum(taken) / len(taken) * (now - recall)
        recall = now
    return total
