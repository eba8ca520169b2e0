"""All that a method's outcome depends on: by it a saved state is known to be one of the same run."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from circuitfind.methods.make import Method
from circuitfind.methods.method import Scorer
from circuitfind.options import SettledOptions
from circuitfind.runs.result import Ready, method_block, task_block
from circuitfind.runs.resume import OF_CIRCUIT, identity
from circuitfind.version import __version__

COMPUTING = ("torch", "transformers", "transformer_lens")
"""Packages whose version may change an outcome."""


def state_identity(ready: Ready, options: SettledOptions, method: Method) -> dict[str, Any]:
    """All that a method's outcome depends on: a state is taken up only where it is the same.

    This is the one list of it. From the blocks of a circuit file come the task and its prompts,
    their tokens (the tokenizer's files, BOS), the model's config and weights, the method with every
    option, the prompts of a mean ablation or the constants of an optimal one, the level, the dtype.
    Behind these the kind of device, and what computes: the versions of circuitfind, of torch, and
    of those that read a model. Scores are the same whatever circuit is made of them; on a CPU no
    outcome depends on the batch size, and on none on threads and memory. Another kind of processor
    may change last bits.
    """
    blocks = identity(ready.model.to_dict(), task_block(ready), method_block(ready, method, options))
    device = options.device.partition(":")[0]
    if isinstance(method, Scorer):
        blocks = {key: value for key, value in blocks.items() if key not in OF_CIRCUIT}
    if device != "cpu":
        blocks["batch_size"] = ready.work.batch_size
    return (
        blocks
        | {"device": device, "circuitfind": __version__}
        | {name: version(name) for name in COMPUTING}
    )
