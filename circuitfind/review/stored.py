"""A stored circuit, of edges or of neurons, in a model that is ready: how well it does."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from circuitfind.circuits.bases import Neurons
from circuitfind.circuits.circuit import Circuit
from circuitfind.errors import CircuitError
from circuitfind.evaluation.neurons import evaluate_neurons
from circuitfind.evaluation.performance import Evaluation, evaluate
from circuitfind.patching.reference import find_ablation
from circuitfind.patching.units import neurons_of
from circuitfind.runs.result import Ready, kept_of


def evaluate_kept(circuit: Circuit, ready: Ready) -> Evaluation:
    """The circuit on the prompts that are ready, under their ablation.

    Raises CircuitError where the model's heads or MLPs have other numbers of neurons than the circuit's.
    """
    model, ablation, size = ready.model.transformer, find_ablation(ready.options.ablation), ready.work.batch_size
    if circuit.neurons is None:
        return evaluate(model, ready.batch, kept_of(circuit), ablation, size)
    return evaluate_neurons(model, ready.batch, kept_neurons(circuit, neurons_of(model)), ablation, size)


def kept_neurons(circuit: Circuit, neurons: Neurons) -> Bool[Tensor, " neuron"]:
    """The circuit's neurons as a mask."""
    if circuit.all_neurons != neurons:
        raise CircuitError("The circuit's neurons are not the model's: its heads or MLPs have others. Name its model.")
    kept = torch.zeros(len(neurons), dtype=torch.bool)
    kept[[neurons.place(neuron) for neuron in circuit.neurons or ()]] = True
    return kept
