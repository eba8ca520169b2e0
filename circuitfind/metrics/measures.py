"""Measures logits at the answer position: one number per prompt.

The metrics are those of the field: ``kl`` = KL(full || circuit) in nats over the whole vocabulary,
``logit-diff`` = mean answer logit - mean wrong-answer logit, ``prob-diff`` = summed answer
probability - summed wrong-answer probability, ``loss`` = -log of the summed answer probability, in
nats. A task may have its own (``prompts/task_metric.py``), which is better if higher.

Numbers leave here in float64, so that a mean over prompts is exact to the metric's own precision.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuitfind.errors import UsageError, unknown
from circuitfind.prompts.batch import Batch
from circuitfind.prompts.task_metric import METRICS, OwnMetric

MetricName = str
"""One of METRICS, or of the batch's own."""


HIGHER_IS_BETTER: frozenset[MetricName] = frozenset({"logit-diff", "prob-diff"})


def find_metric(name: str, own: Iterable[str] = ()) -> MetricName:
    """The metric of that name, built in or one of ``own``. Raises UsageError with the nearest one."""
    known = (*METRICS, *own)
    if name not in known:
        raise UsageError(unknown("metric", name, known))
    return name


def check_answers(metric: MetricName, batch: Batch) -> None:
    """Raises UsageError if there is no such metric, or if it needs wrong answers and a prompt has none."""
    find_metric(metric, batch.metrics)
    if metric in HIGHER_IS_BETTER:
        for number, wrong in enumerate(batch.wrong_answers, start=1):
            if not wrong:
                raise UsageError(
                    f"The metric {metric} compares with wrong answers; prompt {number} has none. "
                    "Use --metric kl or loss."
                )


def kl(
    log_probs: Float[Tensor, "*#batch prompt d_vocab"], logits: Float[Tensor, "*#batch prompt d_vocab"]
) -> Float[Tensor, "*batch prompt"]:
    """KL(full || circuit) in nats, from the full model's log probabilities and the circuit's logits."""
    return (log_probs.exp() * (log_probs - logits.log_softmax(-1))).sum(-1).double()


def logit_diff(
    logits: Float[Tensor, "*batch prompt d_vocab"], batch: Batch
) -> Float[Tensor, "*batch prompt"]:
    """Mean answer logit - mean wrong-answer logit (NaN where there are no wrong answers)."""
    return _mean(logits, batch.answers) - _mean(logits, batch.wrong_answers)


def prob_diff(
    logits: Float[Tensor, "*batch prompt d_vocab"], batch: Batch
) -> Float[Tensor, "*batch prompt"]:
    """Summed answer probability - summed wrong-answer probability."""
    log_probs = logits.log_softmax(-1)
    return _sum(log_probs.exp(), batch.answers) - _sum(log_probs.exp(), batch.wrong_answers)


def loss(logits: Float[Tensor, "*batch prompt d_vocab"], batch: Batch) -> Float[Tensor, "*batch prompt"]:
    """-log of the summed answer probability, in nats."""
    log_probs = logits.log_softmax(-1)
    chosen = [
        log_probs[..., i, list(tokens)].double().logsumexp(-1) for i, tokens in enumerate(batch.answers)
    ]
    return -torch.stack(chosen, dim=-1)


def correct(
    logits: Float[Tensor, "*batch prompt d_vocab"], batch: Batch
) -> Float[Tensor, "*batch prompt"]:
    """1 where an answer is likelier than every wrong answer (than every other token, where there
    are none), else 0.
    """
    rows = []
    for i, (right, wrong) in enumerate(zip(batch.answers, batch.wrong_answers, strict=True)):
        row = logits[..., i, :]
        rivals = row[..., list(wrong)] if wrong else _without(row, right)
        rows.append((row[..., list(right)].amax(-1) > rivals.amax(-1)).double())
    return torch.stack(rows, dim=-1)


def measure_own(
    metric: OwnMetric,
    logits: Float[Tensor, "row d_vocab"],
    batch: Batch,
    prompts: Sequence[int],
    full: Float[Tensor, "prompt d_vocab"] | None,
) -> Float[Tensor, " row"]:
    """A task's own metric of each row, which is of the prompt of that number; ``full``: the full
    model's logits.
    """
    values = []
    for row, prompt in enumerate(prompts):
        answers, wrong = [batch.answers[prompt]], [batch.wrong_answers[prompt]]
        reference = None if full is None or not metric.takes_full else full[[prompt]]
        values.append(metric(logits[[row]], answers, wrong, reference))
    return torch.cat(values)


def _without(row: Tensor, tokens: Sequence[int]) -> Tensor:
    return row.index_fill(-1, torch.tensor(tokens, device=row.device), -math.inf)


def _mean(values: Tensor, tokens: Sequence[Sequence[int]]) -> Tensor:
    return torch.stack(
        [values[..., i, list(chosen)].double().mean(-1) for i, chosen in enumerate(tokens)], dim=-1
    )


def _sum(values: Tensor, tokens: Sequence[Sequence[int]]) -> Tensor:
    return torch.stack(
        [values[..., i, list(chosen)].double().sum(-1) for i, chosen in enumerate(tokens)], dim=-1
    )
