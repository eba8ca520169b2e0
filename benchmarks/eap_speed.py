"""Seconds that attribution takes, against one forward and backward pass of the bare model, in one process.

    python -m benchmarks.eap_speed [--model smollm2-135m] [--task ioi] [--prompts 32] [--metric logit-diff]
                                   [--batch-size 8] [--methods eap,eap-ig] [--rounds 3]

Methods: eap, clean-corrupted, eap-ig, eap-ig-activations, relp, gim, atp, and atp with +grad-drop.

The pass is the plain Hugging Face model's over the same clean prompts, logits at the last position alone, back to the
embeddings with every weight frozen: less than what a user's own loss.backward() does. At its best batch size, and best
of several like ours, taken in turns with them, since the machine's speed drifts. Beside it stands the same pass with
the gradients of all weights.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.machine import machine
from circuitfind.methods.attribution.atp import AtP
from circuitfind.methods.attribution.eap import EAP, EAPIG, Attribution, CleanCorrupted, EAPIGActivations
from circuitfind.methods.attribution.gim import GIM
from circuitfind.methods.attribution.relp import RelP
from circuitfind.models.architectures.table import read_transformer
from circuitfind.models.loading.load import load_bridge, load_tokenizer
from circuitfind.models.loading.locate import locate
from circuitfind.patching.problem import Problem
from circuitfind.progress import Silent
from circuitfind.prompts.batch import Batch, tokenise
from circuitfind.prompts.files import load_task
from circuitfind.runs.memory import gigabytes, peak

METHODS: dict[str, Callable[..., Attribution]] = {
    **{method.name: method for method in (EAP, CleanCorrupted, EAPIG, EAPIGActivations, RelP, GIM, AtP)},
    "atp+grad-drop": partial(AtP, grad_drop=True),
}


def main() -> None:
    options = parse()
    tokenizer = load_tokenizer(options.model)
    batch = tokenise(load_task(options.task).make(tokenizer, options.prompts, 0), tokenizer)
    bridge = load_bridge(locate(options.model, Silent()), "cpu", torch.float32)
    model = read_transformer(bridge, batch.n_pos)
    methods = {name: METHODS[name](metric=options.metric) for name in options.methods.split(",")}
    works: dict[str, Callable[[], object]] = {
        **{
            n: lambda m=method: m.score(Problem(model, batch, options.batch_size))
            for n, method in methods.items()
        },
        **{
            f"frozen {size}": lambda s=size: one_pass(bridge.original_model, batch, s, True)
            for size in (8, 32)
        },
        **{
            f"weights {size}": lambda s=size: one_pass(bridge.original_model, batch, s, False)
            for size in (8, 32)
        },
    }
    seconds = best_of(works, options.rounds)
    frozen, weights = (
        min(t for name, t in seconds.items() if name.startswith(k)) for k in ("frozen", "weights")
    )
    print(machine())
    print(
        f"{options.task}, {options.model}, {batch.n_prompts} prompts of up to {batch.n_pos} tokens, {options.metric}"
    )
    print(f"one pass, weights frozen        {frozen:7.2f} s")
    print(f"one pass, weights' gradients    {weights:7.2f} s")
    for name in methods:
        took = seconds[name]
        print(
            f"{name:<20}{took:7.2f} s   ratio {took / frozen:5.2f} x   to weights' {took / weights:5.2f} x"
        )
    print(f"peak memory {gigabytes(peak())}, the two models' included")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--task", default="ioi")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--metric", default="logit-diff")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--methods", default="eap,eap-ig")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def best_of(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of each, best of several rounds in which they take turns."""
    seconds = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds


def one_pass(model: Any, batch: Batch, size: int, frozen: bool) -> None:
    """Forwards, and back from a logit difference, over all prompts."""
    for parameter in model.parameters():
        parameter.requires_grad_(not frozen)
        parameter.grad = None
    for first in range(0, batch.n_prompts, size):
        rows = batch.rows(range(first, min(first + size, batch.n_prompts)))
        embedded = model.get_input_embeddings()(rows.clean).detach().requires_grad_()
        logits = model(inputs_embeds=embedded, use_cache=False, logits_to_keep=1).logits[:, -1]
        right, wrong = (
            torch.tensor([a[0] for a in answers]) for answers in (rows.answers, rows.wrong_answers)
        )
        (logits.gather(1, wrong[:, None]) - logits.gather(1, right[:, None])).sum().backward()


if __name__ == "__main__":
    main()
