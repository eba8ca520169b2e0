"""Turns what the logits read into what a search minimises, one number per prompt.

``kl`` and ``loss`` are minimised as they are, the other metrics (``metrics/measures.py``) negated,
and so is a task's own. Where the whole vocabulary is not needed to tell a test from the threshold,
log Z is enclosed (``log_z.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from circuitfind.metrics.log_z import ROWS, Yardstick, enclose_log_partition, log_partition, mean_column
from circuitfind.metrics.measures import MetricName, measure_own
from circuitfind.models.transformer import Transformer, final_norm, unembed
from circuitfind.models.workers import Each, one_by_one
from circuitfind.prompts.batch import Batch

ROWS_OF_LOGITS = 16
"""How many rows of logits a thread holds for a task's own metric."""
ENCLOSED: frozenset[MetricName] = frozenset({"kl", "loss"})
"""They move no more than log Z does, so that an interval for log Z is one for them."""
AT_ONCE = 64
"""Of how many prompts the full model's logits are held at once."""


@dataclass(frozen=True)
class Objective:
    """What a search minimises, straight from what the logits read; only the logits that the metric
    needs are computed.

    KL(full || circuit) = sum P log P - <W_U P + b_U P, x> + log Z(x), with P the full model's
    distribution and x the normed stream: a dot product in d_model and log Z stand for the whole
    vocabulary.

    ``expected_unembedding`` is W_U P and ``constant`` the part of KL that no circuit changes; both
    None for other metrics. With ``full`` (the full model's value of each prompt) the distance from
    it is minimised instead. ``yardstick`` is what ``enclose`` measures with; ``each`` shares out
    what goes through the vocabulary.
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
        return self._value(
            x, log_partition(self.model, x, self.each) if self.metric != "logit-diff" else None
        )

    def enclose(
        self,
        start: Float[Tensor, "prompt d_model"],
        final: Float[Tensor, "test prompt d_model"],
        tolerance: float,
    ) -> tuple[Float[Tensor, "test prompt"], Float[Tensor, "test prompt"]]:
        """As a call, and how far the truth can lie from it: hardly more than ``tolerance``, often nothing.

        ``start`` is what the logits read where this chain of tests begins. Only metrics that move
        no more than log Z does are enclosed, the others computed; with a ``tolerance`` of 0 all
        are.
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

        log Z stands for the whole vocabulary here too: its gradient is the unembedding's mean under
        the circuit's distribution.
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
        return (
            self._per_prompt(x, self.batch.wrong_answers, _logsumexp_last) - log_z
        ).exp() - right.exp()

    def _per_prompt(
        self, x: Tensor, tokens: Sequence[Sequence[int]], reduce: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """The logits of each prompt's tokens, reduced to one number."""
        return torch.stack(
            [reduce(_some_logits(self.model, x[:, i], list(t))) for i, t in enumerate(tokens)], dim=-1
        )


@dataclass(frozen=True)
class OwnObjective(Objective):
    """That of a task's own metric, negated: all logits are computed, a few rows at a time, for the
    function to read.

    ``reference``: the full model's logits, where the function takes them.
    """

    reference: Float[Tensor, "prompt d_vocab"] | None = None

    def __call__(self, final: Float[Tensor, "test prompt d_model"]) -> Float[Tensor, "test prompt"]:
        x = final_norm(self.model, final).flatten(0, 1)
        prompts = list(range(final.shape[1])) * len(final)
        values = self.each(lambda rows: self._of_rows(x[rows], prompts[rows]), _few_rows(len(x)))
        return torch.cat(values).reshape(final.shape[:2])

    def slope(self, final: Float[Tensor, "prompt d_model"]) -> Float[Tensor, "prompt d_model"]:
        """As any objective's, by autograd. Raises TaskError where the function has no gradient."""
        with torch.enable_grad():
            stream = final.detach().clone().requires_grad_()
            x = final_norm(self.model, stream)
        prompts = list(range(len(final)))
        parts = self.each(lambda rows: self._gradient(x[rows].detach(), prompts[rows]), _few_rows(len(x)))
        return torch.autograd.grad(x, stream, torch.cat(parts))[0]

    def _of_rows(self, x: Float[Tensor, "row d_model"], prompts: list[int]) -> Float[Tensor, " row"]:
        metric = self.batch.metrics[self.metric]
        value = -measure_own(metric, _all_logits(self.model, x), self.batch, prompts, self.reference)
        return value if self.full is None else (value - self.full[prompts]).abs()

    def _gradient(
        self, x: Float[Tensor, "row d_model"], prompts: list[int]
    ) -> Float[Tensor, "row d_model"]:
        """With respect to the normed stream."""
        metric = self.batch.metrics[self.metric]
        with torch.enable_grad():
            x.requires_grad_()
            total = self._of_rows(x, prompts).sum()
        if not total.requires_grad:
            raise metric.error(
                "has no gradient. Write it in differentiable torch code: no item(), argmax or detach()."
            )
        (gradient,) = torch.autograd.grad(total, x)
        if x.isfinite().all() and not gradient.isfinite().all():
            raise metric.error(
                "has a gradient that is NaN or infinite, though the logits are finite numbers."
            )
        return gradient


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

    ``match``: minimise the distance from the full model's value of each prompt, not the metric
    itself.
    """
    if metric != "kl":
        objective = _plain_objective(metric, model, batch, final, yardstick, each)
        return replace(objective, full=objective(final.unsqueeze(0))[0]) if match else objective
    expected, constant = zip(
        *(_full_model(model, some) for some in torch.split(final, AT_ONCE)), strict=True
    )
    return Objective(
        metric, model, batch, torch.cat(expected), torch.cat(constant), yardstick=yardstick, each=each
    )


def _plain_objective(
    metric: MetricName,
    model: Transformer,
    batch: Batch,
    final: Float[Tensor, "prompt d_model"],
    yardstick: Yardstick | None,
    each: Each,
) -> Objective:
    """The metric itself, but for KL, as a search minimises it."""
    if metric not in batch.metrics:
        return Objective(metric, model, batch, yardstick=yardstick, each=each)
    takes_full = batch.metrics[metric].takes_full
    reference = _all_logits(model, final_norm(model, final)) if takes_full else None
    return OwnObjective(metric, model, batch, each=each, reference=reference)


def _full_model(
    model: Transformer, final: Float[Tensor, "prompt d_model"]
) -> tuple[Float[Tensor, "prompt d_model"], Float[Tensor, " prompt"]]:
    """W_U P, and the part of KL that no circuit changes."""
    padded = torch.cat((final, final[-1:].expand(-len(final) % ROWS, -1)))
    log_probs = unembed(model, padded).double().log_softmax(-1)
    probs = log_probs.exp()
    bias = 0.0 if model.b_U is None else (probs * model.b_U).sum(-1)
    expected = (probs.to(model.W_U) @ model.W_U.T).double()
    return expected[: len(final)], ((probs * log_probs).sum(-1) - bias)[: len(final)]


def _all_logits(model: Transformer, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_vocab"]:
    """The logits of a few normed streams."""
    logits = (torch.cat((x, x[-1:].expand(-len(x) % ROWS, -1))) @ model.W_U)[: len(x)]
    return logits if model.b_U is None else logits + model.b_U


def _few_rows(n_rows: int) -> list[slice]:
    return [
        slice(first, min(first + ROWS_OF_LOGITS, n_rows)) for first in range(0, n_rows, ROWS_OF_LOGITS)
    ]


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
