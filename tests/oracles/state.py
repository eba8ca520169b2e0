"""What the literal schedules search over: each prompt's tokens, ablated outputs and full logits, and the edges kept."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from circuitfind.circuits.graph import Edge
from circuitfind.prompts.batch import Batch
from tests.oracles.literal import Literal, ablated_outputs, run
from tests.oracles.metrics import objective


@dataclass
class State:
    """``margin``: how near any decision came to falling otherwise."""

    literal: Literal
    batch: Batch
    threshold: float
    metric: str
    ablation: str
    match: bool = False
    kept: set[Edge] = field(default_factory=set)
    scores: dict[Edge, float] = field(default_factory=dict)
    margin: float = torch.inf

    def __post_init__(self) -> None:
        self.kept = set(self.literal.graph.edges())
        self.prompts = [
            (self.batch.clean[i, : end + 1], self.batch.corrupted[i, : end + 1], answers, wrong)
            for i, (end, answers, wrong) in enumerate(
                zip(self.batch.end.tolist(), self.batch.answers, self.batch.wrong_answers, strict=True)
            )
        ]
        self.ablated = [ablated_outputs(self.literal, c, x, self.ablation) for c, x, _, _ in self.prompts]
        self.full = [run(self.literal, clean, self.kept, {})[0] for clean, _, _, _ in self.prompts]

    def values(self, kept: set[Edge]) -> list[float]:
        """Each prompt's objective with these edges kept."""
        numbers = []
        for (clean, _, right, wrong), ablated, full in zip(
            self.prompts, self.ablated, self.full, strict=True
        ):
            number = objective(
                self.metric, full, run(self.literal, clean, kept, ablated)[0], right, wrong
            )
            target = objective(self.metric, full, full, right, wrong) if self.match else 0.0
            numbers.append(abs(number - target) if self.match else number)
        return numbers
