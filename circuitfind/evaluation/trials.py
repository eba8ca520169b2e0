"""One set of prompts, run under one circuit after another: what every judgement of a circuit is made of.

Random circuits differ from one another in most edges: each is run by itself, but for what it has in
common with the one that was settled on last (``patching/masked.py``), which changes no bit of its
outcome. Knock-outs and edges left out one by one are a circuit without a few of its edges: many
such runs are made side by side from the circuit's own, of a sparse circuit by
``patching/lacking.py``, of the full model without some nodes by ``patching/one_change.py``. Their
numbers are those of a run by itself to rounding, so that they are compared with the circuit's among
them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitfind.circuits.graph import Node
from circuitfind.circuits.masks import readable
from circuitfind.evaluation.performance import NAMES, Evaluation, Performance, join, logits_of, measure
from circuitfind.models.transformer import Transformer
from circuitfind.models.workers import Threads
from circuitfind.patching.ablation import AblationName
from circuitfind.patching.blocks import split
from circuitfind.patching.lacking import Lacking
from circuitfind.patching.masked import Masked, Runner
from circuitfind.patching.one_change import Onward, join_reads
from circuitfind.patching.packing import pack_mlps
from circuitfind.patching.reference import Baseline, prepare
from circuitfind.patching.shortlisted import prepare_reduced
from circuitfind.prompts.batch import Batch

Kept = Bool[Tensor, "receiver sender"]


SPARSE = 20
"""A circuit of at most one edge in so many is sparse."""
AT_ONCE = 8
"""How many parts of a circuit are run before it is told."""


class _Block:
    """One block of prompts, its run that others set out from, and what runs parts of the circuit it
    was last asked for parts of."""

    def __init__(self, baseline: Baseline, n_real: int) -> None:
        self._runner, self._n_real = Runner(baseline), n_real
        self._full = logits_of(baseline.model, baseline.final)
        self._settled: Masked | None = None
        self._lacking: tuple[Kept, Lacking] | None = None

    def run(self, kept: Float[Tensor, "receiver sender"]) -> Masked:
        return self._runner.rerun(self._settled, kept)

    def settle(self, kept: Float[Tensor, "receiver sender"]) -> None:
        """The circuit that those to come differ little from."""
        self._settled = self.run(kept)

    def measure(self, kept: Float[Tensor, "receiver sender"], names: Sequence[str]) -> dict[str, Tensor]:
        """These measures of each real prompt."""
        return self._measure(self.run(kept).final, names)

    def measure_within(
        self, circuit: Kept, parts: Sequence[Kept], names: Sequence[str]
    ) -> list[dict[str, Tensor]]:
        """The same of each of these parts of a circuit."""
        return [self._measure(final, names) for final in self._finals(circuit, parts)]

    def _measure(self, final: Float[Tensor, "prompt d_model"], names: Sequence[str]) -> dict[str, Tensor]:
        baseline = self._runner.baseline
        return measure(baseline.model, baseline.batch, self._full, final, self._n_real, names)

    def _finals(self, circuit: Kept, parts: Sequence[Kept]) -> list[Float[Tensor, "prompt d_model"]]:
        """What the logits read under each of these masks."""
        n_edges, n_all = int(circuit.sum()), int(self._runner.edges.sum())
        at_roles = self._runner.baseline.batch.roles is not None
        if n_edges == n_all and not at_roles and (sets := self._knocked_out(parts)) is not None:
            return list(self._onward.knock_out(sets))
        if n_edges * SPARSE <= n_all and not at_roles:
            return list(self._lacking_of(circuit).finals([(circuit & ~part).numpy() for part in parts]))
        before = self._runner.rerun(self._settled, circuit.double())
        return [self._runner.rerun(before, part.double()).final for part in parts]

    def _knocked_out(self, parts: Sequence[Kept]) -> list[list[Node]] | None:
        """Which nodes each lacks, where nothing else is missing of any."""
        edges, senders = self._runner.edges, self._runner.baseline.graph.senders
        out = [(edges & ~part).any(0) for part in parts]
        if any(
            bool(lacks[0]) or bool((part[:, lacks]).any()) for part, lacks in zip(parts, out, strict=True)
        ):
            return None
        return [[senders[sender] for sender in lacks.nonzero().flatten().tolist()] for lacks in out]

    @cached_property
    def _onward(self) -> Onward:
        return Onward(self._runner.baseline, join_reads(self._runner.model))

    def _lacking_of(self, circuit: Kept) -> Lacking:
        if self._lacking is None or not torch.equal(self._lacking[0], circuit):
            baseline = self._runner.baseline
            reduced = prepare_reduced(
                baseline.model, baseline.batch, baseline.ablation, circuit.to(baseline.model.device)
            )
            self._lacking = circuit, Lacking(reduced)
        return self._lacking[1]


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
        self._known: dict[tuple[bytes, bytes, tuple[str, ...]], Performance] = {}
        model = pack_mlps(model)

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

    def run_within(
        self,
        circuit: Kept,
        parts: Sequence[Kept],
        names: Sequence[str] = NAMES,
        tell: Callable[[int], None] = lambda n_done: None,
    ) -> list[Performance]:
        """What parts of a circuit achieve, which lack few of its edges. ``tell`` hears how many
        more of them are done.

        What was run before, by whichever judgement, is not run again.
        """
        circuit, parts = circuit.cpu(), [part.cpu() for part in parts]
        keys = [(_key(circuit), _key(part), tuple(names)) for part in parts]
        for i in range(0, len(parts), AT_ONCE):
            group = dict(zip(keys[i : i + AT_ONCE], parts[i : i + AT_ONCE], strict=True))
            new = {key: part for key, part in group.items() if key not in self._known}
            if new:
                self._known |= zip(new, self._run_parts(circuit, list(new.values()), names), strict=True)
            tell(len(parts[i : i + AT_ONCE]))
        return [self._known[key] for key in keys]

    def knows(self, circuit: Kept, parts: Iterable[Kept], names: Sequence[str]) -> bool:
        """Whether all these parts of a circuit have been run."""
        key = _key(circuit.cpu())
        return all((key, _key(part.cpu()), tuple(names)) in self._known for part in parts)

    def _run_parts(self, circuit: Kept, parts: Sequence[Kept], names: Sequence[str]) -> list[Performance]:
        blocks = self._threads.map(
            lambda block: block.measure_within(circuit, parts, names), self._blocks
        )
        return [join(of_part) for of_part in zip(*blocks, strict=True)]

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


def _key(kept: Kept) -> bytes:
    return hashlib.sha256(kept.numpy().tobytes()).digest()
