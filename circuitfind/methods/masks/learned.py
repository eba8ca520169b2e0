"""Learned masks: every edge has a gate, all are moved at once by the gradient of the objective and
of a penalty.

An edge whose share is m carries m times what its sender writes in the same run, and 1 - m times its
ablated output. Each step samples all shares (``methods/masks/gates.py``) and goes forwards and back
once (``patching/soft/run.py``). Which gates there are, and what moves them beside the objective, is
the method's: ``methods/masks/probing.py``, ``methods/masks/pruning.py``.

A score is the odds that the edge's gates are open, which are above 1 if that is more likely than
not: never negative, and hardly ever the same for two edges. It is one for all prompts.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from circuitfind.circuits.graph import Graph
from circuitfind.circuits.masks import readable
from circuitfind.errors import ModelError, StateError, UsageError
from circuitfind.methods.method import Job
from circuitfind.methods.saved_state import SoFar, require
from circuitfind.methods.settings import check_settings
from circuitfind.metrics.measures import MetricName
from circuitfind.models.workers import Threads
from circuitfind.patching.ablation import AblationName
from circuitfind.patching.blocks import split
from circuitfind.patching.problem import Problem
from circuitfind.patching.soft.block import BLOCK, Block, deal, prepare_block
from circuitfind.patching.soft.plan import Shares, make_plan
from circuitfind.patching.soft.run import Mixer, Workspace
from circuitfind.prompts.batch import Batch

TOLD = 10
"""The objective is computed, to be shown, once in so many steps."""


class DivergedError(ModelError):
    """Masks became NaN or infinite. ``scores`` are those after the last step that was sound."""

    def __init__(self, message: str, scores: Float[Tensor, "prompt receiver sender"]) -> None:
        super().__init__(message)
        self.scores = scores


class Masks(ABC):
    """The gates of all edges and what moves them: the ``optimiser`` moves the ``parameters``."""

    parameters: Mapping[str, Tensor]
    optimiser: torch.optim.Optimizer

    def __init__(self, graph: Graph, seed: int) -> None:
        self.edges = readable(graph)
        self.places = self.edges.nonzero(as_tuple=True)
        self.generator = torch.Generator().manual_seed(seed)

    def tensors(self) -> dict[str, Tensor]:
        """All that the next steps depend on: parameters, what the optimiser knows of each, the
        state of the draws.
        """
        known = {
            f"{name}.{key}": value
            for name, parameter in self.parameters.items()
            for key, value in self.optimiser.state.get(parameter, {}).items()
        }
        return {**self.parameters, **known, "draws": self.generator.get_state()}

    def take_up(self, so_far: SoFar) -> None:
        """Be as those masks were that ``so_far`` was made of. Raises StateError for what these
        masks can't come to.
        """
        for name, parameter in self.parameters.items():
            parameter.copy_(so_far.tensor(name, parameter))
            if any(key.startswith(f"{name}.") for key in so_far.tensors):
                self.optimiser.state[parameter] = self._moments(so_far, name, parameter)
        draws = so_far.tensor("draws", self.generator.get_state())
        try:
            self.generator.set_state(draws)
        except RuntimeError:
            raise StateError("its draws are no state of random numbers") from None
        require(self.is_sound(), "a mask in it is NaN or infinite")

    def _moments(self, so_far: SoFar, name: str, parameter: Tensor) -> dict[str, Tensor]:
        """What Adam knows of a parameter."""
        step = so_far.tensor(f"{name}.step", torch.zeros((), dtype=torch.float32))
        mean, square = (so_far.tensor(f"{name}.{key}", parameter) for key in ("exp_avg", "exp_avg_sq"))
        require(bool(step.isfinite() & (step >= 1)), f"its {name}.step is {float(step):g}")
        sound = mean.isfinite().all() & square.isfinite().all() & (square >= 0).all()
        require(bool(sound), f"what its optimiser knows of {name} is no mean of finite gradients")
        return {"step": step, "exp_avg": mean, "exp_avg_sq": square}

    @abstractmethod
    def sample(self) -> tuple[Shares, Bool[Tensor, "receiver sender"]]:
        """Every edge's share in this step, and where the gradient of the objective is needed."""

    @abstractmethod
    def update(self, step: int, gradient: Shares) -> None:
        """One step down the gradient of the objective, with respect to the shares, and of the penalty."""

    @abstractmethod
    def is_sound(self) -> bool:
        """Whether every parameter is a finite number."""

    @abstractmethod
    def odds(self) -> Float[Tensor, " gate"]:
        """The odds that each edge's gates are open."""

    def spread(self, values: Shaped[Tensor, " gate"]) -> Shaped[Tensor, "receiver sender"]:
        """Numbers of edges as a matrix, 0 elsewhere."""
        matrix = torch.zeros(self.edges.shape, dtype=values.dtype)
        matrix[self.places] = values
        return matrix

    def sparsity(self) -> float:
        """The expected share of edges that are closed."""
        open_odds = self.odds()
        return 1 - float((open_odds / (1 + open_odds)).mean())


