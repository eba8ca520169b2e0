"""Optimal ablation (Li & Janson 2024, arXiv:2409.09951): an ablated sender writes one learned constant.

A mean is not what a model makes the least of: a head's mean output may say something that no single
output does. The constants learned here are those with which ablation spoils least. They minimise

    the expectation, over prompts and masks, of KL(full || run with the mask's edges ablated by the
    constants),

where a mask ablates every edge with the same probability, which is itself drawn evenly from 0 to 1.
The paper learns constants for each circuit that it looks at; these serve every circuit that a
search may ask for, so that all circuits of a run are compared under the same ablation.

A receiver reads ``now`` over each kept edge and the constant over each ablated one, so the gradient
with respect to a constant is the sum, over ablated edges, prompts and positions, of that at what
the receiver reads (``patching/soft/run.py``). Adam starts at the means; a step of 1 is the standard
deviation of what the sender writes there, and the learning rate falls to 0. Every draw follows from
the seed, every sum is over fixed blocks: neither threads nor a batch size change a bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from circuitfind.circuits.layout import Layout
from circuitfind.circuits.masks import readable
from circuitfind.circuits.outputs import Outputs
from circuitfind.errors import ModelError, OutputError
from circuitfind.models.transformer import Transformer
from circuitfind.models.workers import Threads
from circuitfind.patching.blocks import split
from circuitfind.patching.mean_ablation import standard_deviations
from circuitfind.patching.soft.block import BLOCK, deal, prepare_block
from circuitfind.patching.soft.plan import make_plan
from circuitfind.patching.soft.run import Mixer, Workspace
from circuitfind.progress import Progress
from circuitfind.prompts.batch import Batch

STEPS = 100
LEARNING_RATE = 0.05
BLOCKS_PER_STEP = 2
"""Each with a mask of its own."""
N_COMPARED = 32
"""In how many runs of a block the constants are compared with the means."""
SHOWN = 20
"""The loss that is shown is the mean of so many steps' last: one step's depends mostly on its masks."""

Mask = Bool[Tensor, "receiver sender"]
"""The edges that are kept."""


@dataclass(frozen=True)
class Learned:
    """The constants, and the mean loss in nats under the same random masks with the means and with them."""

    constants: Outputs
    loss_of_means: float
    loss: float

    def to_dict(self) -> dict[str, Any]:
        """What run.json says of it."""
        options = {
            "steps": STEPS,
            "learning_rate": LEARNING_RATE,
            "prompts_per_step": BLOCKS_PER_STEP * BLOCK,
        }
        return {**options, "loss_of_means": self.loss_of_means, "loss": self.loss}

    @property
    def warning(self) -> str | None:
        """What to tell a user of constants that ablate no better than the means; None where they do."""
        if self.loss < self.loss_of_means:
            return None
        return (
            f"the constants of optimal ablation are no better than the means: {self.loss:.4g} nats under"
            f" random masks, the means {self.loss_of_means:.4g}. --ablation mean takes those."
        )


def learn_constants(
    model: Transformer, reference: Batch, means: Outputs, seed: int, progress: Progress
) -> Learned:
    """The constants for this model, from the clean prompts of ``reference``; ``means`` are theirs.

    Raises ModelError where the loss or its gradient becomes NaN or infinite.
    """
    parameters = _Parameters(means, standard_deviations(model, reference, BLOCK))
    with Threads(model.device) as threads:
        data = _Data(model, reference.to(model.device), threads)
        optimiser = torch.optim.Adam(parameters.moves, lr=LEARNING_RATE)
        generator, losses = torch.Generator().manual_seed(seed), []
        for step, blocks in enumerate(deal(data.n_blocks, BLOCKS_PER_STEP, STEPS, seed), start=1):
            masks = [data.draw(generator, float(torch.rand(1, generator=generator))) for _ in blocks]
            loss, gradient = data.gradient(parameters.outputs(), list(zip(blocks, masks, strict=True)))
            _check(step, loss, gradient)
            for group in optimiser.param_groups:
                group["lr"] = LEARNING_RATE * (1 - (step - 1) / STEPS)
            parameters.step(optimiser, model, gradient)
            losses.append(loss)
            progress.update(step, STEPS, f"loss {fmean(losses[-SHOWN:]):.4g}")
        compared = list(data.compared(generator))
        before, after = (
            data.gradient(constants, compared)[0] for constants in (means, parameters.outputs())
        )
    return Learned(parameters.outputs(), before, after)


def _check(step: int, loss: float, gradient: Float[Tensor, "sender d_model"]) -> None:
    if not (math.isfinite(loss) and gradient.isfinite().all()):
        raise ModelError(
            f"The constants of optimal ablation diverged at step {step} of {STEPS}: the loss or its gradient"
            " became NaN or infinite.\nUse --dtype float64, or --ablation mean."
        )


def constants_file(constants: Outputs) -> bytes:
    """constants.safetensors: ``input`` [d_model], ``z`` [layer, head, d_head] and ``mlp`` [layer,
    d_model].
    """
    z, mlp = (
        torch.stack([x.flatten(-3, -2).squeeze(-2) for x in each])
        for each in (constants.z, constants.mlp_out)
    )
    tensors = {"input": constants.embedding.flatten(), "z": z, "mlp": mlp}
    return save({name: x.cpu().contiguous() for name, x in tensors.items()})


def read_constants(path: Path) -> Outputs:
    """The inverse: a batch's ``constants``. Raises OutputError where there is no such file, or it
    is damaged.
    """
    try:
        tensors = load(path.read_bytes())
        z = tuple(x[:, None, None] for x in tensors["z"])
        return Outputs(
            tensors["input"].view(1, 1, -1), z, tuple(x.view(1, 1, -1) for x in tensors["mlp"])
        )
    except (OSError, SafetensorError, KeyError):
        raise OutputError(
            f"{path} does not hold the constants of optimal ablation, or is damaged."
        ) from None


class _Parameters:
    """The constants: the means, moved by so many standard deviations; float64, on the CPU."""

    def __init__(self, means: Outputs, deviations: Outputs) -> None:
        self._like = means
        self._means, self._deviations = (
            [x.double().cpu() for x in of.parts] for of in (means, deviations)
        )
        self.moves = [torch.zeros_like(x) for x in self._means]

    def outputs(self) -> Outputs:
        """As senders write them, in the model's dtype and place."""
        parts = zip(self._means, self.moves, self._deviations, strict=True)
        return Outputs.of_parts(
            [(mean + move * unit).to(self._like.embedding) for mean, move, unit in parts]
        )

    def step(
        self,
        optimiser: torch.optim.Optimizer,
        model: Transformer,
        gradient: Float[Tensor, "sender d_model"],
    ) -> None:
        """One step down the gradient at what each sender writes; a head's goes through W_O to its z."""
        for move, unit, along in zip(
            self.moves, self._deviations, to_outputs(model, gradient).parts, strict=True
        ):
            move.grad = along * unit
        optimiser.step()


