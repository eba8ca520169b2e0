"""ACDC, automatic circuit discovery (Conmy et al. 2023, arXiv:2304.14997), exactly as published.

Receivers are visited in reverse forward order: the logits; then for each layer from the last its MLP, its v inputs,
its k inputs, its q inputs, each over the heads from last to first. For each receiver the senders are tried from latest
to earliest. An edge is removed for good if the metric then rises by less than the threshold (strictly). A node that no
kept edge leaves loses its incoming edges without a test: removing them changes nothing, so their score is 0.

The tests of one receiver run as a batch along the chain "all so far removed": the outcome is taken up to the first edge
that must stay, and the chain goes on behind it. This changes no decision, only how many are computed at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch

from circuitfind.batch import Batch
from circuitfind.errors import UsageError
from circuitfind.graph import SLOTS, Graph, Node, Receiver
from circuitfind.methods.found import Found, Save, nothing_decided, save_nothing
from circuitfind.metrics import MetricName, check_answers
from circuitfind.patching import AblationName
from circuitfind.progress import Progress
from circuitfind.search import BYTES_IN_FLIGHT, Search, Threads
from circuitfind.transformer import Transformer

DEFAULT_THRESHOLD: dict[MetricName, float] = {"kl": 0.02, "logit-diff": 0.05, "prob-diff": 0.005, "loss": 0.02}
"""In each metric's unit. That of kl gives 161 edges for ioi on smollm2-135m; the others are of its order, not tuned."""
SHORTEST_CHAIN = 16
LONGEST_CHAIN = 64
"""How many tests run side by side: twice as many after a chain in which every edge went, half as many after another."""


@dataclass(frozen=True)
class ACDC:
    """The method's options, and so its record. ``threshold`` is in the metric's unit, for the mean over prompts.

    ``objective``: "improve" minimises the metric itself, as published; "match" minimises its distance from the full
    model's value on each prompt, which removes what speaks against the answer only where the full model would.
    """

    threshold: float
    metric: MetricName = "kl"
    ablation: AblationName = "corrupted"
    objective: str = "improve"
    name: ClassVar[str] = "acdc"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.threshold) and self.threshold >= 0):
            raise UsageError(f"The threshold is {self.threshold}; it must be a finite number, 0 or above.")
        if self.objective not in ("improve", "match"):
            raise UsageError(f"The objective is '{self.objective}'; it must be improve or match.")

    def to_dict(self) -> dict[str, Any]:
        """The block ``method`` of a circuit file: every option, and the order of visits that the result depends on."""
        return {"name": self.name, **asdict(self), "order": "published"}

    def find(
        self,
        model: Transformer,
        batch: Batch,
        batch_size: int,
        progress: Progress,
        start: Found | None = None,
        save: Save = save_nothing,
        bytes_in_flight: int = BYTES_IN_FLIGHT,
    ) -> Found:
        """Visit every receiver and decide on every edge.

        ``start`` takes up what an earlier search of the same model, batch and options had decided; the outcome is the
        same to the last bit. ``save`` is called with what is decided so far after every batch of tests. The tests side by
        side on one thread hold at most ``bytes_in_flight``, which changes no outcome.
        """
        check_answers(self.metric, batch)
        graph = model.architecture.graph
        found = start or nothing_decided(graph)
        with Threads(model.device) as threads:
            match = self.objective == "match"
            search = Search(model, batch, self.ablation, self.metric, threads, batch_size, match)
            n_done = 0
            for receiver in visiting_order(graph):
                if search.is_live(receiver.node):
                    found = self._decide(search, graph, receiver, found)
                n_done += graph.n_readable(receiver)
                progress.update(n_done, graph.n_edges, f"{found.summary}, {self.metric} {search.value:.4g}")
        return found

    def _decide(self, search: Search, graph: Graph, receiver: Receiver, found: Found) -> Found:
        """Test the receiver's edges from the latest sender to the earliest; ``found`` with its row filled in."""
        row, now = graph.receiver_index[receiver], search.value
        waiting = list(reversed(range(graph.n_readable(receiver))))
        n_tests, n_evaluated, length = len(waiting), 0, max(LONGEST_CHAIN // 2, 1)
        search.visit(receiver)
        while waiting:
            chain, outcome = waiting[: min(length, search.longest_chain)], []
            for value in search.test(receiver, chain):
                outcome.append(value - now)
                if not outcome[-1] < self.threshold:
                    break
                now = value
            n_evaluated += len(chain)
            found.scores[row, chain[: len(outcome)]] = torch.tensor(outcome, dtype=torch.float64)
            n_removed = sum(score < self.threshold for score in outcome)
            search.remove(receiver, chain[:n_removed])
            found.kept[row, chain[n_removed : len(outcome)]] = True
            waiting = waiting[len(outcome) :]
            length = min(2 * length, LONGEST_CHAIN) if n_removed == len(chain) else max(length // 2, SHORTEST_CHAIN)
        kept = found.kept[row].nonzero().flatten().tolist()
        search.leave(receiver, [graph.senders[sender] for sender in reversed(kept)])
        return replace(found, n_tests=found.n_tests + n_tests, n_evaluated=found.n_evaluated + n_evaluated)


def visiting_order(graph: Graph) -> Iterator[Receiver]:
    """The published order: logits; per layer from the last its MLP, all v, all k, all q, heads from last to first."""
    yield Receiver(Node("logits"))
    for layer in reversed(range(graph.n_layers)):
        yield Receiver(Node("mlp", layer))
        for slot in reversed(SLOTS):
            for head in reversed(range(graph.n_heads)):
                yield Receiver(Node("head", layer, head), slot)
