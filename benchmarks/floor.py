"""What a search cannot do without: the arithmetic of its tests, and how fast this machine does such arithmetic."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import torch

from circuitfind.circuits.graph import Node, Receiver
from circuitfind.methods.outcome import Found
from circuitfind.methods.search.acdc import visiting_order
from circuitfind.models.transformer import Transformer
from circuitfind.patching.blocks import Rows
from circuitfind.prompts.batch import Batch


class Work:
    """The products that one test of a receiver needs, in FLOP, given what was kept behind it."""

    def __init__(self, model: Transformer, batch: Batch, found: Found) -> None:
        self._model, self._found, self._graph = model, found, model.architecture.graph
        self._n_rows, self._n_prompts = len(Rows(batch, "corrupted")), batch.n_prompts
        self._feeds: dict[Node, list[Receiver]] = {}
        self._end_only: dict[Node, bool] = {}

    def total(self) -> Counter[str]:
        """FLOP of all tests, by the part of the model that they run again; ``log Z`` as if for the whole vocabulary."""
        total: Counter[str] = Counter()
        for receiver in visiting_order(self._graph):
            if receiver.node.kind != "logits" and receiver.node not in self._feeds:
                continue
            self._open(receiver.node)
            n_tests = self._graph.n_readable(receiver)
            total.update({part: n_tests * work for part, work in self._one(receiver).items()})
            for sender in (
                self._found.kept[self._graph.receiver_index[receiver]].nonzero().flatten().tolist()
            ):
                self._feeds.setdefault(self._graph.senders[sender], []).append(receiver)
        return total

    def _open(self, node: Node) -> None:
        if node.kind != "logits" and node not in self._end_only:
            self._end_only[node] = all(self._is_end_only(receiver) for receiver in self._feeds[node])

    def _is_end_only(self, receiver: Receiver) -> bool:
        return receiver.slot not in ("k", "v") and (
            receiver.node.kind == "logits" or self._end_only[receiver.node]
        )

    def _one(self, receiver: Receiver) -> Counter[str]:
        work: Counter[str] = Counter()
        for node, slots in self._reached(receiver).items():
            for part, n_flop in self._of(node, slots):
                work[part] += n_flop
        return work

    def _reached(self, receiver: Receiver) -> dict[Node, set[str | None]]:
        """The nodes that a change of the receiver's input runs again, each with the inputs that moved."""
        slots: dict[Node, set[str | None]] = {receiver.node: {receiver.slot}}
        waiting = [receiver.node]
        while waiting:
            for read in self._feeds.get(waiting.pop(), []):
                if read.node not in slots:
                    slots[read.node] = set()
                    waiting.append(read.node)
                slots[read.node].add(read.slot)
        return slots

    def _of(self, node: Node, slots: set[str | None]) -> list[tuple[str, int]]:
        d_model, d_vocab = self._model.W_U.shape
        if node.kind == "logits":
            return [("log Z", 2 * self._n_prompts * d_model * d_vocab)]
        weights, end_only = self._model.layers[node.layer], self._end_only[node]
        n_rows, where = (
            (self._n_prompts, "at the answer") if end_only else (self._n_rows, "at all positions")
        )
        if node.kind == "mlp":
            n_products = 2 if weights.W_gate is None else 3
            return [(f"MLPs {where}", n_products * 2 * n_rows * weights.W_in.numel())]
        n_head = 2 * d_model * weights.W_Q.shape[-1]
        n_projected = sum(n_rows if slot == "q" else self._n_rows for slot in slots)
        return [("heads", n_head * (n_projected + n_rows))]


def flop_rate(d_model: int, d_mlp: int, n_threads: int) -> float:
    """FLOP a second of matrix products of the shape of an MLP's first, one on each thread, best of five."""
    n_rows, n_times = 512, 20
    with torch.inference_mode():
        operands = [(torch.randn(n_rows, d_model), torch.randn(d_model, d_mlp)) for _ in range(n_threads)]

    def work(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
        for _ in range(n_times):
            torch.mm(*pair)

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    best = float("inf")
    with ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for _ in range(5):
            start = time.perf_counter()
            list(pool.map(work, operands))
            best = min(best, time.perf_counter() - start)
    torch.set_num_threads(before)
    return 2 * n_rows * d_model * d_mlp * n_times * n_threads / best
