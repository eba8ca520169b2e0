"""How well the full model, the circuit and the fully ablated model do the task: the evidence in every report.

Faithfulness is (m(circuit) - m(ablated)) / (m(full) - m(ablated)), each m a mean over prompts (MIB, arXiv:2504.13151).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitfind.batch import Batch
from circuitfind.metrics import correct, kl, logit_diff, loss, measure_own, prob_diff
from circuitfind.patching import AblationName, at_end, prepare, run_patched, trace
from circuitfind.search import split
from circuitfind.threads import Threads
from circuitfind.transformer import Transformer, unembed

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
        return {name: self.mean(name) for name in (*NAMES, *self.own)}


@dataclass(frozen=True)
class Evaluation:
    """The three runs side by side."""

    full: Performance
    circuit: Performance
    ablated: Performance

    def faithfulness(self, metric: str) -> float | None:
        """1: the circuit does as the full model, 0: as the ablated one; None where those two do not differ."""
        full, circuit, ablated = (run.mean(metric) for run in (self.full, self.circuit, self.ablated))
        if full is None or circuit is None or ablated is None or math.isclose(full, ablated, abs_tol=1e-9):
            return None
        return (circuit - ablated) / (full - ablated)

    def to_dict(self) -> dict[str, object]:
        """The block ``metrics`` of a circuit file; ``faithfulness`` is the logit difference's where there is one."""
        by_metric = {name: self.faithfulness(name) for name in ("logit-diff", "kl", "prob-diff", *self.full.own)}
        return {
            "full": self.full.to_dict(),
            "circuit": self.circuit.to_dict(),
            "ablated": self.ablated.to_dict(),
            "faithfulness": by_metric["kl"] if by_metric["logit-diff"] is None else by_metric["logit-diff"],
            "faithfulness_by_metric": by_metric,
        }


def task_performance(model: Transformer, batch: Batch, batch_size: int) -> Performance:
    """How well the full model does the task."""

    def measure_block(group: tuple[Batch, int]) -> dict[str, Tensor]:
        block, n_real = group
        final = at_end(trace(model, block.clean).final, block.end)
        return _measure(model, block, final, final, n_real)

    with Threads(model.device) as threads:
        return _join(threads.map(measure_block, split(batch.to(model.device), batch_size)))


def evaluate(
    model: Transformer,
    batch: Batch,
    kept: Bool[Tensor, "receiver sender"],
    ablation: AblationName,
    batch_size: int,
    known: Evaluation | None = None,
) -> Evaluation:
    """The full model, the circuit of the ``kept`` edges, and the model with every edge ablated, on the same prompts.

    ``known``: that of another circuit, all else the same. Then only the circuit is run, the others are taken over.
    """
    kept = kept.to(model.device)

    def measure_block(group: tuple[Batch, int]) -> dict[str, dict[str, Tensor]]:
        block, n_real = group
        baseline = prepare(model, block, ablation)
        finals = {"circuit": run_patched(baseline, kept)}
        if known is None:
            finals |= {"full": baseline.final, "ablated": run_patched(baseline, torch.zeros_like(kept))}
        return {name: _measure(model, block, baseline.final, final, n_real) for name, final in finals.items()}

    with Threads(model.device) as threads:
        blocks = threads.map(measure_block, split(batch.to(model.device), batch_size))
    runs = {name: _join([block[name] for block in blocks]) for name in blocks[0]}
    return Evaluation(**runs) if known is None else replace(known, **runs)


def _measure(
    model: Transformer,
    batch: Batch,
    full: Float[Tensor, "prompt d_model"],
    final: Float[Tensor, "prompt d_model"],
    n_real: int,
) -> dict[str, Tensor]:
    """Every measure of each real prompt; ``full``, ``final``: what the logits read in the full and in this run."""
    logits, full_logits = (unembed(model, x).double() for x in (final, full))
    values = {
        "kl": kl(full_logits.log_softmax(-1), logits),
        "logit-diff": logit_diff(logits, batch),
        "prob-diff": prob_diff(logits, batch),
        "loss": loss(logits, batch),
        "accuracy": correct(logits, batch),
    }
    real = {name: value[:n_real] for name, value in values.items()}
    own = batch.metrics.items()
    return real | {
        name: measure_own(metric, logits[:n_real], batch, range(n_real), full_logits) for name, metric in own
    }


def _join(blocks: list[dict[str, Tensor]]) -> Performance:
    return Performance({name: tuple(torch.cat([block[name] for block in blocks]).tolist()) for name in blocks[0]})
