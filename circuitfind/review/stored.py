"""A stored circuit, of edges or of neurons, in a model that is ready: how well it does."""

from __future__ import annotations

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.masks import kept_neurons, kept_of
from circuitfind.evaluation.neurons import evaluate_neurons
from circuitfind.evaluation.performance import Evaluation, evaluate
from circuitfind.patching.ablation import find_ablation
from circuitfind.patching.units import neurons_of
from circuitfind.runs.result import Ready


def evaluate_kept(circuit: Circuit, ready: Ready) -> Evaluation:
    """The circuit on the prompts that are ready, under their ablation.

    Raises CircuitError where the model's heads or MLPs have other numbers of neurons than the
    circuit's.
    """
    model, ablation, size = (
        ready.model.transformer,
        find_ablation(ready.options.ablation),
        ready.work.batch_size,
    )
    if circuit.neurons is None:
        return evaluate(model, ready.batch, kept_of(circuit), ablation, size)
    return evaluate_neurons(model, ready.batch, kept_neurons(circuit, neurons_of(model)), ablation, size)
