"""Logits at the answer position -> one number per prompt.

The metrics are those of the field: ``kl`` = KL(full || circuit) in nats over the whole vocabulary, ``logit-diff`` =
mean answer logit - mean wrong-answer logit, ``prob-diff`` = summed answer probability - summed wrong-answer
probability, ``loss`` = -log of the summed answer probability, in nats. A search minimises: ``kl`` and ``loss`` as they
are, the other two negated (``Objective``).

Numbers leave here in float64, so that a mean over prompts is exact to the metric's own precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from circuitfind.batch import Batch
from circuitfind.errors import UsageError, unknown
from circuitfind.partition import ROWS, Yardstick, enclose_log_partition, log_partition, mean_column
from circuitfind.threads import Each, one_by_one
from circuitfind.transformer import Transformer, final_norm, unembed

MetricName = Literal["kl", "logit-diff", "prob-diff", "loss"]
METRICS: tuple[MetricName, ...] = ("kl", "logit-diff", "prob-diff", "loss")
ENCLOSED: frozenset[MetricName] = frozenset({"kl", "loss"})
"""They move no more than log Z does, so that an interval for log Z is one for them."""
AT_ONCE = 64
"""Of how many prompts the full model's logits are held at once."""
HIGHER_IS_BETTER: frozenset[MetricName] = frozenset({"logit-diff", "prob-diff"})


def find_metric(name: str) -> MetricName:
    """The metric of that name. Raises UsageError with the nearest one."""
    for metric in METRICS:
        if metric == name:
            return metric
    raise UsageError(unknown("metric", name, METRICS))


def check_answers(metric: MetricName, batch: Batch) -> None:
    """Raises UsageError if the metric needs wrong answers and a prompt has none."""
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


def logit_diff(logits: Float[Tensor, "*batch prompt d_vocab"], batch: Batch) -> Float[Tensor, "*batch prompt"]:
    """Mean answer logit - mean wrong-answer logit (NaN where there are no wrong answers)."""
    return _mean(logits, batch.answers) - _mean(logits, batch.wrong_answers)


def prob_diff(logits: Float[Tensor, "*batch prompt d_vocab"], batch: Batch) -> Float[Tensor, "*batch prompt"]:
    """Summed answer probability - summed wrong-answer probability."""
    log_probs = logits.log_softmax(-1)
    return _sum(log_probs.exp(), batch.answers) - _sum(log_probs.exp(), batch.wrong_answers)


def loss(logits: Float[Tensor, "*batch prompt d_vocab"], batch: Batch) -> Float[Tensor, "*batch prompt"]:
    """-log of the summed answer probability, in nats."""
    log_probs = logits.log_softmax(-1)
    chosen = [log_probs[..., i, list(tokens)].double().logsumexp(-1) for i, tokens in enumerate(batch.answers)]
    return -torch.stack(chosen, dim=-1)


def correct(logits: Float[Tensor, "*batch prompt d_vocab"], batch: Batch) -> Float[Tensor, "*batch prompt"]:
    """1 where an answer is likelier than every wrong answer (than every other token, where there are none), else 0."""
    rows = []
    for i, (right, wrong) in enumerate(zip(batch.answers, batch.wrong_answers, strict=True)):
        row = logits[..., i, :]
        rivals = row[..., list(wrong)] if wrong else _without(row, right)
        rows.append((row[..., list(right)].amax(-1) > rivals.amax(-1)).double())
    return torch.stack(rows, dim=-1)


def _without(row: Tensor, tokens: Sequence[int]) -> Tensor:
    return row.index_fill(-1, torch.tensor(tokens, device=row.device), -math.inf)


def _mean(values: Tensor, tokens: Sequence[Sequence[int]]) -> Tensor:
    return torch.stack([values[..., i, list(chosen)].double().mean(-1) for i, chosen in enumerate(tokens)], dim=-1)


def _sum(values: Tensor, tokens: Sequence[Sequence[int]]) -> Tensor:
    return torch.stack([values[..., i, list(chosen)].double().sum(-1) for i, chosen in enumerate(tokens)], dim=-1)


