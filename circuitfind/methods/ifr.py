"""Information flow routes (Ferrando and Voita 2024, arXiv:2403.00824): how much of what is read
came along each edge.

One forward pass on the clean prompts, no gradient, no ablation, no metric. A part y_s of a sum y
counts by how near it is to the sum, in the 1-norm (the proximity of ALTI, arXiv:2203.04212), as a
share of all parts:

    near(y_s, y) = max(0, |y|_1 - |y_s - y|_1),    share(s) = near(y_s, y) / sum over parts of near.

From the answer position, which has the importance 1 in the logits, importance is traced down. At
each position a receiver hands its own to its senders by their shares of what it reads there, before
the norm; parts are what senders write, so that position embeddings and output biases, which are no
sender's, get none. An MLP hands on all it was given at the position where it was given it. What a
head was given at a position is divided between the positions that it looks at, by the shares of its
terms pattern * value * W_O in what it writes there; values include their bias. The score of an edge
is what flows along it, summed over positions. So the scores into a receiver add up to its
importance, those into the logits to 1, and those out of the input to 1 again. Where no part is near
its sum, all share alike.

``inputs`` says how a head passes on what it was given. "v": all to its v inputs at the positions
that it looks at, the pattern being a constant of the prediction, as in the paper; edges into q and
k score 0. "qkv", the default: a third each to v and to k, at those positions, and to q, at its own:
a circuit of edges needs a head's q and k too.

Where the sources differ. The paper's graph has a node for the stream after every block, and its
parts are what this block adds and the stream before it; in ours a receiver reads every earlier
sender directly. It keeps edges of a share above a threshold on the way down instead of multiplying
shares, so that it has no number for the others. The information-flow-routes of EAP-IG's code, which
MIB uses, has this graph and our shares, but does not trace: an edge's score there is its share's
mean over all positions, the same for the q, k and v of all heads in a layer, and NaN where no part
is near.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from circuitfind.circuits.layout import Layout
from circuitfind.circuits.masks import readable
from circuitfind.methods.method import Job
from circuitfind.methods.settings import check_settings
from circuitfind.models.components import visible
from circuitfind.models.forward import Trace, trace
from circuitfind.models.transformer import Transformer, write_heads
from circuitfind.models.workers import Threads
from circuitfind.patching.problem import Problem
from circuitfind.prompts.batch import Batch

PLACES = 16
"""At how many positions parts are compared with their sum at once."""


@dataclass(frozen=True)
class IFR:
    """The method's options, and so its record: it has neither metric nor ablation."""

    inputs: str = "qkv"
    name: ClassVar[str] = "ifr"
    per_prompt: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_settings(self)

    def to_dict(self) -> dict[str, Any]:
        """The block ``method`` of a circuit file: every option, and what the scores are."""
        record = {"name": self.name, **asdict(self), "metric": None, "ablation": None}
        return record | {
            "score": "share of what is read, traced from the answer: no metric, no ablation, never negative"
        }

    def score(self, problem: Problem, job: Job = Job()) -> Float[Tensor, "prompt receiver sender"]:
        """How much flows along every edge on each prompt, between 0 and 1; NaN where the graph has no edge.

        Neither ``batch_size`` nor threads change a score.
        """
        model, scores = problem.model, list[Tensor]()
        with Threads(model.device) as threads:
            for block, n_real in problem.blocks():
                scores += self._score_block(model, block, n_real, threads)
                job.progress.update(len(scores), problem.batch.n_prompts)
        dtype = torch.promote_types(model.dtype, torch.float32)
        return (
            torch.stack(scores)
            .to("cpu", dtype)
            .masked_fill_(~readable(model.architecture.graph), math.nan)
        )

    def _score_block(
        self, model: Transformer, block: Batch, n_real: int, threads: Threads
    ) -> list[Float[Tensor, "receiver sender"]]:
        (run,) = threads.map(lambda tokens: trace(model, tokens), [block.clean])
        places = list(enumerate(block.end[:n_real].tolist()))
        return threads.map(lambda place: Flow(model, run, *place).trace_down(self.inputs), places)


