"""Scores on disk, as safetensors with the names of receivers and senders in the metadata.

The scores of single prompts take half the room of their numbers: float16, all of them scaled by one
power of two such that the largest comes out just below 2^15. What is less than 2^-39 of the largest
becomes 0, and the rest keeps 11 bits, or fewer below 2^-29 of it. ``rounded`` is what is read back,
and what a bootstrap draws from.
"""

from __future__ import annotations

import json
import math

import torch
from jaxtyping import Float, Int
from safetensors.torch import save
from torch import Tensor

from circuitfind.circuits.bases import Neurons
from circuitfind.circuits.bootstrap import Uncertainty
from circuitfind.circuits.graph import Graph
from circuitfind.circuits.masks import readable

TOP = 15
"""The power of two below which the largest score of a prompt is stored; float16 ends at 2^16."""


def scores_file(graph: Graph, scores: Float[Tensor, "receiver sender"], dtype: torch.dtype) -> bytes:
    """scores.safetensors: every edge's score, NaN where there is no edge; float64 in a float64 run,
    else float32.
    """
    stored = scores.to(torch.float64 if dtype == torch.float64 else torch.float32)
    return _write(graph, {"scores": stored})


def prompt_scores_file(graph: Graph, scores: Float[Tensor, "prompt receiver sender"]) -> bytes:
    """prompt_scores.safetensors: ``scores`` [prompt, edge] in graph order, float16, to be times
    2^``exponent``.
    """
    flat = scores.flatten(1)[:, _places(graph)]
    exponent = _exponent(flat)
    return _write(graph, {"scores": _shrink(flat, exponent), "exponent": torch.tensor([exponent])})


def uncertainty_file(graph: Graph, uncertainty: Uncertainty) -> bytes:
    """bootstrap.safetensors: of every edge the confidence interval of its score and its inclusion
    probability, float32, NaN where there is no edge; and whether it is in the consensus circuit, 0
    or 1."""
    return _write(graph, _of_uncertainty(uncertainty))


def _of_uncertainty(uncertainty: Uncertainty) -> dict[str, Tensor]:
    return {
        "lower": uncertainty.lower.float(),
        "upper": uncertainty.upper.float(),
        "inclusion": uncertainty.inclusion.float(),
        "consensus": uncertainty.consensus.to(torch.uint8),
    }


def neuron_scores_file(neurons: Neurons, scores: Float[Tensor, " neuron"], dtype: torch.dtype) -> bytes:
    """scores.safetensors at neuron level: every neuron's score in forward order; float64 in a float64 run."""
    stored = scores.to(torch.float64 if dtype == torch.float64 else torch.float32)
    return _save({"scores": stored}, _layout(neurons))


def neuron_prompt_scores_file(neurons: Neurons, scores: Float[Tensor, "prompt neuron"]) -> bytes:
    """prompt_scores.safetensors at neuron level: ``scores`` [prompt, neuron], as those of edges are
    stored.
    """
    exponent = _exponent(scores)
    return _save(
        {"scores": _shrink(scores, exponent), "exponent": torch.tensor([exponent])}, _layout(neurons)
    )


def neuron_uncertainty_file(neurons: Neurons, uncertainty: Uncertainty) -> bytes:
    """bootstrap.safetensors at neuron level: as that of edges, each tensor [neuron]."""
    tensors = {name: tensor.flatten() for name, tensor in _of_uncertainty(uncertainty).items()}
    return _save(tensors, _layout(neurons))


def _layout(neurons: Neurons) -> dict[str, str]:
    """The nodes in forward order, each with how many neurons it has."""
    return {"nodes": json.dumps([[str(node), neurons.width(node)] for node in neurons.nodes])}


def rounded_each(scores: Float[Tensor, "prompt place"]) -> Float[Tensor, "prompt place"]:
    """Scores as they are stored of each prompt, float32."""
    exponent = _exponent(scores)
    return torch.ldexp(_shrink(scores, exponent).float(), torch.tensor(exponent))


def rounded(
    graph: Graph, scores: Float[Tensor, "prompt receiver sender"]
) -> Float[Tensor, "prompt receiver sender"]:
    """The scores as ``prompt_scores_file`` stores them, float32, NaN where there is no edge."""
    places = _places(graph)
    whole = torch.full((len(scores), scores[0].numel()), math.nan)
    whole[:, places] = rounded_each(scores.flatten(1)[:, places])
    return whole.view(scores.shape)


def _places(graph: Graph) -> Int[Tensor, " edge"]:
    """The graph's edges, in its order, by their places in a flattened [receiver, sender] matrix."""
    return readable(graph).flatten().nonzero().flatten()


def _exponent(scores: Float[Tensor, "prompt edge"]) -> int:
    """Of the power of two that the stored numbers are to be multiplied by."""
    largest = float(scores.abs().max()) if scores.numel() else 0.0
    return math.frexp(largest)[1] - TOP if largest else 0


def _shrink(scores: Float[Tensor, "prompt edge"], exponent: int) -> Float[Tensor, "prompt edge"]:
    return torch.ldexp(scores, torch.tensor(-exponent)).half()


def _write(graph: Graph, tensors: dict[str, Tensor]) -> bytes:
    names = {"receivers": graph.receivers, "senders": graph.senders}
    return _save(
        tensors, {key: json.dumps([str(node) for node in nodes]) for key, nodes in names.items()}
    )


def _save(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    return _in_order(save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata))


def _in_order(data: bytes) -> bytes:
    """A safetensors file with the names in its head sorted: the library writes them in another
    order each time.
    """
    size = int.from_bytes(data[:8], "little")
    head = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    return data[:8] + head.ljust(size) + data[8 + size :]
