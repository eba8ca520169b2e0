"""Seconds that judging a circuit takes, against one forward pass of the bare model, in one process.

    python -m benchmarks.evaluation_speed [--model smollm2-135m] [--shapes 8x16,64x16,4x128,4x512]
                                          [--edges 100,2000,20000] [--ablation corrupted] [--rounds 3]

A shape is prompts x tokens, of random tokens: what a run costs does not depend on what they say. The circuits are
those of the largest scores of ``eap``, as a user's are. Judging is ``evaluate``: the full, the circuit's and the fully
ablated run with all measures. The pass is the plain Hugging Face model's over the same clean prompts, logits at the
last position alone, at its best batch size; the two take turns, since the machine's speed drifts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.machine import machine
from circuitfind.evaluation.performance import evaluate
from circuitfind.methods.attribution.eap import EAP
from circuitfind.models.architectures.table import read_transformer
from circuitfind.models.loading.load import load_bridge
from circuitfind.models.loading.locate import locate
from circuitfind.models.transformer import Transformer
from circuitfind.patching.ablation import find_ablation
from circuitfind.patching.blocks import default_batch_size
from circuitfind.patching.problem import Problem
from circuitfind.progress import Silent
from circuitfind.prompts.batch import Batch
from circuitfind.runs.memory import gigabytes, peak


def main() -> None:
    options = parse()
    shapes = [tuple(map(int, shape.split("x"))) for shape in options.shapes.split(",")]
    sizes = [int(size) for size in options.edges.split(",")]
    bridge = load_bridge(locate(options.model, Silent()), "cpu", torch.float32)
    model = read_transformer(bridge, max(n_pos for _, n_pos in shapes))
    print(machine())
    print(f"{options.model}, {options.ablation} ablation; ratio: one evaluation to one bare forward pass")
    for n_prompts, n_pos in shapes:
        batch = random_prompts(model, n_prompts, n_pos)
        scores = score(model, batch)
        for n_edges in sizes:
            kept = strongest(scores, n_edges)
            passed, judged = take_turns(bridge.original_model, model, batch, kept, options)
            print(
                f"{n_prompts:>3} prompts of {n_pos:>3} tokens, {n_edges:>6,} edges: pass {passed.wall:6.2f} s, "
                f"evaluation {judged.wall:6.2f} s, ratio {judged.wall / passed.wall:5.2f}, "
                f"of processor time {judged.processor / passed.processor:5.2f}",
                flush=True,
            )
    print(f"peak memory {gigabytes(peak())}, the two models' included")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--shapes", default="8x16,64x16,4x128,4x512")
    parser.add_argument("--edges", default="100,2000,20000")
    parser.add_argument("--ablation", default="corrupted", type=find_ablation)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def random_prompts(model: Transformer, n_prompts: int, n_pos: int) -> Batch:
    """Clean and corrupted prompts that differ from the third token on in one of four."""
    draw = torch.Generator().manual_seed(0)
    clean = torch.randint(len(model.W_E), (n_prompts, n_pos), generator=draw)
    other = torch.randint(len(model.W_E), (n_prompts, n_pos), generator=draw)
    differs = torch.arange(n_pos) % 4 == 2
    answers = tuple((i + 1,) for i in range(n_prompts))
    wrong = tuple((i + 1000,) for i in range(n_prompts))
    end = torch.full((n_prompts,), n_pos - 1)
    return Batch(clean, torch.where(differs, other, clean), end, answers, wrong)


def score(model: Transformer, batch: Batch) -> torch.Tensor:
    """The scores of ``eap`` from a few of the prompts and tokens: [receiver, sender], NaN where there is no edge."""
    n_pos = min(batch.n_pos, 32)
    few = Batch(
        batch.clean[:4, :n_pos], batch.corrupted[:4, :n_pos], batch.end[:4].clamp(max=n_pos - 1),
        batch.answers[:4], batch.wrong_answers[:4],
    )  # fmt: skip
    return EAP(metric="logit-diff").score(Problem(model, few, 4)).mean(0)


def strongest(scores: torch.Tensor, n_edges: int) -> torch.Tensor:
    """The mask of as many edges as have the largest absolute scores."""
    order = scores.abs().nan_to_num(-1.0).flatten().argsort(descending=True, stable=True)
    kept = torch.zeros(scores.numel(), dtype=torch.bool)
    kept[order[:n_edges]] = True
    return kept.reshape(scores.shape)


def take_turns(
    bare: Any, model: Transformer, batch: Batch, kept: torch.Tensor, options: argparse.Namespace
) -> tuple[Seconds, Seconds]:
    """Seconds of one bare pass, at its best batch size, and of one evaluation; best of several rounds."""
    passes, judged = [], []
    size = default_batch_size(batch.n_prompts, "cpu")
    for _ in range(options.rounds):
        passes += [seconds(lambda s=s: forward(bare, batch, s)) for s in (4, 8, 32)]
        judged.append(seconds(lambda: evaluate(model, batch, kept, options.ablation, size)))
    return best(passes), best(judged)


@dataclass(frozen=True)
class Seconds:
    """By the clock, and of all processors together, which work beside this does not lengthen as much."""

    wall: float
    processor: float


def seconds(work: Callable[[], object]) -> Seconds:
    """How long it takes."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.perf_counter() - wall, time.process_time() - processor)


def best(rounds: Sequence[Seconds]) -> Seconds:
    """The least of each."""
    return Seconds(min(each.wall for each in rounds), min(each.processor for each in rounds))


@torch.no_grad()
def forward(bare: Any, batch: Batch, size: int) -> None:
    for first in range(0, batch.n_prompts, size):
        bare(batch.clean[first : first + size], use_cache=False, logits_to_keep=1)


if __name__ == "__main__":
    main()
