"""From neurons' scores to a circuit: which are kept, and how sure that is.

The largest scores by size (``top``) or as they are (``top-signed``), of equal ones the first in
forward order. Nothing is pruned: all edges are there, so that every neuron is on a path from the
input to the logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitfind.circuits.bases import Neuron, Neurons
from circuitfind.circuits.bootstrap import Bootstrap, Scores, Uncertainty, estimate
from circuitfind.circuits.selection import first
from circuitfind.circuits.size import NeuronSelection
from circuitfind.errors import UsageError
from circuitfind.methods.scored import bootstrap_block
from circuitfind.methods.search.neurons import FoundNeurons


@dataclass(frozen=True)
class NeuronOutcome:
    """What a run at neuron level comes to, all in forward order. ``per_prompt`` is there where a
    method scored; ``blocks`` is what run.json says of it."""

    neurons: Neurons
    kept: Bool[Tensor, " neuron"]
    scores: Float[Tensor, " neuron"]
    blocks: dict[str, Any]
    per_prompt: Float[Tensor, "prompt neuron"] | None = None
    options: Bootstrap | None = None
    uncertainty: Uncertainty | None = None
    """Of neurons as the edges of one receiver: its tensors are [1, neuron]."""

    def record(self) -> dict[str, Any]:
        """What run.json says of it."""
        if self.options is None or self.uncertainty is None:
            return self.blocks
        return {**self.blocks, "bootstrap": bootstrap_block(self.options, self.uncertainty)}

    def scored(self, kept: Bool[Tensor, " neuron"]) -> dict[Neuron, float]:
        """These neurons and their scores."""
        places = kept.nonzero().flatten().tolist()
        return {self.neurons.at(place): float(self.scores[place]) for place in places}


def choose(
    scores: Float[Tensor, "*one neuron"], selection: NeuronSelection
) -> Bool[Tensor, "*one neuron"]:
    """The neurons that the selection keeps. Raises UsageError for a score that is no finite number."""
    size = scores.detach().cpu().double().numpy()
    if not np.isfinite(size).all():
        raise UsageError(
            "A neuron's score is no finite number. Run again with --dtype float32 or float64."
        )
    size = size if selection.select == "top-signed" else np.abs(size)
    count = selection.count(size.shape[-1])
    return torch.from_numpy(size >= selection.threshold if count is None else first(size, count))


def of_scores(
    neurons: Neurons, per_prompt: Float[Tensor, "prompt neuron"], selection: NeuronSelection
) -> NeuronOutcome:
    """The circuit that the selection makes of the mean scores."""
    mean = per_prompt.double().mean(0)
    kept = choose(mean, selection)
    n_kept = int(kept.sum())
    return NeuronOutcome(
        neurons, kept, mean, {"selection": {"nominal": n_kept, "kept": n_kept}}, per_prompt
    )


def of_search(neurons: Neurons, found: FoundNeurons, threshold: float, margin: float) -> NeuronOutcome:
    """The circuit that a search found; a test within ``margin`` of the threshold was decided by rounding."""
    near = ((found.scores - threshold).abs() < margin).nonzero().flatten().tolist()
    search = {
        "tested": len(neurons),
        "computed": found.n_evaluated,
        "taken_over": 0,
        "margin": margin,
        "n_undecidable": len(near),
        "undecidable": [str(neurons.at(place)) for place in near],
    }
    return NeuronOutcome(neurons, found.kept, found.scores, {"search": search})


def bootstrap_neurons(
    scores: Float[Tensor, "prompt neuron"], selection: NeuronSelection, options: Bootstrap
) -> Uncertainty:
    """How sure the circuit is, by resamples of the prompts; as ``bootstrap.bootstrap`` for edges,
    without pruning.
    """
    n_neurons = scores.shape[1]
    table = Scores(scores, torch.arange(n_neurons), torch.Size((1, n_neurons)))
    draws = options.draw(len(scores))
    return estimate(table, draws, options, lambda mean: choose(mean, selection), lambda often: often)
