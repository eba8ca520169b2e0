"""How well the full model, the circuit and the fully ablated model do the task: the evidence in every report.

Faithfulness is (m(circuit) - m(ablated)) / (m(full) - m(ablated)), each m a mean over prompts (MIB,
arXiv:2504.13151).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from circuitfind.circuits.intervals import ratio_interval
from circuitfind.metrics.measures import correct, kl, logit_diff, loss, measure_own, prob_diff
from circuitfind.metrics.objective import Objective
from circuitfind.models.forward import at_end, trace
from circuitfind.models.transformer import Transformer, unembed
from circuitfind.models.workers import Threads
from circuitfind.patching.ablation import AblationName
from circuitfind.patching.blocks import ROWS, share_out
from circuitfind.patching.masked import Runner
from circuitfind.patching.reference import prepare
from circuitfind.progress import SILENT, Progress
from circuitfind.prompts.batch import Batch

RESAMPLES, LEVEL = 1000, 0.95
ZERO = 1e-9
"""Where full and ablated model differ by no more, there is nothing to be faithful to."""
Final = Float[Tensor, "prompt d_model"]
NAMES = ("kl", "logit-diff", "prob-diff", "loss", "accuracy")
"""What is measured of every task, in this order; then the task's own metrics."""


@dataclass(frozen=True)
class Performance:
    """One run's measures, a value per prompt: kl and loss in nats, logit-diff in logits, accuracy 0 or 1."""

    values: Mapping[str, tuple[float, ...]]

    @property
    def own(self) -> tuple[str, ...]:
        """The task's own metrics."""
        return tuple(name for name in self.values if name not in NAMES)

    def mean(self, name: str) -> float | None:
        """The mean over prompts; None where a prompt has no value (no wrong answers to compare with)."""
        values = self.values[name]
        mean = math.fsum(values) / len(values)
        return mean if math.isfinite(mean) else None

    def to_dict(self) -> dict[str, float | None]:
        return {name: self.mean(name) for name in self.values}


@dataclass(frozen=True)
class Evaluation:
    """The three runs side by side."""

    full: Performance
    circuit: Performance
    ablated: Performance

    def faithfulness(self, metric: str) -> float | None:
        """1: the circuit does as the full model, 0: as the ablated one; None where those two do not
        differ.
        """
        full, circuit, ablated = (run.mean(metric) for run in (self.full, self.circuit, self.ablated))
        if (
            full is None
            or circuit is None
            or ablated is None
            or math.isclose(full, ablated, abs_tol=ZERO)
        ):
            return None
        return (circuit - ablated) / (full - ablated)

    def interval(self, metric: str) -> tuple[float, float] | None:
        """A 95% confidence interval of the faithfulness, from the prompts drawn again RESAMPLES
        times with replacement (seed 0; ``circuits/intervals.py``); None where there is no
        faithfulness, of one prompt, or in too many of the draws."""
        if self.faithfulness(metric) is None:
            return None
        full, circuit, ablated = (
            np.array(run.values[metric]) for run in (self.full, self.circuit, self.ablated)
        )
        draws = np.random.default_rng(0).integers(len(full), size=(RESAMPLES, len(full)))
        return ratio_interval(circuit - ablated, full - ablated, draws, LEVEL, ZERO)

    @property
    def n_prompts(self) -> int:
        """How many prompts were run."""
        return len(self.full.values["kl"])

    def to_dict(self) -> dict[str, object]:
        """The block ``metrics`` of a circuit file; ``faithfulness`` is the logit difference's where
        there is one.
        """
        by_metric = {
            name: self.faithfulness(name) for name in ("logit-diff", "kl", "prob-diff", *self.full.own)
        }
        chosen = "kl" if by_metric["logit-diff"] is None else "logit-diff"
        interval = self.interval(chosen)
        return {
            "full": self.full.to_dict(),
            "circuit": self.circuit.to_dict(),
            "ablated": self.ablated.to_dict(),
            "faithfulness": by_metric[chosen],
            "faithfulness_interval": None if interval is None else list(interval),
            "faithfulness_by_metric": by_metric,
        }


def task_performance(model: Transformer, batch: Batch, batch_size: int) -> Performance:
    """How well the full model does the task."""

    def measure_block(group: tuple[Batch, int]) -> dict[str, Tensor]:
        block, n_real = group
        final = at_end(trace(model, block.clean).final, block.end)
        return measure(model, block, logits_of(model, final), final, n_real)

    with Threads(model.device) as threads:
        return join(
            threads.map(
                measure_block, share_out(batch.to(model.device), batch_size, threads.n, model.dtype)
            )
        )


