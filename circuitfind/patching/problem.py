"""What every method works on: a model, the prompts, and what is measured as edges are ablated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from circuitfind.circuits.graph import Graph
from circuitfind.circuits.units import KvName, LevelName, Units
from circuitfind.metrics.measures import MetricName, check_answers
from circuitfind.models.transformer import Transformer
from circuitfind.patching.ablation import AblationName
from circuitfind.patching.blocks import BYTES_IN_FLIGHT, split
from circuitfind.prompts.batch import Batch


@dataclass(frozen=True)
class Problem:
    """A model, prompts, and the objective on them as edges are ablated.

    ``batch_size``: how many prompts are computed together, and ``bytes_in_flight`` how much the
    tests side by side on one thread may hold: on a CPU no outcome depends on either. ``metric``,
    ``ablation`` and ``match`` (whether the metric is to stay where the full model has it) are
    those of a method, which takes the problem ``by`` its own options.
    """

    model: Transformer
    batch: Batch
    batch_size: int
    metric: MetricName = "kl"
    ablation: AblationName = "corrupted"
    match: bool = False
    bytes_in_flight: int = BYTES_IN_FLIGHT

    def by(self, metric: MetricName, ablation: AblationName, match: bool = False) -> Problem:
        """The same problem, measured otherwise.

        Raises UsageError where the metric needs wrong answers that a prompt doesn't have.
        """
        check_answers(metric, self.batch)
        return replace(self, metric=metric, ablation=ablation, match=match)

    def on(self, model: Transformer) -> Problem:
        """The same problem for another form of its model."""
        return replace(self, model=model)

    @cached_property
    def graph(self) -> Graph:
        """The graph whose edges are decided on: the model's, at the prompts' roles if they have some."""
        return self.batch.graph_of(self.model.architecture.graph)

    def units(self, level: LevelName, kv: KvName) -> Units:
        """What is decided on as one, at the prompts' roles."""
        shape = self.model.architecture
        return Units.of(shape.graph, shape.n_kv_heads, level, kv).at_roles(self.graph)

    @cached_property
    def prompts(self) -> Batch:
        """The prompts on the model's device."""
        return self.batch.to(self.model.device)

    def blocks(self) -> list[tuple[Batch, int]]:
        """The prompts in groups of ``batch_size``, each with how many of its prompts are real."""
        return split(self.prompts, self.batch_size)
