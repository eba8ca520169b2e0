"""First-order scores of edges: edge attribution patching (arXiv:2310.10348) in any patched run.

Removing the edge sender -> receiver moves the receiver's input by ``ablated - now`` of the sender;
to first order the objective then rises by that times its gradient at the receiver's input. One run
and one sweep back give the gradient at every receiver, one product a stage the scores of all edges
into it. Positive: removing the edge raises the objective.

The sweep goes a stage at a time, each with a small graph of autograd of its own: it holds no more
than the gradients of what senders write. Every prompt's scores are its own, so that a sum over
prompts depends on no block's size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuitfind.models.transformer import hidden_layer, write_heads
from circuitfind.patching.masked import Masked, Runner, Work


def attribute(
    runner: Runner, run: Masked, slope: Float[Tensor, "prompt d_model"], stage: int | None = None
) -> Float[Tensor, "prompt receiver sender"]:
    """The score of every kept edge into a live node on each prompt, float64; 0 for every other.

    ``slope`` is the gradient of each prompt's objective with respect to what the logits read in the
    run. With ``stage`` only the edges into its receivers are scored, and the sweep ends there.
    """
    sweep = _Sweep(runner, run, stage)
    sweep.logits(torch.cat([slope, slope.new_zeros(len(runner.prompts) - len(slope), slope.shape[1])]))
    for earlier in reversed(range(stage or 0, runner.layout.n_stages - 1)):
        sweep.mlp(earlier // 2) if earlier % 2 else sweep.heads(earlier // 2)
    return sweep.scores


class _Sweep:
    """The way back through one run: the gradients of what senders write, and the scores so far."""

    def __init__(self, runner: Runner, run: Masked, stage: int | None) -> None:
        self._runner, self._run, self._layout, self._stage = runner, run, runner.layout, stage
        self._end = runner.baseline.batch.end[runner.prompts]
        self._work = Work(runner, run.plan, run.excess)
        self._gradients: dict[int, Float[Tensor, "_ _ d_model"]] = {}
        shape = (len(run.final), *run.kept.shape)
        self.scores = torch.zeros(shape, dtype=torch.float64, device=run.final.device)

    def logits(self, slope: Float[Tensor, "prompt d_model"]) -> None:
        self._pass_on([len(self._run.kept) - 1], slope[None, :, None])

    def mlp(self, layer: int) -> None:
        node, rows = self._layout.mlp(layer), [self._layout.row(layer, 3)]
        if node in self._gradients:
            runner, whole = self._runner, bool(self._run.reach.whole[node])
            (x,) = self._work.read(rows, whole)
            changing = runner.changing(whole)
            read = x.flatten(0, 1)[changing].requires_grad_()
            with torch.enable_grad():
                hidden = hidden_layer(runner.model, layer, read)
            given = self._gradients.pop(node).flatten(0, 1)[changing] @ runner.model.layers[layer].W_out.T
            gradient = torch.zeros_like(x)
            (gradient.flatten(0, 1)[changing],) = torch.autograd.grad(hidden, read, given)
            self._pass_on(rows, gradient.unsqueeze(0))

    def heads(self, layer: int) -> None:
        nodes = {head: self._layout.head(layer, head) for head in range(self._layout.graph.n_heads)}
        waiting = {head: node for head, node in nodes.items() if node in self._gradients}
        for whole in (False, True):
            live = [head for head, node in waiting.items() if bool(self._run.reach.whole[node]) is whole]
            if live:
                self._heads(layer, live, whole)

    def _heads(self, layer: int, heads: Sequence[int], whole: bool) -> None:
        """Heads that are all looked at at the same positions."""
        runner = self._runner
        reads = [x.requires_grad_() for x in self._work.read_heads(layer, heads)]
        with torch.enable_grad():
            written = write_heads(runner.model, layer, runner.gather(layer, heads, reads, whole), heads)
        given = torch.stack([self._gradients.pop(self._layout.head(layer, head)) for head in heads])
        for slot, gradient in enumerate(torch.autograd.grad(written, reads, given)):
            self._pass_on([self._layout.row(layer, slot, head) for head in heads], gradient)

    def _pass_on(self, rows: Sequence[int], gradient: Float[Tensor, "row prompt pos d_model"]) -> None:
        """Score the edges into these receivers, of one stage, and give each kept sender its part of
        their gradient.
        """
        stage, kept = self._layout.stage(rows[0]), self._run.kept[list(rows)]
        if self._stage in (None, stage):
            n_readable = self._layout.n_readable(stage)
            scores = self._products(gradient, n_readable) * (kept[:, :n_readable] > 0).to(gradient.device)
            self.scores[:, list(rows), :n_readable] = scores
        if self._stage != stage:
            senders = kept.any(0).nonzero().flatten()
            parts = kept[:, senders].T.to(gradient) @ gradient.flatten(1)
            for sender, part in zip(senders.tolist(), parts, strict=True):
                self._give(sender, part.reshape(gradient.shape[1:]))

    def _products(self, gradient: Tensor, n_readable: int) -> Float[Tensor, "prompt row readable"]:
        """Each receiver's gradient times ``ablated - now`` of each sender."""
        whole = gradient.shape[-2] > 1
        moves = gradient.new_zeros(n_readable, *gradient.shape[1:])
        looked_at = self._run.reach.whole if whole else self._run.reach.live
        for sender in looked_at[:n_readable].nonzero()[0].tolist():
            moves[sender] = -self._work.gained(sender, whole)
        prompts = range(len(self._run.final))
        return torch.stack(
            [gradient[:, p].flatten(1) @ moves[:, p].flatten(1).T for p in prompts]
        ).double()

    def _give(self, sender: int, part: Float[Tensor, "prompt pos d_model"]) -> None:
        """Add to the gradient of what a sender writes; a part at the answer position may meet a
        whole sender.
        """
        whole = bool(self._run.reach.whole[sender])
        if sender not in self._gradients:
            batch = self._runner.baseline.batch
            shape = (batch.n_prompts, batch.n_pos) if whole else (len(self._end), 1)
            self._gradients[sender] = part.new_zeros(*shape, part.shape[-1])
        if whole and part.shape[-2] == 1:
            # a prompt that stands there twice has no gradient the second time
            self._gradients[sender].index_put_(
                (self._runner.prompts, self._end), part[:, 0], accumulate=True
            )
        else:
            self._gradients[sender] += part
