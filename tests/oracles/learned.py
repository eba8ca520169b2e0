"""Learned masks, literally: float64 autograd on an explicit masked sum over senders, one prompt at a time.

Nothing is padded, no norm is taken apart, and the gates, penalties and multipliers are written as the papers have them
and left to autograd and to PyTorch's own optimisers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from circuitfind.circuits.graph import SLOTS, Edge, Node, Receiver
from circuitfind.prompts.batch import Batch
from tests.oracles.grouped import differentiable
from tests.oracles.literal import Literal, Outputs, ablated_outputs, run

TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1


def masked_logits(literal: Literal, tokens: Tensor, shares: Tensor, ablated: Outputs) -> Tensor:
    """Logits at one prompt's last position; an edge carries ``share * now + (1 - share) * ablated``."""
    graph = literal.graph
    written = {Node("input"): literal.embed(tokens).detach()}

    def read(receiver: Receiver) -> Tensor:
        total = literal.never_ablated(len(tokens), receiver).detach()
        for sender in graph.senders[: graph.n_readable(receiver)]:
            share = shares[graph.order(Edge(sender, receiver))]
            total = total + share * written[sender] + (1 - share) * ablated[sender]
        return total

    for node in graph.senders[1:]:
        if node.kind == "head":
            written[node] = literal.head(
                node.layer, node.head, *(read(Receiver(node, slot)) for slot in SLOTS)
            )
        else:
            written[node] = literal.mlp(node.layer, read(Receiver(node)))
    return literal.logits(read(Receiver(Node("logits"))))[-1]


def objective(
    literal: Literal,
    batch: Batch,
    shares: Tensor,
    metric: str,
    ablation: str,
    prompts: Sequence[int] | None = None,
) -> Tensor:
    """The objective's mean over prompts (or over these)."""
    values = []
    for i in range(batch.n_prompts) if prompts is None else prompts:
        end = int(batch.end[i]) + 1
        clean, corrupted = batch.clean[i, :end], batch.corrupted[i, :end]
        full, _ = run(literal, clean, frozenset(literal.graph.edges()), {})
        logits = masked_logits(
            literal, clean, shares, ablated_outputs(literal, clean, corrupted, ablation)
        )
        values.append(differentiable(metric, full, logits, batch.answers[i], batch.wrong_answers[i]))
    return torch.stack(values).mean()


def sample(log_alpha: Tensor, noise: Tensor) -> Tensor:
    """Hard concrete gates (arXiv:1712.01312, equations 10 and 11)."""
    s = torch.sigmoid((noise.log() - (1 - noise).log() + log_alpha) / TEMPERATURE)
    return (s * (HIGH - LOW) + LOW).clamp(0, 1)


def probability_open(log_alpha: Tensor) -> Tensor:
    """That a gate is above zero (equation 12)."""
    return torch.sigmoid(log_alpha - TEMPERATURE * math.log(-LOW / HIGH))


def draw(n: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)


def ranked(scores: Sequence[float], start: float) -> Tensor:
    """Log alphas in the order of some scores: logistic quantiles about the start."""
    shares = [
        (sum(y < x for y in scores) + sum(y <= x for y in scores)) / (2 * len(scores)) for x in scores
    ]
    return torch.tensor([start + math.log(p / (1 - p)) for p in shares], dtype=torch.float64)


@dataclass
class Task:
    """What masks are learned on; ``prompts_per_step`` of a multiple of four."""

    literal: Literal
    batch: Batch
    metric: str
    ablation: str
    steps: int
    learning_rate: float
    seed: int
    prompts_per_step: int

    def prompts(self) -> list[list[int]]:
        """Those of each step: blocks of four, in an order that is drawn again when they run out."""
        n = self.batch.n_prompts
        blocks = [list(range(i, min(i + 4, n))) for i in range(0, n, 4)]
        n_each, generator, chosen, waiting = self.prompts_per_step // 4, torch.Generator(), [], []
        generator.manual_seed(self.seed)
        for _ in range(self.steps):
            if n_each >= len(blocks):
                chosen.append(list(range(n)))
                continue
            waiting = waiting or torch.randperm(len(blocks), generator=generator).tolist()
            chosen.append(sorted(i for block in waiting[:n_each] for i in blocks[block]))
            waiting = waiting[n_each:]
        return chosen

    def matrix(self, values: Tensor) -> Tensor:
        graph = self.literal.graph
        shares = torch.zeros(len(graph.receivers), len(graph.senders), dtype=torch.float64)
        index = tuple(torch.tensor([graph.order(edge) for edge in graph.edges()]).T)
        return shares.index_put(index, values)

    def senders(self) -> list[int]:
        """Of each edge."""
        return [self.literal.graph.order(edge)[1] for edge in self.literal.graph.edges()]

    def loss(self, shares: Tensor, prompts: Sequence[int]) -> Tensor:
        return objective(
            self.literal, self.batch, self.matrix(shares), self.metric, self.ablation, prompts
        )