def evaluate(
    model: Transformer,
    batch: Batch,
    kept: Bool[Tensor, "receiver sender"],
    ablation: AblationName,
    batch_size: int,
    known: Evaluation | None = None,
    progress: Progress = SILENT,
) -> Evaluation:
    """The full model, the circuit of the ``kept`` edges, and the model with every edge ablated, on
    the same prompts.

    ``known``: that of another circuit, all else the same. Then only the circuit is run, the others
    are taken over. Progress is told in prompts.
    """

    def open_block(block: Batch) -> tuple[Final, Callable[[Tensor], Final]]:
        baseline = prepare(model, block, ablation)
        runner = Runner(baseline)
        return baseline.final, lambda mask: runner.run(mask).final

    return evaluate_runs(model, batch, kept.cpu().double(), open_block, batch_size, known, progress)


def evaluate_runs(
    model: Transformer,
    batch: Batch,
    kept: Shaped[Tensor, "*mask"],
    open_block: Callable[[Batch], tuple[Final, Callable[[Tensor], Final]]],
    batch_size: int,
    known: Evaluation | None = None,
    progress: Progress = SILENT,
) -> Evaluation:
    """The same for whatever a mask is over. ``open_block``: what the logits of some prompts read in
    the full model, and what makes of a mask what they then read."""

    def measure_block(group: tuple[Batch, int]) -> dict[str, dict[str, Tensor]]:
        block, n_real = group
        full, run = open_block(block)
        finals = {"circuit": run(kept)}
        if known is None:
            finals |= {"full": full, "ablated": run(torch.zeros_like(kept))}
        logits = logits_of(model, full)
        return {name: measure(model, block, logits, final, n_real) for name, final in finals.items()}

    with Threads(model.device) as threads:
        groups = share_out(batch.to(model.device), batch_size, threads.n, model.dtype)
        ends = list(accumulate(n_real for _, n_real in groups))
        blocks = threads.map(measure_block, groups, tell=lambda n: progress.update(ends[n - 1], ends[-1]))
    runs = {name: join([block[name] for block in blocks]) for name in blocks[0]}
    return Evaluation(**runs) if known is None else replace(known, **runs)


def logits_of(
    model: Transformer, final: Float[Tensor, "prompt d_model"]
) -> Float[Tensor, "prompt d_vocab"]:
    """The logits of what they read, float64; the same bits however many rows there are (``blocks.ROWS``)."""
    filled = torch.cat([final, final[-1:].expand(-len(final) % ROWS, -1)])
    return unembed(model, filled)[: len(final)].double()


def measure(
    model: Transformer,
    batch: Batch,
    full: Float[Tensor, "prompt d_vocab"],
    final: Float[Tensor, "prompt d_model"],
    n_real: int,
    names: Sequence[str] | None = None,
) -> dict[str, Float[Tensor, " real_prompt"]]:
    """These measures of each real prompt; all of them by default, the task's own included.

    ``full``: the full model's logits, float64; ``final``: what the logits read in this run.
    """
    if names is not None and set(names) == {"logit-diff"}:  # the logits of the answers alone
        return {"logit-diff": -Objective("logit-diff", model, batch)(final.unsqueeze(0))[0][:n_real]}
    logits = logits_of(model, final)
    ways: dict[str, Callable[[], Tensor]] = {
        "kl": lambda: kl(full.log_softmax(-1), logits),
        "logit-diff": lambda: logit_diff(logits, batch),
        "prob-diff": lambda: prob_diff(logits, batch),
        "loss": lambda: loss(logits, batch),
        "accuracy": lambda: correct(logits, batch),
    }

    def measure_one(name: str) -> Tensor:
        if name in ways:
            return ways[name]()[:n_real]
        return measure_own(batch.metrics[name], logits[:n_real], batch, range(n_real), full)

    return {name: measure_one(name) for name in names or (*NAMES, *batch.metrics)}


def join(blocks: Sequence[Mapping[str, Tensor]]) -> Performance:
    """The measures of all blocks' prompts, in their order."""
    return Performance(
        {name: tuple(torch.cat([block[name] for block in blocks]).tolist()) for name in blocks[0]}
    )