def to_outputs(model: Transformer, gradient: Float[Tensor, "sender d_model"]) -> Outputs:
    """The gradient with respect to constants, from that at what each sender writes."""
    layout = Layout(model.architecture.graph)
    heads = [
        torch.einsum("hd,hzd->hz", gradient[layout.heads(number)], layer.W_O.double().cpu())
        for number, layer in enumerate(model.layers)
    ]
    mlps = tuple(gradient[layout.mlp(number)].view(1, 1, -1) for number in range(len(model.layers)))
    return Outputs(gradient[0].view(1, 1, -1), tuple(z[:, None, None] for z in heads), mlps)


class _Data:
    """The reference prompts in blocks, and runs of those with edges ablated by constants."""

    def __init__(self, model: Transformer, reference: Batch, threads: Threads) -> None:
        self._mixer, self._threads = Mixer(model), threads
        self._groups = split(reference, BLOCK)
        self._edges = readable(model.architecture.graph)
        self._free: SimpleQueue[Workspace] = SimpleQueue()
        for _ in range(BLOCKS_PER_STEP):
            self._free.put(Workspace())

    @property
    def n_blocks(self) -> int:
        return len(self._groups)

    def draw(self, generator: torch.Generator, share: float) -> Mask:
        """A mask that ablates each edge with this probability."""
        return (torch.rand(self._edges.shape, generator=generator) >= share) & self._edges

    def compared(self, generator: torch.Generator) -> Iterator[tuple[int, Mask]]:
        """Blocks in turn, under masks that ablate from few to nearly all edges."""
        for number in range(N_COMPARED):
            yield number % self.n_blocks, self.draw(generator, (number + 0.5) / N_COMPARED)

    def gradient(
        self, constants: Outputs, runs: Sequence[tuple[int, Mask]]
    ) -> tuple[float, Float[Tensor, "sender d_model"]]:
        """The mean loss of these blocks, each under its mask, and its gradient at what is written
        when ablated.
        """
        n_prompts = sum(self._groups[number][1] for number, _ in runs)
        ran = self._threads.map(lambda run: self._run(constants, *run), runs)
        loss, gradient = (
            math.fsum(loss for loss, _ in ran),
            torch.stack([along for _, along in ran]).sum(0),
        )
        return loss / n_prompts, gradient / n_prompts

    def _run(
        self, constants: Outputs, number: int, kept: Mask
    ) -> tuple[float, Float[Tensor, "sender d_model"]]:
        """The loss of a block, summed over its prompts, and its gradient; float64, on the CPU."""
        batch, n_real = self._groups[number]
        block = prepare_block(self._mixer, replace(batch, constants=constants), n_real, "kl", "optimal")
        plan = make_plan(self._mixer.model, kept.double(), torch.zeros_like(kept))
        workspace = self._free.get()
        mixed = self._mixer.mix(block, plan, workspace)
        loss = float(block.objective(mixed.final.unsqueeze(0))[0] @ block.is_real.double())
        slope = block.objective.slope(mixed.final) * block.is_real.unsqueeze(1)
        read = self._mixer.gradient_read(mixed, slope)
        self._free.put(workspace)
        return loss, (self._edges & ~kept).double().T @ read
