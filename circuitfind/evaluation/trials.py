"""One set of prompts, run under one circuit after another: what every judgement of a circuit is made of.

Knock-outs, random circuits and edges left out one by one are circuits that differ little from one another. Each is run
again only where it differs from the one that was settled on last (``masked.py``), which changes no bit of its outcome;
circuits that tell positions apart are run as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitfind.batch import Batch
from circuitfind.evaluation.performance import NAMES, Evaluation, Performance, join, measure
from circuitfind.masked import Masked, Runner
from circuitfind.patching import AblationName, Baseline, prepare, readable, run_patched
from circuitfind.search import split
from circuitfind.threads import Threads
from circuitfind.transformer import Transformer, unembed

Kept = Bool[Tensor, "receiver sender"]


@runtime_checkable
class _Runs(Protocol):
    """Runs of a block of prompts under masks, one after another."""

    def settle(self, kept: Float[Tensor, "receiver sender"]) -> None:
        """The circuit that those to come differ little from."""

    def measure(self, kept: Float[Tensor, "receiver sender"], names: Sequence[str]) -> dict[str, Tensor]:
        """These measures of each real prompt."""


class _AtRoles:
    """One block of prompts whose edges are those at roles: every run is made anew."""

    def __init__(self, baseline: Baseline, n_real: int) -> None:
        self._baseline, self._n_real = baseline, n_real
        self._full = unembed(baseline.model, baseline.final).double()

    def settle(self, kept: Float[Tensor, "receiver sender"]) -> None:
        """Nothing is taken over from it."""

    def measure(self, kept: Float[Tensor, "receiver sender"], names: Sequence[str]) -> dict[str, Tensor]:
        final = run_patched(self._baseline, kept.to(self._baseline.model.device) > 0)
        return measure(self._baseline.model, self._baseline.batch, self._full, final, self._n_real, names)


class _Block:
    """One block of prompts, and its run that others set out from."""

    def __init__(self, baseline: Baseline, n_real: int) -> None:
        self._runner, self._n_real = Runner(baseline), n_real
        self._full = unembed(baseline.model, baseline.final).double()
        self._settled: Masked | None = None

    def run(self, kept: Float[Tensor, "receiver sender"]) -> Masked:
        return self._runner.rerun(self._settled, kept)

    def settle(self, kept: Float[Tensor, "receiver sender"]) -> None:
        self._settled = self.run(kept)

    def measure(self, kept: Float[Tensor, "receiver sender"], names: Sequence[str]) -> dict[str, Tensor]:
        baseline = self._runner.baseline
        return measure(baseline.model, baseline.batch, self._full, self.run(kept).final, self._n_real, names)


class Trials:
    """Runs of a model on a batch of prompts in which all but a circuit's edges are ablated.

    No number depends on the batch size, on the threads, or on the circuits that were run before.
    """

    def __init__(
        self, model: Transformer, batch: Batch, ablation: AblationName, batch_size: int, threads: Threads
    ) -> None:
        self.graph = batch.graph_of(model.architecture.graph)
        self.edges: Kept = readable(self.graph)
        """All edges that the graph has."""
        self._threads = threads

        def open_block(group: tuple[Batch, int]) -> _Runs:
            kind = _Block if batch.roles is None else _AtRoles
            return kind(prepare(model, group[0], ablation), group[1])

        self._blocks = threads.map(open_block, split(batch.to(model.device), batch_size))

    def settle(self, kept: Kept) -> None:
        """The circuit that those to come differ little from."""
        self._threads.map(lambda block: block.settle(kept.cpu().double()), self._blocks)

    def run(self, kept: Kept, names: Sequence[str] = NAMES) -> Performance:
        """What the circuit achieves on each prompt, in these measures."""
        shares = kept.cpu().double()
        return join(self._threads.map(lambda block: block.measure(shares, names), self._blocks))

    @cached_property
    def full(self) -> Performance:
        """The full model's."""
        return self.run(self.edges)

    @cached_property
    def ablated(self) -> Performance:
        """That of the model with every edge ablated."""
        return self.run(torch.zeros_like(self.edges))

    def evaluate(self, kept: Kept) -> Evaluation:
        """The circuit between the full and the fully ablated model."""
        return Evaluation(self.full, self.run(kept), self.ablated)
