"""Masks over a graph's edges, [receiver, sender], and over neurons."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from circuitfind.circuits.bases import Neurons
from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Graph
from circuitfind.errors import CircuitError


def readable(graph: Graph, device: torch.device | None = None) -> Bool[Tensor, "receiver sender"]:
    """Where the graph has an edge."""
    counts = torch.tensor(graph.n_readable_each, device=device)
    return torch.arange(len(graph.senders), device=device) < counts.unsqueeze(1)


def kept_of(circuit: Circuit) -> Bool[Tensor, "receiver sender"]:
    """The circuit's edges as a mask."""
    kept = torch.zeros(len(circuit.graph.receivers), len(circuit.graph.senders), dtype=torch.bool)
    for place, _ in circuit.places():
        kept[place] = True
    return kept


def kept_neurons(circuit: Circuit, neurons: Neurons) -> Bool[Tensor, " neuron"]:
    """The circuit's neurons as a mask."""
    if circuit.all_neurons != neurons:
        raise CircuitError(
            "The circuit's neurons are not the model's: its heads or MLPs have others. Name its model."
        )
    kept = torch.zeros(len(neurons), dtype=torch.bool)
    kept[[neurons.place(neuron) for neuron in circuit.neurons or ()]] = True
    return kept