class Flow:
    """One prompt's clean run up to its answer, and the importance of each sender at each position so far."""

    def __init__(self, model: Transformer, run: Trace, prompt: int, end: int) -> None:
        self._model, self._run, self._here = model, run, (prompt, slice(end + 1))
        self._layout = Layout(model.architecture.graph)
        self._written = self._read_outputs()
        self._importance = torch.zeros(self._written.shape[:2], dtype=torch.float64, device=model.device)

    def trace_down(self, inputs: str) -> Float[Tensor, "receiver sender"]:
        """What flows along every edge, float64; once."""
        layout, n_layers = self._layout, self._model.architecture.n_layers
        n_receivers = layout.rows(layout.n_stages - 1).stop
        scores = self._importance.new_zeros(n_receivers, len(self._written))
        given = self._importance.new_zeros(1, self._written.shape[1])
        given[0, -1] = 1
        scores[-1] = self._pass_on(given, self._run.final[self._here])
        for layer in reversed(range(n_layers)):
            heads, mlp = layout.graph.layer(layer)
            given = self._importance[mlp.senders].clone()
            flowed = self._pass_on(given, self._run.mlp_in[layer][self._here], mlp.n_readable)
            scores[mlp.receivers, : flowed.shape[1]] = flowed
            given = self._give_inputs(layer, inputs)
            flowed = self._pass_on(given, self._run.attention_in[layer][self._here], heads.n_readable)
            scores[layout.slots(layer), : flowed.shape[1]] = flowed
        return scores

    def _pass_on(
        self,
        given: Float[Tensor, "receiver pos"],
        read: Float[Tensor, "pos d_model"],
        n_readable: int | None = None,
    ) -> Float[Tensor, "receiver readable"]:
        """What flows to each sender from receivers of one stream; the senders' importance grows by it."""
        shares = divide(self._written[:n_readable], read)
        self._importance[:n_readable] += given.sum(0) * shares
        return given @ shares.T

    def _give_inputs(self, layer: int, inputs: str) -> Float[Tensor, "receiver pos"]:
        """What a layer's heads hand to their q, k and v inputs: in forward order of these receivers."""
        importance = self._importance[self._layout.heads(layer)]
        at_sources = torch.bmm(importance.unsqueeze(1), self._sources(layer)).squeeze(1)
        if inputs == "v":
            return torch.cat((torch.zeros_like(importance), torch.zeros_like(importance), at_sources))
        return torch.cat((importance, at_sources, at_sources)) / 3

    def _sources(self, layer: int) -> Float[Tensor, "head pos source"]:
        """Which share of what each head writes comes from each position that it looks at."""
        attention, heads = self._run.attention[layer], self._layout.heads(layer)
        q, k, v = (x[(slice(None), *self._here)] for x in (attention.q, attention.k, attention.v))
        n_pos, weigher = q.shape[1], self._model.architecture.blocks[layer].attention
        pattern = weigher.pattern(q @ k.transpose(-1, -2), visible(n_pos, q.device))
        values, whole = write_heads(self._model, layer, v, range(len(v))), self._written[heads]
        shares = torch.zeros(pattern.shape, dtype=torch.float64, device=pattern.device)
        for pos in range(n_pos):
            terms = pattern[:, pos, : pos + 1].T.unsqueeze(-1) * values[:, : pos + 1].transpose(0, 1)
            shares[:, pos, : pos + 1] = divide(terms, whole[:, pos]).T
        return shares

    def _read_outputs(self) -> Float[Tensor, "sender pos d_model"]:
        """What every sender writes."""
        run, prompt_pos = self._run, self._here
        written = [run.embedding[prompt_pos].unsqueeze(0)]
        for layer, attention in enumerate(run.attention):
            z = attention.z[(slice(None), *prompt_pos)]
            written += [
                write_heads(self._model, layer, z, range(len(z))),
                run.mlp_out[layer][prompt_pos].unsqueeze(0),
            ]
        return torch.cat(written)


def divide(
    parts: Float[Tensor, "part place d_model"], whole: Float[Tensor, "place d_model"]
) -> Float[Tensor, "part place"]:
    """Each part's share of the whole at each place, by its nearness; float64. They add up to 1."""
    places = zip(torch.split(parts, PLACES, dim=1), torch.split(whole, PLACES), strict=True)
    near = torch.cat([nearness(*some) for some in places], dim=1)
    total = near.sum(0)
    return torch.where(total > 0, near / total, 1 / len(parts))


def nearness(
    parts: Float[Tensor, "part place d_model"], whole: Float[Tensor, "place d_model"]
) -> Float[Tensor, "part place"]:
    """max(0, |whole| - |part - whole|) in the 1-norm, float64."""
    size, distance = (x.abs().sum(-1, dtype=torch.float64) for x in (whole, parts - whole))
    return (size - distance).clamp_min(0)