def probe(task: Task, penalty: float, initial: Sequence[float] | None = None) -> Tensor:
    """Subnetwork probing: the odds of every edge after the last step."""
    n = task.literal.graph.n_edges
    start = math.log(0.9 * 1 + 0.1) - math.log(1.1 - 0.9)  # sigmoid stretches to 0.9
    log_alpha = (
        torch.full((n,), start, dtype=torch.float64) if initial is None else ranked(initial, start)
    )
    log_alpha.requires_grad_()
    generator = torch.Generator().manual_seed(task.seed)
    optimiser = torch.optim.Adam([log_alpha], lr=task.learning_rate)
    for prompts in task.prompts():
        optimiser.zero_grad()
        shares = sample(log_alpha, draw(n, generator))
        (task.loss(shares, prompts) + penalty * probability_open(log_alpha).mean()).backward()
        optimiser.step()
    p = probability_open(log_alpha.detach())
    return p / (1 - p)


def rate(done: float) -> float:
    """Up for 200 of 3,000 steps, then down to 0."""
    return done * 15 if done < 1 / 15 else (1 - done) * 15 / 14


def of_gates_alone(penalty: Tensor, gates: Tensor) -> Tensor:
    """What has the penalty's gradient at the gates, and none at the multipliers."""
    (slope,) = torch.autograd.grad(penalty, gates, retain_graph=True)
    return slope.detach() @ gates


def prune(
    task: Task,
    sparsity: float,
    node_sparsity: float | None,
    initial: Sequence[float] | None = None,
    start: float = 10.0,
    most: int = 32_491,
) -> Tensor:
    """Edge pruning: the odds of every edge after the last step. Of more than ``most`` gates each is pushed as of so
    many."""
    senders, generator = task.senders(), torch.Generator().manual_seed(task.seed)
    edge, node = (
        (start + 0.01 * torch.randn(n, generator=generator, dtype=torch.float64)).requires_grad_()
        for n in (len(senders), len(task.literal.graph.senders))
    )
    if initial is not None:
        edge = ranked(initial, start).requires_grad_()
    multipliers = [torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in range(4)]
    pace = min(3000 / task.steps, 10)
    groups = [
        {"params": [edge, node], "lr": task.learning_rate, "weight_decay": 0.01 * pace},
        {"params": multipliers, "lr": task.learning_rate * pace, "weight_decay": 0.01, "maximize": True},
    ]
    optimiser = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate(step / task.steps))
    for step, prompts in enumerate(task.prompts()):
        optimiser.zero_grad()
        shares, of_nodes = (
            sample(edge, draw(len(edge), generator)),
            sample(node, draw(len(node), generator)),
        )
        total = task.loss(shares * of_nodes[senders], prompts)
        for gates, target, (first, second) in (
            (shares, sparsity, multipliers[:2]),
            (of_nodes, node_sparsity, multipliers[2:]),
        ):
            if target is not None:
                beyond = 1 - gates.mean() - target * min(1, step / task.steps * 1.2)
                penalty = first * beyond + second * beyond**2
                total = (
                    total + penalty + (max(1.0, len(gates) / most) - 1) * of_gates_alone(penalty, gates)
                )
        total.backward()
        optimiser.step()
        schedule.step()
    p = probability_open(edge.detach()) * probability_open(node.detach())[senders]
    return p / (1 - p)
