"""What goes together, literally: tuples of edges, told from one another by the names of what they join."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from circuitfind.circuits.graph import SLOTS, Edge, Graph, Node, Receiver
from circuitfind.prompts.batch import Batch
from tests.oracles.attribution import places
from tests.oracles.grouped import differentiable
from tests.oracles.literal import Literal, Outputs, ablated_outputs, run
from tests.oracles.state import State

Unit = tuple[Edge, ...]


def single(graph: Graph) -> list[Unit]:
    """Every edge by itself."""
    return _partition(graph, str)


def nodes(graph: Graph) -> list[Unit]:
    """All edges that leave each sender."""
    return _partition(graph, lambda edge: edge.sender)


def grouped(graph: Graph, group: int) -> list[Unit]:
    """The edges from a sender into the k (or v) inputs of so many neighbouring heads; every other edge by itself."""

    def key(edge: Edge) -> Hashable:
        node, slot = edge.receiver.node, edge.receiver.slot
        if slot not in ("k", "v"):
            return str(edge)
        return f"{edge.sender} to {slot} of {node.layer}, {node.head // group}"

    return _partition(graph, key)


def _partition(graph: Graph, key: Callable[[Edge], Hashable]) -> list[Unit]:
    found: dict[Hashable, list[Edge]] = {}
    for edge in graph.edges():
        found.setdefault(key(edge), []).append(edge)
    return [tuple(edges) for edges in found.values()]


def exact(literal: Literal, batch: Batch, metric: str, ablation: str, units: list[Unit]) -> Tensor:
    """Each unit ablated alone, by whole runs: scores [prompt, receiver, sender]; NaN where the graph has no edge."""
    state = State(literal, batch, 0.0, metric, ablation)
    full = state.values(state.kept)
    scores = _nothing(literal.graph, batch)
    for unit in units:
        values = state.values(state.kept - set(unit))
        for edge in unit:
            row, column = literal.graph.order(edge)
            scores[:, row, column] = torch.tensor(
                [a - b for a, b in zip(values, full, strict=True)], dtype=scores.dtype
            )
    return scores


def _nothing(graph: Graph, batch: Batch) -> Tensor:
    shape = (batch.n_prompts, len(graph.receivers), len(graph.senders))
    return torch.full(shape, torch.nan, dtype=torch.float64)


def of_nodes(
    literal: Literal, batch: Batch, method: str, metric: str, ablation: str, steps: int
) -> Tensor:
    """The attribution of each node [prompt, sender]: (ablated - clean) times the gradient at a zero that is added to
    what it writes."""
    graph = literal.graph
    scores = torch.zeros((batch.n_prompts, len(graph.senders)), dtype=torch.float64)
    for i, end in enumerate(batch.end.tolist()):
        clean, corrupted = batch.clean[i, : end + 1], batch.corrupted[i, : end + 1]
        ablated = ablated_outputs(literal, clean, corrupted, ablation)
        full, now = run(literal, clean, frozenset(graph.edges()), {})
        points = places(literal, method, steps, now, ablated)
        for fixed in points:
            zeros = {node: torch.zeros_like(x, requires_grad=True) for node, x in now.items()}
            logits = _written_to(literal, end + 1, fixed, zeros)
            value = differentiable(metric, full, logits, batch.answers[i], batch.wrong_answers[i])
            for node, gradient in zip(
                zeros, torch.autograd.grad(value, list(zeros.values())), strict=True
            ):
                change = ablated[node] - now[node]
                scores[i, graph.sender_index[node]] += (change * gradient).sum() / len(points)
    return scores


def _written_to(literal: Literal, n_pos: int, fixed: Outputs, added: Outputs) -> Tensor:
    """The logits when something is added to what every sender writes, and some outputs are replaced first."""
    graph, written = literal.graph, {node: fixed[node].detach() + added[node] for node in fixed}

    def read(receiver: Receiver) -> Tensor:
        total = literal.never_ablated(n_pos, receiver).detach()
        for sender in graph.senders[: graph.n_readable(receiver)]:
            total = total + written[sender]
        return total

    for node in graph.senders[1:]:
        if node in fixed:
            continue
        if node.kind == "head":
            out = literal.head(node.layer, node.head, *(read(Receiver(node, slot)) for slot in SLOTS))
        else:
            out = literal.mlp(node.layer, read(Receiver(node)))
        written[node] = out + added[node]
    return literal.logits(read(Receiver(Node("logits"))))[-1]


class Search(State):
    """ACDC's rule over units, each test a whole run of every prompt; ``tested``: each unit's score, in order."""

    def run(self, order: list[Unit], is_dead: Callable[[Unit], bool]) -> dict[Unit, float]:
        tested: dict[Unit, float] = {}
        now = self.mean(self.kept)
        for unit in order:
            without = self.kept - set(unit)
            if is_dead(unit):
                self.kept = without
                continue
            rise = self.mean(without) - now
            tested[unit] = rise
            self.margin = min(self.margin, abs(rise - self.threshold))
            if rise < self.threshold:
                self.kept, now = without, now + rise
        return tested

    def mean(self, kept: set[Edge]) -> float:
        values = self.values(kept)
        return sum(values) / len(values)

    def leaves_nothing(self, unit: Unit) -> bool:
        """Whether no kept edge leaves any of the nodes that the unit leads into."""
        readers = {edge.receiver.node for edge in unit}
        return Node("logits") not in readers and not any(edge.sender in readers for edge in self.kept)


def visits(graph: Graph, group: int) -> list[Unit]:
    """The published order of edges, those that go together where the last of them stands."""
    slots = {"v": 0, "k": 1, "q": 2, None: 0}

    def place(unit: Unit) -> tuple[int, ...]:
        node, last = unit[0].receiver.node, unit[-1].receiver
        layer = graph.n_layers if node.kind == "logits" else node.layer
        is_head = node.kind == "head"
        sender = graph.sender_index[unit[0].sender]
        return -layer, is_head, slots[last.slot], -last.node.head if is_head else 0, -sender

    return sorted(grouped(graph, group), key=place)
