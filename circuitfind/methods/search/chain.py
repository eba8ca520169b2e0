"""One patched run over all prompts, split into blocks that are computed side by side.

A block is a fixed group of prompts with a ``Rerun`` of its own. Every operation inside a block runs
on one thread and the blocks share the threads, which is faster than sharing each small product
between threads, and makes the outcome independent of how many threads there are: bits depend on an
operation's shape, never on who computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitfind.circuits.graph import Node, Receiver
from circuitfind.metrics.log_z import make_yardstick, pack_unembedding
from circuitfind.metrics.objective import ENCLOSED, make_objective
from circuitfind.models.forward import at_end, trace
from circuitfind.models.transformer import Transformer
from circuitfind.models.workers import Threads
from circuitfind.patching.ablation import AblationName
from circuitfind.patching.blocks import mean_over_prompts
from circuitfind.patching.incremental import Rerun
from circuitfind.patching.packing import pack_mlps
from circuitfind.patching.problem import Problem
from circuitfind.patching.reference import Baseline, prepare
from circuitfind.patching.shortlisted import prepare_reduced
from circuitfind.prompts.batch import Batch

T = TypeVar("T")


class _BlockSearch:
    """The part of a search that one block computes: what the logits read, of its ``n_real`` real prompts.

    ``full``: what they read in the full model.
    """

    def __init__(self, baseline: Baseline, n_real: int, full: Float[Tensor, "prompt d_model"]) -> None:
        self.rerun = Rerun(baseline)
        self.full = full[:n_real]
        self._n_real = n_real
        self._final = baseline.final
        self._change: Tensor | None = None
        self._path: _Path | None = None

    @property
    def final(self) -> Float[Tensor, "prompt d_model"]:
        """What the logits read in the present run."""
        return self._final[: self._n_real]

    def visit(self, receiver: Receiver, removed: Sequence[int], twins: Sequence[Receiver]) -> None:
        self.rerun.visit(receiver, twins)
        self._change = self.rerun.zero_change(receiver)
        if removed:
            self.begin(receiver, removed)
            self.reach([len(removed)], 1)
            self.settle(len(removed))

    def begin(self, receiver: Receiver, senders: Sequence[int]) -> None:
        assert self._change is not None
        self._path = _Path(self.rerun, receiver, senders, self._change, self._final)

    def reach(self, cuts: Sequence[int], at_once: int) -> Float[Tensor, "cut prompt d_model"]:
        self.path.reach(cuts, at_once)
        return self.finals(cuts)

    def finals(self, cuts: Sequence[int]) -> Float[Tensor, "cut prompt d_model"]:
        return self.path.finals(cuts)[:, : self._n_real]

    def slopes(self, cut: int, slope: Float[Tensor, "prompt d_model"]) -> Float[Tensor, "prompt sender"]:
        whole = torch.cat([slope, slope.new_zeros(len(self._final) - len(slope), slope.shape[1])])
        return self.path.slopes(cut, whole)[: self._n_real]

    def without(
        self, gone: Float[Tensor, "look edge prompt"], at_once: int
    ) -> Float[Tensor, "look prompt d_model"]:
        whole = torch.cat(
            [gone, gone.new_zeros(*gone.shape[:2], len(self._final) - gone.shape[2])], dim=2
        )
        return self.path.without(whole, at_once)[:, : self._n_real]

    def settle(self, cut: int) -> None:
        self._change, self._final = self.path.at(cut)

    def leave(self, receiver: Receiver, kept: Sequence[Node]) -> None:
        assert self._change is not None
        self._final = self.rerun.commit(receiver, self._change, kept)
        self._path = None

    @property
    def path(self) -> _Path:
        assert self._path is not None
        return self._path


def _open_block(
    model: Transformer,
    batch: Batch,
    n_real: int,
    ablation: AblationName,
    shortlist: Bool[Tensor, "receiver sender"] | None,
) -> _BlockSearch:
    """A block at the start: the clean run, or the one in which the shortlist alone is left."""
    if shortlist is None:
        baseline = prepare(model, batch, ablation)
        return _BlockSearch(baseline, n_real, baseline.final)
    full = at_end(trace(model, batch.clean).final, batch.end)
    return _BlockSearch(prepare_reduced(model, batch, ablation, shortlist), n_real, full)


class _Path:
    """One block's runs as edges into one receiver go one after another; a cut is how many of them have gone.

    A cut's change of the input is the sum of what went before it, in order: whatever other cuts are
    looked at.
    """

    def __init__(
        self,
        rerun: Rerun,
        receiver: Receiver,
        senders: Sequence[int],
        change: Float[Tensor, "row d_model"],
        final: Float[Tensor, "prompt d_model"],
    ) -> None:
        self._rerun, self._receiver, self._senders = rerun, receiver, senders
        self._changes, self._finals = {0: change}, {0: final}

    def reach(self, cuts: Sequence[int], at_once: int) -> None:
        """Run what these cuts leave, ``at_once`` of them side by side."""
        for cut in cuts:
            self._changes[cut] = self._change(cut)
        for first in range(0, len(cuts), at_once):
            group = cuts[first : first + at_once]
            finals = self._rerun.what_if(
                self._receiver, torch.stack([self._changes[cut] for cut in group])
            )
            self._finals |= dict(zip(group, finals, strict=True))

    def finals(self, cuts: Sequence[int]) -> Float[Tensor, "cut prompt d_model"]:
        return torch.stack([self._finals[cut] for cut in cuts])

    def at(self, cut: int) -> tuple[Float[Tensor, "row d_model"], Float[Tensor, "prompt d_model"]]:
        """The input's change at a cut that was reached, and what the logits then read."""
        return self._changes[cut], self._finals[cut]

    def without(
        self, gone: Float[Tensor, "look edge prompt"], at_once: int
    ) -> Float[Tensor, "look prompt d_model"]:
        """What the logits read in each look as of the first edges others have gone in each prompt
        (1: gone, 0: not).
        """
        change = self._changes[0]
        senders = gone.new_zeros(len(gone), gone.shape[2], max(self._senders) + 1).to(change)
        senders[:, :, self._senders[: gone.shape[1]]] = gone.transpose(1, 2).to(change)
        changes = torch.stack([change + self._rerun.removals(self._receiver, look) for look in senders])
        groups = torch.split(changes, at_once)
        return torch.cat([self._rerun.what_if(self._receiver, group) for group in groups])

    def slopes(self, cut: int, slope: Float[Tensor, "prompt d_model"]) -> Float[Tensor, "prompt sender"]:
        """How each prompt's objective rises at a cut as each edge into the receiver goes, to first
        order; float64.

        ``slope`` is its gradient with respect to what the logits read there.
        """
        with torch.enable_grad():
            change = self._changes[cut].clone().requires_grad_()
            final = self._rerun.what_if(self._receiver, change.unsqueeze(0))
        (gradient,) = torch.autograd.grad(final, change, slope.unsqueeze(0))
        return self._rerun.rises(self._receiver, gradient)

    def _change(self, cut: int) -> Float[Tensor, "row d_model"]:
        known = max(reached for reached in self._changes if reached <= cut)
        change = self._changes[known]
        for sender in self._senders[known:cut]:
            change = change + self._rerun.removal(self._receiver, sender)
        return change