@dataclass(frozen=True)
class Learned(ABC):
    """What both have in common: a method says which masks it moves."""

    metric: MetricName = "kl"
    ablation: AblationName = "corrupted"
    steps: int = 500
    learning_rate: float = 0.1
    seed: int = 0
    prompts_per_step: int = 8
    name: ClassVar[str]
    per_prompt: ClassVar[bool] = False
    resumes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UsageError(f"--steps is {self.steps}; it must be 1 or more.")
        check_settings(self)

    def to_dict(self) -> dict[str, Any]:
        """The block ``method`` of a circuit file: every option, and the convention of the scores."""
        return {"name": self.name, **asdict(self), "score": "odds that the edge's gates are open"}

    def score(
        self,
        problem: Problem,
        job: Job = Job(),
        initial: Float[Tensor, "receiver sender"] | None = None,
    ) -> Float[Tensor, "prompt receiver sender"]:
        """Every edge's score, one for all prompts; NaN where the graph has no edge.

        With ``initial`` the edges' log alphas start in the order of these scores
        (``gates.warm_start``), however large they are: the highest where a gate is most likely
        open. What is so far are the masks (``Masks.tensors``), the ``step`` and the ``objective``
        that was told last; ``initial`` is not looked at then. Neither threads nor, on a CPU,
        ``batch_size`` change a bit. Raises UsageError where the metric needs wrong answers that a
        prompt doesn't have, or ``initial`` is not of this graph; DivergedError where a mask becomes
        NaN or infinite.
        """
        problem, start = problem.by(self.metric, self.ablation), job.start
        model, graph = problem.model, problem.model.architecture.graph
        masks = self._masks(graph, None if initial is None else _of_edges(initial, graph))
        numbers: Mapping[str, float] = {"step": 0, "objective": math.nan}
        if start is not None:
            masks.take_up(start)
            numbers = {
                "step": start.count("step", self.steps),
                "objective": start.numbers.get("objective", math.nan),
            }
        dtype = torch.promote_types(model.dtype, torch.float32)
        with Threads(model.device) as threads:
            data = _Data(problem, self.prompts_per_step, threads)
            data.objective = numbers["objective"]
            last = _scores(masks, dtype)
            steps = enumerate(data.steps(self.steps, self.seed), start=1)
            for step, prompts in islice(steps, int(numbers["step"]), None):
                shares, wanted = masks.sample()
                gradient = data.gradient(
                    prompts, shares, wanted, shown=step % TOLD == 1 or step == self.steps
                )
                if gradient.isfinite().all():
                    masks.update(step - 1, gradient)
                if not (gradient.isfinite().all() and masks.is_sound()):
                    raise DivergedError(self._what_diverged(step), last)
                last = _scores(masks, dtype)
                numbers = {"step": step, "objective": data.objective}
                job.save(SoFar(masks.tensors(), numbers, f"{step:,} of {self.steps:,} steps"))
                job.progress.update(
                    step, self.steps, f"loss {data.objective:.4g}, sparsity {masks.sparsity():.1%}"
                )
        return last

    def _what_diverged(self, step: int) -> str:
        return (
            f"{self.name} diverged at step {step} of {self.steps}: a mask or its gradient became NaN or"
            f" infinite.\nLower the learning rate (now {self.learning_rate:g}); if it happens at step 1, use"
            " --dtype float64."
        )

    @abstractmethod
    def _masks(self, graph: Graph, initial: Float[Tensor, " gate"] | None) -> Masks:
        """The masks before the first step; ``initial`` has a number for each edge."""


def _of_edges(initial: Shares, graph: Graph) -> Float[Tensor, " gate"]:
    """The scores of the graph's edges."""
    edges = readable(graph)
    if initial.shape != edges.shape:
        raise UsageError(
            f"The scores to start from are {tuple(initial.shape)} and the graph is {tuple(edges.shape)}:"
            " receivers by senders. Start from scores of the same model."
        )
    return initial.cpu()[edges]


def _scores(masks: Masks, dtype: torch.dtype) -> Float[Tensor, "prompt receiver sender"]:
    return masks.spread(masks.odds()).masked_fill_(~masks.edges, math.nan).unsqueeze(0).to(dtype)


class _Data:
    """The prompts in blocks, from which each step takes some; ``objective`` is its mean when it was
    last computed.
    """

    def __init__(self, problem: Problem, prompts_per_step: int, threads: Threads) -> None:
        size = BLOCK if problem.model.device.type == "cpu" else problem.batch_size
        self._mixer, self._threads = Mixer(problem.model), threads
        self._free: SimpleQueue[Workspace] = SimpleQueue()
        self._n_each = -(-prompts_per_step // size)

        def prepare(group: tuple[Batch, int]) -> Block:
            return prepare_block(self._mixer, *group, problem.metric, problem.ablation)

        self._blocks = threads.map(prepare, split(problem.prompts, size))
        self.objective = math.nan

    def steps(self, n_steps: int, seed: int) -> Iterator[list[Block]]:
        """The blocks of each step."""
        for numbers in deal(len(self._blocks), self._n_each, n_steps, seed):
            yield [self._blocks[i] for i in numbers]

    def gradient(
        self, blocks: list[Block], shares: Shares, wanted: Bool[Tensor, "receiver sender"], shown: bool
    ) -> Shares:
        """The gradient of the objective's mean over these blocks' prompts, in float64 on the CPU."""
        plan = make_plan(self._mixer.model, shares, wanted)
        n_prompts = sum(float(block.is_real.sum()) for block in blocks)

        def run(block: Block) -> tuple[Tensor, float]:
            workspace = self._borrow()
            mixed = self._mixer.mix(block, plan, workspace)
            slope = block.objective.slope(mixed.final) * (block.is_real / n_prompts).unsqueeze(1)
            value = (
                float(block.objective(mixed.final.unsqueeze(0))[0] @ block.is_real.double())
                if shown
                else 0.0
            )
            gradient = self._mixer.gradient(mixed, slope)
            self._free.put(workspace)
            return gradient.cpu(), value

        ran = self._threads.map(run, blocks)
        if shown:
            self.objective = sum(value for _, value in ran) / n_prompts
        return torch.stack([gradient for gradient, _ in ran]).double().sum(0)

    def _borrow(self) -> Workspace:
        """Memory that no other thread is using."""
        try:
            return self._free.get_nowait()
        except Empty:
            return Workspace()
