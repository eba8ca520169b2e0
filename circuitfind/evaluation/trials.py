"""One set of prompts, run under one circuit after another: what every judgement of a circuit is made of.

Knock-outs, random circuits and edges left out one by one are circuits that differ little from one another. Each is run
again only where it differs from the one that was settled on last (``masked.py``), which changes no bit of its outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitfind.batch import Batch
from circuitfind.evaluation.performance import NAMES, Evaluation, Performance, join, measure
from circuitfind.masked import Masked, Runner
from circuitfind.patching import AblationName, Baseline, prepare, readable
from circuitfind.search import split
from circuitfind.threads import Threads
from circuitfind.transformer import Transformer, unembed

Kept = Bool[Tensor, "receiver sender"]


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
        self.graph = model.architecture.graph
        self.edges: Kept = readable(self.graph)
        """All edges that the graph has."""
        self._threads = threads

        def open_block(group: tuple[Batch, int]) -> _Block:
            return _Block(prepare(model, group[0], ablation), group[1])

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