class Chain:
    """The objective as edges into one receiver go one after another, at those cuts that were looked at.

    A cut is how many of the edges have gone; 0 is the present run. ``values``: the mean over
    prompts in the objective's unit, the truth within ``radii`` of it; ``prompts``: each prompt's
    own, float64, on the CPU.
    """

    def __init__(self, search: Search, tolerance: float) -> None:
        self._search, self._tolerance = search, tolerance
        self.values, self.radii, self.prompts = {0: search.value}, {0: 0.0}, {0: search.prompts}

    def reach(self, cuts: Sequence[int]) -> None:
        """Look at these cuts, ascending; the last is exact."""
        values, radii = self._search.reach(cuts, self._tolerance)
        self.values |= dict(zip(cuts, mean_over_prompts(values), strict=True))
        self.radii |= dict(zip(cuts, mean_over_prompts(radii), strict=True))
        self.prompts |= dict(zip(cuts, values, strict=True))

    def compute(self, cuts: Iterable[int]) -> None:
        """Makes these cuts exact."""
        wanted = [cut for cut in cuts if self.radii[cut] > 0]
        if wanted:
            values = self._search.compute(wanted)
            self.values |= dict(zip(wanted, mean_over_prompts(values), strict=True))
            self.radii |= dict.fromkeys(wanted, 0.0)
            self.prompts |= dict(zip(wanted, values, strict=True))

    def slopes(self, cut: int) -> Float[Tensor, "prompt sender"]:
        """How each prompt's objective rises at a cut, to first order, as the edge from each sender
        goes; float64.
        """
        return self._search.slopes(cut)

    def without(self, gone: Float[Tensor, "look edge prompt"]) -> Float[Tensor, "look prompt"]:
        """Each prompt's objective in looks at which of the first edges others have gone in each
        prompt (1: gone).
        """
        return self._search.without(gone)

    def settle(self, cut: int) -> None:
        """Make a cut the present run."""
        self.compute([cut])
        self._search.settle(cut, self.prompts[cut])


