"""Metrics that a task file defines: a function of logits, checked where it is read and wherever it is called.

    def margin(logits, answers, wrong_answers):  # [prompt, d_vocab], the token ids of each prompt's
    answers -> [prompt]

Higher means that the model does the task better. The function is called for one prompt at a time,
so that a prompt's value can't depend on which others are computed beside it. No torch is imported
here before that.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitfind.errors import TaskError, cut, shown
from circuitfind.prompts.user_code import report_errors

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from circuitfind.prompts.pairs import Task

METRICS = ("kl", "logit-diff", "prob-diff", "loss")
"""The built-in ones (``metrics/objective.py``)."""
TAKEN = (*METRICS, "accuracy", "faithfulness")
"""Names that a report uses already."""
SHAPE = "a tensor with one number for each prompt"


@dataclass(frozen=True)
class OwnMetric:
    """One of a task's own metrics: its name, the file that it stands in, and the function."""

    name: str
    path: Path
    function: Callable[..., Any]

    @property
    def takes_full(self) -> bool:
        """Whether the function asks for the full model's logits, as its parameter ``full``."""
        return "full" in inspect.signature(self.function).parameters

    def __call__(
        self,
        logits: Float[Tensor, "prompt d_vocab"],
        answers: Sequence[tuple[int, ...]],
        wrong_answers: Sequence[tuple[int, ...]],
        full: Float[Tensor, "prompt d_vocab"] | None,
    ) -> Float[Tensor, " prompt"]:
        """Each prompt's value, float64. Raises TaskError for what goes wrong in the function, or is
        wrong with it.
        """
        import torch

        def own(x: Tensor) -> Tensor:
            return x.to(torch.float64, copy=True)  # the function may write to it

        given = {} if full is None else {"full": own(full)}
        return report_errors(
            self.path,
            lambda: self._checked(
                self.function(own(logits), tuple(answers), tuple(wrong_answers), **given), logits
            ),
            f", metric '{self.name}'",
        )

    def _checked(
        self, value: object, logits: Float[Tensor, "prompt d_vocab"]
    ) -> Float[Tensor, " prompt"]:
        """What the function returned for these logits, float64. Raises TaskError where it is no
        number a prompt.
        """
        import torch

        if not isinstance(value, torch.Tensor):
            raise self.error(f"returned a {type(value).__name__}; it must be {SHAPE}.")
        if value.shape != (len(logits),):
            raise self.error(
                f"returned the shape {cut(str(list(value.shape)))} for {len(logits)} prompt; it must be"
                f" {SHAPE}."
            )
        if value.is_complex() or value.layout is not torch.strided or value.device != logits.device:
            raise self.error(
                f"returned a {value.dtype} tensor on {value.device}; it must be {SHAPE}, where the logits"
                " are."
            )
        if not value.isfinite().all() and logits.isfinite().all():
            raise self.error(
                f"returned {value.tolist()[0]} for a prompt whose logits are finite numbers."
            )
        return value.double()

    def error(self, problem: str) -> TaskError:
        """The error that says so of this metric."""
        return TaskError(f"{self.path}: the metric '{self.name}' {problem}")


def own_metrics(task: Task) -> dict[str, OwnMetric]:
    """The task's own metrics by name."""
    path = Path(task.name) if task.source is None else task.source.path
    return {name: OwnMetric(name, path, function) for name, function in task.metrics.items()}


def check_metrics(path: Path, metrics: object) -> None:
    """Raises TaskError if ``metrics``, as a task file gives them, aren't functions by name that can
    be called.
    """
    if not isinstance(metrics, Mapping):
        raise TaskError(
            f"{path}: metrics is a {type(metrics).__name__}; it must be a dict from names to functions."
        )
    for name, function in metrics.items():
        if not (isinstance(name, str) and re.fullmatch(r"\w[\w.-]*", name)):
            raise TaskError(
                f"{path}: a metric's name is {shown(name)}; it must be letters, digits, '-', '_' and '.'."
            )
        if name in TAKEN:
            raise TaskError(
                f"{path}: the metric '{name}' has the name of a built-in one. Give it another."
            )
        if not callable(function):
            raise TaskError(
                f"{path}: the metric '{name}' is a {type(function).__name__}; it must be a function."
            )
        _check_parameters(OwnMetric(name, path, function))


def _check_parameters(metric: OwnMetric) -> None:
    try:
        inspect.signature(metric.function).bind(0, 1, 2, **({"full": 3} if metric.takes_full else {}))
    except (TypeError, ValueError):
        raise metric.error(
            "can't be called with (logits, answers, wrong_answers). These are its parameters; `full` may be a"
            " fourth."
        ) from None
