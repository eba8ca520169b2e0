"""Tests per second of ACDC against a full forward pass a test, in one process, on the same prompts.

    python -m benchmarks.acdc_speed [--model smollm2-135m] [--prompts 16] [--threshold 0.02] [--samples 10]
                                    [--schedules sequential screened]
    python -m benchmarks.acdc_speed --model gpt2-shape --prompts 50 --threshold ...

The forward pass is the plain Hugging Face model's on the clean prompts, logits at the last position alone, at its best
batch size: less than what any published ACDC pays for a test. The outcome is checked against literal tests: for
``--samples`` decisions spread over the run, the whole model is run twice with the edges that were kept at that moment,
with and without the edge in question, and both score and decision must be those that ACDC recorded (of the screened
schedule only the decision: its scores are estimates). Where there are two schedules, their circuits are compared.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.floor import Work, flop_rate
from benchmarks.gpt2_shape import random_gpt2, random_prompts
from benchmarks.machine import machine
from circuitfind.circuits.graph import Edge, Graph
from circuitfind.circuits.masks import readable
from circuitfind.methods.outcome import Found
from circuitfind.methods.search.acdc import ACDC, visiting_order
from circuitfind.metrics.objective import make_objective
from circuitfind.models.architectures.table import read_transformer
from circuitfind.models.loading.load import load_bridge, load_tokenizer
from circuitfind.models.loading.locate import locate
from circuitfind.models.transformer import Transformer
from circuitfind.patching.problem import Problem
from circuitfind.patching.reference import prepare, run_patched
from circuitfind.progress import Silent
from circuitfind.prompts.batch import Batch, tokenise
from circuitfind.prompts.files import load_task
from circuitfind.runs.memory import gigabytes, peak

BATCH_SIZE = 8
GPT2_SHAPE = "gpt2-shape"


def main() -> None:
    options = parse()
    bridge, batch = make_ready(options)
    model = read_transformer(bridge, batch.n_pos)
    forward = best_forward(bridge.original_model, batch)
    print(machine())
    prompts = f"{batch.n_prompts} prompts of up to {batch.n_pos} tokens"
    print(f"{options.task}, {options.model}, {prompts}, {options.metric}, threshold {options.threshold}")
    print(f"one forward pass      {forward * 1e3:9.1f} ms")
    circuits = []
    for schedule in options.schedules:
        method = ACDC(options.threshold, metric=options.metric, schedule=schedule)
        start = time.perf_counter()
        found = method.find(Problem(model, batch, BATCH_SIZE))
        seconds = time.perf_counter() - start
        tell(
            model, batch, method, found, seconds, min(forward, best_forward(bridge.original_model, batch))
        )
        worst = check_decisions(model, batch, method, found, options.samples)
        print(
            f"  {options.samples} decisions taken again with the whole model: all the same, scores within {worst:.1e}"
        )
        circuits.append(found.kept)
    for schedule, kept in zip(options.schedules[1:], circuits[1:], strict=True):
        differ = int((kept != circuits[0]).sum())
        print(f"{schedule}: {differ:,} edges other than {options.schedules[0]}'s")


def tell(
    model: Transformer, batch: Batch, method: ACDC, found: Found, seconds: float, forward: float
) -> None:
    """What a search took, beside a forward pass a test and the arithmetic of all tests."""
    per_test = seconds / found.n_tests
    print(f"{method.schedule}:")
    tests = f"{found.n_tests:,} tests, {found.n_evaluated:,} computed, {seconds:.1f} s"
    print(f"  one ACDC test       {per_test * 1e3:9.2f} ms  ({tests})")
    print(f"  edges kept          {int(found.kept.sum()):9,} of {model.architecture.graph.n_edges:,}")
    print(f"  ratio               {forward / per_test:9.1f} x")
    print(f"  peak memory so far  {gigabytes(peak()):>9}")
    print_floor(model, batch, found, seconds)


def make_ready(options: argparse.Namespace) -> tuple[Any, Batch]:
    """The model and its prompts."""
    if options.model == GPT2_SHAPE:
        return random_gpt2(), random_prompts(options.prompts, 15)
    tokenizer = load_tokenizer(options.model)
    batch = tokenise(load_task(options.task).make(tokenizer, options.prompts, 0), tokenizer)
    return load_bridge(locate(options.model, Silent()), "cpu", torch.float32), batch


def print_floor(model: Transformer, batch: Batch, found: Found, seconds: float) -> None:
    """The arithmetic of all tests, part by part, and how long this machine would take for it alone."""
    work = Work(model, batch, found).total()
    rate = flop_rate(*model.layers[0].W_in.shape, torch.get_num_threads())
    for part, n_flop in sorted(work.items(), key=lambda item: -item[1]):
        print(f"    {part:<23} {n_flop / 1e12:7.2f} TFLOP {n_flop / rate:8.1f} s")
    floor = sum(work.values()) / rate
    print(
        f"  arithmetic alone    {floor:9.1f} s at {rate / 1e9:.0f} GFLOP/s: {floor / seconds:.0%} of the search's time"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--task", default="ioi")
    parser.add_argument("--model", default="smollm2-135m", help=f"a model's name, or {GPT2_SHAPE}")
    parser.add_argument("--metric", default="kl")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--threshold", type=float, default=0.02)
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument(
        "--schedules", nargs="+", choices=("sequential", "screened"), default=["sequential"]
    )
    return parser.parse_args()


def best_forward(model: Callable[..., object], batch: Batch) -> float:
    """Seconds of the Hugging Face model's forward pass over all prompts, at its best batch size and best of three."""

    @torch.inference_mode()
    def once(size: int) -> float:
        start = time.perf_counter()
        for rows in batch.clean.split(size):
            model(rows, use_cache=False, logits_to_keep=1)
        return time.perf_counter() - start

    return min(once(size) for size in (batch.n_prompts, 8, 4) for _ in range(3))


