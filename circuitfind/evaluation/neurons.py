"""How well a circuit of neurons does the task, beside the full model and the one with every neuron
ablated.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from circuitfind.evaluation.performance import Evaluation, Final, evaluate_runs
from circuitfind.models.transformer import Transformer
from circuitfind.patching.ablation import AblationName
from circuitfind.patching.units import Mask, NeuronRunner
from circuitfind.progress import SILENT, Progress
from circuitfind.prompts.batch import Batch


def evaluate_neurons(
    model: Transformer,
    batch: Batch,
    kept: Mask,
    ablation: AblationName,
    batch_size: int,
    known: Evaluation | None = None,
    progress: Progress = SILENT,
) -> Evaluation:
    """The full model, the circuit of the ``kept`` neurons, and the model with every neuron ablated
    (its input is not).

    ``known``: that of another circuit, all else the same, from which all but the circuit's is taken
    over.
    """

    def open_block(block: Batch) -> tuple[Final, Callable[[Tensor], Final]]:
        runner = NeuronRunner(model, block, ablation)
        return runner.final, runner.run

    return evaluate_runs(model, batch, kept.to(model.device), open_block, batch_size, known, progress)
