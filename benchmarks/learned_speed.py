"""Optimiser steps a second of a method that learns masks, on a GPT-2-small-shaped model, in one process with the bare
model's forward and backward pass.

    python -m benchmarks.learned_speed [--method edge-pruning] [--prompts 32] [--tokens 15] [--steps 60]
                                       [--prompts-per-step 8,32]

A whole run is timed, from the first step to the last, since a step costs what its sampled circuit is worth: most while
every node is alive. So the fastest and slowest tenth of the steps stand beside the mean. The pass is the plain Hugging
Face model's over as many clean prompts as a step takes, logits at the last position alone, back to the embeddings with
every weight frozen.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.eap_speed import best_of, one_pass
from benchmarks.gpt2_shape import random_gpt2, random_prompts
from benchmarks.machine import machine
from circuitfind.methods.masks.learned import Learned
from circuitfind.methods.masks.probing import SubnetworkProbing
from circuitfind.methods.masks.pruning import EdgePruning
from circuitfind.methods.method import Job
from circuitfind.models.architectures.table import read_transformer
from circuitfind.patching.problem import Problem
from circuitfind.progress import Silent
from circuitfind.runs.memory import gigabytes, peak

METHODS: dict[str, type[Learned]] = {method.name: method for method in (EdgePruning, SubnetworkProbing)}
ROUNDS = 3


class Clock(Silent):
    """When each step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.note = ""

    def update(self, done: float, total: float, note: str = "") -> None:
        self.times.append(time.perf_counter())
        self.note = note


def main() -> None:
    options = parse()
    bridge = random_gpt2()
    batch = random_prompts(options.prompts, options.tokens)
    model = read_transformer(bridge, options.tokens)
    sizes = [int(size) for size in options.prompts_per_step.split(",")]
    passes: dict[str, Callable[[], object]] = {
        str(size): partial(one_pass, bridge.original_model, batch.rows(range(size)), size, True)
        for size in sizes
    }
    seconds = best_of(passes, ROUNDS)
    print(machine())
    print(f"{options.method}, GPT-2-small shape, {options.prompts} prompts of {options.tokens} tokens")
    for size in sizes:
        method = METHODS[options.method](steps=options.steps, prompts_per_step=size)
        clock, before = Clock(), time.process_time()
        method.score(Problem(model, batch, 8), Job(clock))
        report(size, clock, seconds[str(size)])
        print(
            f"     processor time a step {(time.process_time() - before) / options.steps:.2f} s, preparing included"
        )
    print(f"peak memory {gigabytes(peak())}, the two models' included")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--method", default="edge-pruning", choices=list(METHODS))
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=15)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--prompts-per-step", default="8,32")
    return parser.parse_args()


def report(size: int, clock: Clock, one: float) -> None:
    """A line for one number of prompts a step."""
    took = torch.tensor(clock.times, dtype=torch.float64).diff()
    ordered, tenth = took.sort().values, max(1, len(took) // 10)
    fast, slow = (float(x.mean()) for x in (ordered[:tenth], ordered[-tenth:]))
    mean = float(took.mean())
    print(
        f"{size:>3} prompts a step: {1 / mean:5.2f} steps/s (slowest tenth {1 / slow:.2f}, fastest {1 / fast:.2f}); "
        f"one pass {one:.2f} s, ratio {mean / one:.2f} x; at the end {clock.note}"
    )


if __name__ == "__main__":
    main()