@dataclass(frozen=True)
class Objective:
    """What a search minimises, straight from what the logits read; only the logits that the metric needs are computed.

    KL(full || circuit) = sum P log P - <W_U P + b_U P, x> + log Z(x), with P the full model's distribution and x the
    normed stream: a dot product in d_model and log Z stand for the whole vocabulary.

    ``expected_unembedding`` is W_U P and ``constant`` the part of KL that no circuit changes; both None for other
    metrics. With ``full`` (the full model's value of each prompt) the distance from it is minimised instead.
    ``yardstick`` is what ``enclose`` measures with; ``each`` shares out what goes through the vocabulary.
    """

    metric: MetricName
    model: Transformer
    batch: Batch
    expected_unembedding: Float[Tensor, "prompt d_model"] | None = None
    constant: Float[Tensor, " prompt"] | None = None
    full: Float[Tensor, " prompt"] | None = None
    yardstick: Yardstick | None = None
    each: Each = one_by_one

    def __call__(self, final: Float[Tensor, "test prompt d_model"]) -> Float[Tensor, "test prompt"]:
        """The number to minimise for each test and prompt, float64; ``final`` is what the logits read."""
        x = final_norm(self.model, final)
        return self._value(x, log_partition(self.model, x, self.each) if self.metric != "logit-diff" else None)

    def enclose(
        self,
        start: Float[Tensor, "prompt d_model"],
        final: Float[Tensor, "test prompt d_model"],
        tolerance: float,
    ) -> tuple[Float[Tensor, "test prompt"], Float[Tensor, "test prompt"]]:
        """As a call, and how far the truth can lie from it: hardly more than ``tolerance``, often nothing.

        ``start`` is what the logits read where this chain of tests begins. Only metrics that move no more than log Z
        does are enclosed, the others computed; with a ``tolerance`` of 0 all are.
        """
        if self.yardstick is None or self.metric not in ENCLOSED or not tolerance:
            value = self(final)
            return value, torch.zeros_like(value)
        x = final_norm(self.model, final)
        log_z, radius = enclose_log_partition(
            self.model, self.yardstick, final_norm(self.model, start), x, tolerance, self.each
        )
        return self._value(x, log_z), radius

    def slope(self, final: Float[Tensor, "prompt d_model"]) -> Float[Tensor, "prompt d_model"]:
        """The gradient of each prompt's objective with respect to what the logits read.

        log Z stands for the whole vocabulary here too: its gradient is the unembedding's mean under the circuit's
        distribution.
        """
        with torch.enable_grad():
            stream = final.detach().clone().requires_grad_()
            x = final_norm(self.model, stream)
        if self.metric == "logit-diff":
            with torch.enable_grad():
                total = self._value(x.unsqueeze(0), None).sum()
            return torch.autograd.grad(total, stream)[0]
        log_z, mean = mean_column(self.model, x.detach(), self.each)
        with torch.enable_grad():
            log_z.requires_grad_()
            total = self._value(x.unsqueeze(0), log_z.unsqueeze(0)).sum()
        along_x, along_z = torch.autograd.grad(total, (x, log_z), retain_graph=True)
        return torch.autograd.grad(x, stream, along_x + along_z.to(x.dtype).unsqueeze(-1) * mean)[0]

    def _value(self, x: Tensor, log_z: Tensor | None) -> Tensor:
        value = self._measure(x, log_z)
        return value if self.full is None else (value - self.full).abs()

    def _measure(self, x: Tensor, log_z: Tensor | None) -> Tensor:
        if log_z is None:
            return self._per_prompt(x, self.batch.wrong_answers, _mean_last) - self._per_prompt(
                x, self.batch.answers, _mean_last
            )
        if self.expected_unembedding is not None and self.constant is not None:
            return self.constant - (x.double() * self.expected_unembedding).sum(-1) + log_z
        right = self._per_prompt(x, self.batch.answers, _logsumexp_last) - log_z
        if self.metric == "loss":
            return -right
        return (self._per_prompt(x, self.batch.wrong_answers, _logsumexp_last) - log_z).exp() - right.exp()

    def _per_prompt(self, x: Tensor, tokens: Sequence[Sequence[int]], reduce: Callable[[Tensor], Tensor]) -> Tensor:
        """The logits of each prompt's tokens, reduced to one number."""
        return torch.stack([reduce(_some_logits(self.model, x[:, i], list(t))) for i, t in enumerate(tokens)], dim=-1)


def make_objective(
    metric: MetricName,
    model: Transformer,
    batch: Batch,
    final: Float[Tensor, "prompt d_model"],
    match: bool = False,
    yardstick: Yardstick | None = None,
    each: Each = one_by_one,
) -> Objective:
    """The objective for these prompts; ``final`` is what the logits read in the full model's clean run.

    ``match``: minimise the distance from the full model's value of each prompt, not the metric itself.
    """
    if metric != "kl":
        objective = Objective(metric, model, batch, yardstick=yardstick, each=each)
        return replace(objective, full=objective(final.unsqueeze(0))[0]) if match else objective
    expected, constant = zip(*(_full_model(model, some) for some in torch.split(final, AT_ONCE)), strict=True)
    return Objective(metric, model, batch, torch.cat(expected), torch.cat(constant), yardstick=yardstick, each=each)


def _full_model(
    model: Transformer, final: Float[Tensor, "prompt d_model"]
) -> tuple[Float[Tensor, "prompt d_model"], Float[Tensor, " prompt"]]:
    """W_U P, and the part of KL that no circuit changes."""
    padded = torch.cat((final, final[-1:].expand(-len(final) % ROWS, -1)))
    log_probs = unembed(model, padded).double().log_softmax(-1)
    probs = log_probs.exp()
    bias = 0.0 if model.b_U is None else (probs * model.b_U).sum(-1)
    expected = (probs.to(model.dtype) @ model.W_U.T).double()
    return expected[: len(final)], ((probs * log_probs).sum(-1) - bias)[: len(final)]


def _some_logits(
    model: Transformer, x: Float[Tensor, "test d_model"], tokens: list[int]
) -> Float[Tensor, "test token"]:
    """The logits of a few tokens in float64, row by row the same whatever the number of rows."""
    columns = model.W_U[:, tokens].double()
    logits = (x.double().unsqueeze(-1) * columns).sum(-2)
    return logits if model.b_U is None else logits + model.b_U[tokens]


def _mean_last(x: Tensor) -> Tensor:
    return x.mean(-1)


def _logsumexp_last(x: Tensor) -> Tensor:
    return x.logsumexp(-1)