class Search:
    """A patched run over all prompts whose edges are removed receiver by receiver, in reverse forward order.

    ``prompts`` is each prompt's objective in the present run, in its own unit (nats, logits,
    probability); ``value`` their mean. With a ``shortlist`` all other edges are removed from the
    start.
    """

    def __init__(
        self,
        problem: Problem,
        threads: Threads,
        shortlist: Bool[Tensor, "receiver sender"] | None = None,
    ) -> None:
        self._threads, self._bytes_in_flight = threads, problem.bytes_in_flight
        model, metric = pack_mlps(problem.model), problem.metric

        def open_block(group: tuple[Batch, int]) -> _BlockSearch:
            return _open_block(model, *group, problem.ablation, shortlist)

        self._blocks = threads.map(open_block, problem.blocks())
        yardstick = make_yardstick(model) if metric in ENCLOSED else None
        full = torch.cat([block.full for block in self._blocks])
        packed = pack_unembedding(model)
        self._objective = make_objective(
            metric, packed, problem.prompts, full, problem.match, yardstick, threads.map
        )
        self._look()

    @property
    def at_once(self) -> int:
        """How many tests run side by side without a block holding more than its
        ``bytes_in_flight``; at least one.
        """
        widest = max(block.rerun.bytes_per_test for block in self._blocks)
        return max(1, self._bytes_in_flight // max(1, widest))

    def is_live(self, receiver: Receiver) -> bool:
        """Whether a kept edge leaves the receiver's node towards a visited one, at the role that
        this one serves.
        """
        return self._blocks[0].rerun.is_live(receiver.node, receiver.serves)

    def visit(
        self, receiver: Receiver, removed: Sequence[int] = (), twins: Sequence[Receiver] = ()
    ) -> None:
        """Begin removing edges into ``receiver``, which must live; those from ``removed`` go at
        once, in order.

        ``twins``: receivers of live heads that are one with it, and whose edges go with its own.
        """
        self._map(lambda block: block.visit(receiver, removed, twins))
        if removed:
            self._look()

    def begin(self, receiver: Receiver, senders: Sequence[int], tolerance: float) -> Chain:
        """The edges from ``senders`` (numbers) into the visited receiver as they go one after another.

        The objective will be known to within about ``tolerance`` (0: exactly).
        """
        self._map(lambda block: block.begin(receiver, senders))
        return Chain(self, tolerance)

    def reach(
        self, cuts: Sequence[int], tolerance: float
    ) -> tuple[Float[Tensor, "cut prompt"], Float[Tensor, "cut prompt"]]:
        """The objective at these cuts of the chain that was begun last, and how far from it the
        truth can lie.
        """
        at_once = self.at_once
        finals = torch.cat(self._map(lambda block: block.reach(cuts, at_once)), dim=1)
        values, radii = self._objective.enclose(self._final, finals, tolerance)
        return values.cpu(), radii.cpu()

    def compute(self, cuts: Sequence[int]) -> Float[Tensor, "cut prompt"]:
        """The exact objective at cuts that were reached."""
        return self._objective(self._finals(cuts)).cpu()

    def slopes(self, cut: int) -> Float[Tensor, "prompt sender"]:
        """How the objective rises, to first order, as each edge into the receiver goes at a cut
        that was reached.
        """
        slope = self._objective.slope(self._finals([cut])[0])
        parts = torch.split(slope, [len(block.final) for block in self._blocks])
        pairs = list(zip(self._blocks, parts, strict=True))
        return torch.cat(self._threads.map(lambda pair: pair[0].slopes(cut, pair[1]), pairs)).cpu()

    def without(self, gone: Float[Tensor, "look edge prompt"]) -> Float[Tensor, "look prompt"]:
        """The exact objective in looks at which of the chain's first edges others have gone in each
        prompt.
        """
        at_once, parts = self.at_once, torch.split(gone, [len(block.final) for block in self._blocks], 2)
        pairs = list(zip(self._blocks, parts, strict=True))
        finals = self._threads.map(lambda pair: pair[0].without(pair[1], at_once), pairs)
        return self._objective(torch.cat(finals, dim=1)).cpu()

    def settle(self, cut: int, prompts: Float[Tensor, " prompt"]) -> None:
        """Make a cut that was reached the present run, with this objective."""
        self._map(lambda block: block.settle(cut))
        self._now(prompts)

    def leave(self, receiver: Receiver, kept: Sequence[Node]) -> None:
        """End with ``receiver``, of whose edges those from ``kept`` alone are left."""
        self._map(lambda block: block.leave(receiver, kept))

    @property
    def _final(self) -> Float[Tensor, "prompt d_model"]:
        """What the logits read in the present run."""
        return torch.cat([block.final for block in self._blocks])

    def _finals(self, cuts: Sequence[int]) -> Float[Tensor, "cut prompt d_model"]:
        return torch.cat([block.finals(cuts) for block in self._blocks], dim=1)

    def _look(self) -> None:
        self._now(self._objective(self._final.unsqueeze(0))[0].cpu())

    def _now(self, prompts: Float[Tensor, " prompt"]) -> None:
        self.prompts = prompts
        (self.value,) = mean_over_prompts(prompts.unsqueeze(0))

    def _map(self, function: Callable[[_BlockSearch], T]) -> list[T]:
        return self._threads.map(function, self._blocks)
