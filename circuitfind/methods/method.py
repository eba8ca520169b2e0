"""What every method that scores has in common, and what those that take long have besides."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from circuitfind.methods.saved_state import Save, SoFar, save_nothing
from circuitfind.models.transformer import Transformer
from circuitfind.progress import Progress
from circuitfind.prompts.batch import Batch


@runtime_checkable
class Scorer(Protocol):
    """A method that scores every edge."""

    @property
    def name(self) -> str:
        """As in ``catalogue.py``."""

    def to_dict(self) -> dict[str, Any]:
        """The block ``method`` of a circuit file: every option, and what a score is."""

    def score(
        self, model: Transformer, batch: Batch, batch_size: int, progress: Progress
    ) -> Float[Tensor, "prompt receiver sender"]:
        """Every edge's score on each prompt, or one for all of them; positive if ablating the edge
        hurts, NaN where the graph has no edge."""


@runtime_checkable
class LongScorer(Scorer, Protocol):
    """A method that scores, and takes so long that it can be cut off and gone on with."""

    resumes: ClassVar[bool]
    """True; it tells such a method from the others."""

    def score(
        self,
        model: Transformer,
        batch: Batch,
        batch_size: int,
        progress: Progress,
        start: SoFar | None = None,
        save: Save = save_nothing,
    ) -> Float[Tensor, "prompt receiver sender"]:
        """As every method's, from ``start`` on if there is one, to the same bits.

        ``start`` is what an earlier run of the same model, prompts and options had saved; ``save``
        is called whenever there is more, and with all there is at the end.
        """


def score_on(
    method: Scorer,
    model: Transformer,
    batch: Batch,
    batch_size: int,
    progress: Progress,
    start: SoFar | None,
    save: Save,
) -> Float[Tensor, "prompt ..."]:
    """The method's scores, from ``start`` on; of one that takes no time to speak of, from the beginning."""
    if isinstance(method, LongScorer):
        return method.score(model, batch, batch_size, progress, start=start, save=save)
    return method.score(model, batch, batch_size, progress)
