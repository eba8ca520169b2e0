"""Runs with ablated neurons, and what is made of them, literally: one prompt at a time, one sum over all of a node's
neurons, in float64; gradients by autograd at a zero that is added to every neuron."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from circuitfind.circuits.bases import Neuron
from circuitfind.circuits.graph import SLOTS, Node, Receiver
from circuitfind.prompts.batch import Batch
from tests.oracles import literal as edges
from tests.oracles.altered import Altered
from tests.oracles.attribution import places
from tests.oracles.grouped import differentiable
from tests.oracles.literal import Outputs
from tests.oracles.metrics import objective
from tests.random_models import REFERENCE

Held = dict[Node, Tensor]
"""What each node's neurons hold, [pos, neuron]."""


def hold(model: Altered, node: Node, reads: list[Tensor]) -> Tensor:
    """What a head's or an MLP's neurons hold, from what it reads."""
    block = model.blocks[node.layer]
    if node.kind == "head":
        pattern = model.pattern(node.layer, node.head, reads[0], reads[1])
        return model.attended(pattern @ model._project(block, "v", node.head, reads[2]))
    norm = block.ln_2 if model.config.model_type == "gpt2" else block.post_attention_layernorm
    x, mlp = model._norm(norm, reads[0]), block.mlp
    if model.config.model_type == "llama":
        return model.gated(model.activate(mlp.act_fn, mlp.gate_proj(x)) * mlp.up_proj(x))
    return model.activate(
        mlp.act, (mlp.c_fc if model.config.model_type == "gpt2" else mlp.dense_h_to_4h)(x)
    )


def rows(model: Altered, node: Node) -> Tensor:
    """What each of a node's neurons writes where it holds 1, [neuron, d_model]."""
    block, is_gpt2 = model.blocks[node.layer], model.config.model_type == "gpt2"
    weight = (model._output(block) if node.kind == "head" else model._mlp_output(block)).weight
    weight = (weight if is_gpt2 else weight.T).detach()
    return (
        weight[node.head * model.d_head : (node.head + 1) * model.d_head]
        if node.kind == "head"
        else weight
    )


def receivers(node: Node) -> list[Receiver]:
    return [Receiver(node, slot) for slot in SLOTS] if node.kind == "head" else [Receiver(node)]


def read(model: Altered, receiver: Receiver, n_pos: int, written: Outputs) -> Tensor:
    """All edges are there."""
    senders = model.graph.senders[: model.graph.n_readable(receiver)]
    return model.never_ablated(n_pos, receiver).detach() + torch.stack([written[s] for s in senders]).sum(
        0
    )


@torch.no_grad()
def run(
    model: Altered, tokens: Tensor, removed: Collection[Neuron], ablated: Held
) -> tuple[Tensor, Held]:
    """Logits at one prompt's last position, and what every neuron held, with these neurons ablated."""
    written, held = {Node("input"): model.embed(tokens)}, {}
    for node in model.graph.senders[1:]:
        now = hold(model, node, [read(model, r, len(tokens), written) for r in receivers(node)]).clone()
        for neuron in (n for n in removed if n.node == node):
            now[:, neuron.index] = ablated[node][:, neuron.index]
        held[node] = now
        written[node] = (now.T[:, :, None] * rows(model, node)[:, None]).sum(0)
    return model.logits(read(model, Receiver(Node("logits")), len(tokens), written))[-1], held


def ablated_neurons(model: Altered, clean: Tensor, corrupted: Tensor, ablation: str) -> Held:
    """What every neuron holds on the corrupted prompt, or zero, or its mean over the prompts of ``REFERENCE``."""
    if ablation.startswith("mean"):
        return means(model, len(clean), ablation == "mean-positional")
    held = run(model, clean if ablation == "zero" else corrupted, (), {})[1]
    return {node: torch.zeros_like(x) for node, x in held.items()} if ablation == "zero" else held


def means(model: Altered, n_pos: int, positional: bool) -> Held:
    lengths = (REFERENCE.end + 1).tolist()
    runs = [run(model, REFERENCE.clean[i, :length], (), {})[1] for i, length in enumerate(lengths)]

    def mean(node: Node, position: int) -> Tensor:
        here = [held[node][position] for held in runs if position < len(held[node])]
        return torch.stack(here or [row for held in runs for row in held[node]]).mean(0)

    wanted = [position if positional else max(lengths) for position in range(n_pos)]
    return {node: torch.stack([mean(node, position) for position in wanted]) for node in runs[0]}


def all_neurons(model: Altered) -> list[Neuron]:
    """In forward order."""
    return [
        Neuron(node, index) for node in model.graph.senders[1:] for index in range(len(rows(model, node)))
    ]


