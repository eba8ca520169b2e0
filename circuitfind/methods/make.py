"""Options -> a method."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from circuitfind.batch import Batch
from circuitfind.methods.acdc import ACDC, DEFAULT_THRESHOLD
from circuitfind.methods.eap import EAP, EAPIG, CleanCorrupted, EAPIGActivations
from circuitfind.metrics import find_metric
from circuitfind.patching import AblationName, find_ablation
from circuitfind.progress import Progress
from circuitfind.transformer import Transformer

if TYPE_CHECKING:
    from circuitfind.preflight import RunOptions


@runtime_checkable
class Scorer(Protocol):
    """A method that scores every edge."""

    name: ClassVar[str]

    @property
    def ablation(self) -> AblationName:
        """What a removed edge carries."""

    def to_dict(self) -> dict[str, Any]:
        """The block ``method`` of a circuit file: every option."""

    def score(
        self, model: Transformer, batch: Batch, batch_size: int, progress: Progress
    ) -> Float[Tensor, "prompt receiver sender"]:
        """Every edge's score on each prompt, or one for all of them; positive if ablating the edge hurts, NaN where the
        graph has no edge."""


Method = ACDC | Scorer
SCORERS: dict[str, type[Any]] = {method.name: method for method in (EAP, CleanCorrupted, EAPIG, EAPIGActivations)}
METHODS: dict[str, type[Any]] = {ACDC.name: ACDC, **SCORERS}


def make_method(options: RunOptions) -> Method:
    """The method of settled options. Raises UsageError for a value that it can't work with."""
    values = {
        "threshold": options.threshold,
        "metric": find_metric(options.metric or ""),
        "ablation": find_ablation(options.ablation),
        "objective": options.objective,
        "schedule": options.schedule,
        "steps": options.steps,
    }
    cls = METHODS[options.method or ""]
    chosen = {field.name: values[field.name] for field in fields(cls) if values[field.name] is not None}
    method: Method = cls(**chosen)
    return method


def default_threshold(metric: str) -> float:
    """ACDC's where none is given, in the metric's unit."""
    return DEFAULT_THRESHOLD[find_metric(metric)]