def check_decisions(
    model: Transformer, batch: Batch, method: ACDC, found: Found, n_samples: int
) -> float:
    """Takes tested decisions again, literally; the largest difference of a score. Exits with 1 where one differs."""
    graph = model.architecture.graph
    tested = [(place, mask) for place, mask in decisions(graph, found) if found.scores[place] != 0]
    chosen = tested[:: max(1, len(tested) // n_samples)][:n_samples]
    baseline = prepare(model, batch, method.ablation)
    objective = make_objective(method.metric, model, batch, baseline.final)
    worst = 0.0
    for place, mask in chosen:
        kept = mask(place)
        before = float(objective(run_patched(baseline, kept).unsqueeze(0)).mean())
        kept[place] = False
        score = float(objective(run_patched(baseline, kept).unsqueeze(0)).mean()) - before
        worst = max(worst, abs(score - float(found.scores[place])))
        if (score < method.threshold) is bool(found.kept[place]):
            edge = Edge(graph.senders[place[1]], graph.receivers[place[0]])
            sys.exit(
                f"{edge}: score {score:.6g} literally, {float(found.scores[place]):.6g} in the search"
            )
    return worst


def decisions(
    graph: Graph, found: Found
) -> Iterator[tuple[tuple[int, int], Callable[[tuple[int, int]], Tensor]]]:
    """Every edge in the order of its decision, with what builds the mask of edges that were kept just before it."""
    order = [
        (graph.receiver_index[receiver], sender)
        for receiver in visiting_order(graph)
        for sender in reversed(range(graph.n_readable(receiver)))
    ]
    number = {place: i for i, place in enumerate(order)}

    def mask(place: tuple[int, int]) -> Tensor:
        kept = readable(graph).clone()
        for earlier in order[: number[place]]:
            kept[earlier] = found.kept[earlier]
        return kept

    for place in order:
        yield place, mask


if __name__ == "__main__":
    with torch.no_grad():
        main()