class Prompts:
    """A batch's prompts, one at a time, and their objective with some neurons ablated."""

    def __init__(
        self, model: Altered, batch: Batch, metric: str, ablation: str, match: bool = False
    ) -> None:
        self.model, self.metric, self.match = model, metric, match
        ends = batch.end.tolist()
        self.tokens = [
            (batch.clean[i, : end + 1], batch.corrupted[i, : end + 1]) for i, end in enumerate(ends)
        ]
        self.answers = list(zip(batch.answers, batch.wrong_answers, strict=True))
        self.ablated = [ablated_neurons(model, *tokens, ablation) for tokens in self.tokens]
        self.full = [run(model, clean, (), {})[0] for clean, _ in self.tokens]

    def logits(self, removed: Collection[Neuron]) -> list[Tensor]:
        pairs = zip(self.tokens, self.ablated, strict=True)
        return [run(self.model, clean, removed, ablated)[0] for (clean, _), ablated in pairs]

    def values(self, removed: Collection[Neuron]) -> list[float]:
        numbers = []
        for logits, full, answers in zip(self.logits(removed), self.full, self.answers, strict=True):
            number = objective(self.metric, full, logits, *answers)
            target = objective(self.metric, full, full, *answers) if self.match else 0.0
            numbers.append(abs(number - target) if self.match else number)
        return numbers


def exact(model: Altered, batch: Batch, metric: str, ablation: str) -> Tensor:
    """Every neuron ablated alone, a whole forward pass each: scores [prompt, neuron]."""
    prompts = Prompts(model, batch, metric, ablation)
    full = torch.tensor(prompts.values(()), dtype=torch.float64)
    each = [
        torch.tensor(prompts.values((neuron,)), dtype=torch.float64) - full
        for neuron in all_neurons(model)
    ]
    return torch.stack(each, dim=1)


@dataclass(frozen=True)
class Outcome:
    """``margin`` is the closest that a score came to the threshold."""

    kept: list[bool]
    scores: list[float]
    margin: float


def acdc(
    model: Altered, batch: Batch, threshold: float, metric: str, ablation: str, match: bool = False
) -> Outcome:
    """Layers from the last, MLP before heads, neurons from last to first; each test a whole forward pass."""
    prompts, removed, scores = Prompts(model, batch, metric, ablation, match), set(), {}
    now = fmean(prompts.values(removed))
    for layer in reversed(range(model.graph.n_layers)):
        heads = [Node("head", layer, head) for head in reversed(range(model.graph.n_heads))]
        for node in (Node("mlp", layer), *heads):
            for index in reversed(range(len(rows(model, node)))):
                neuron = Neuron(node, index)
                value = fmean(prompts.values(removed | {neuron}))
                scores[neuron] = value - now
                if value - now < threshold:
                    now = value
                    removed.add(neuron)
    every = all_neurons(model)
    margin = min(abs(score - threshold) for score in scores.values())
    return Outcome(
        [neuron not in removed for neuron in every], [scores[neuron] for neuron in every], margin
    )


def attribution(
    model: Altered, batch: Batch, method: str, metric: str, ablation: str, steps: int = 5
) -> Tensor:
    """Scores [prompt, neuron]; ``method`` says where gradients are taken, the model's own rules how they go back."""
    neurons, prompts = all_neurons(model), Prompts(model, batch, metric, ablation)
    scores = torch.zeros(batch.n_prompts, len(neurons), dtype=torch.float64)
    for i, (clean, corrupted) in enumerate(prompts.tokens):
        now = edges.run(model, clean, frozenset(model.graph.edges()), {})[1]
        points = places(
            model, method, steps, now, edges.ablated_outputs(model, clean, corrupted, ablation)
        )
        held = run(model, clean, (), {})[1]
        for fixed in points:
            gradients = gradients_at(model, clean, fixed, metric, prompts.full[i], *prompts.answers[i])
            for place, neuron in enumerate(neurons):
                move = (prompts.ablated[i][neuron.node] - held[neuron.node])[:, neuron.index]
                scores[i, place] += (move * gradients[neuron.node][:, neuron.index]).sum() / len(points)
    return scores


def gradients_at(
    model: Altered,
    clean: Tensor,
    fixed: Outputs,
    metric: str,
    full: Tensor,
    right: tuple[int, ...],
    wrong: tuple[int, ...],
) -> Held:
    """The gradient of one prompt's objective at each neuron, when what some nodes write is replaced."""
    weights = {node: rows(model, node) for node in model.graph.senders[1:]}
    zeros = {
        n: torch.zeros(len(clean), len(w), dtype=torch.float64, requires_grad=True)
        for n, w in weights.items()
    }
    written = {Node("input"): fixed[Node("input")].detach()}
    for node, weight in weights.items():
        if node in fixed:
            written[node] = fixed[node].detach() + zeros[node] @ weight
        else:
            now = hold(model, node, [read(model, r, len(clean), written) for r in receivers(node)])
            written[node] = (now + zeros[node]) @ weight
    logits = model.logits(read(model, Receiver(Node("logits")), len(clean), written))[-1]
    value = differentiable(metric, full, logits, right, wrong)
    found = torch.autograd.grad(value, list(zeros.values()), allow_unused=True)
    return {
        n: torch.zeros_like(z) if g is None else g for (n, z), g in zip(zeros.items(), found, strict=True)
    }
