"""Seconds of `exact` for a sample of receivers against a full forward pass a test, in one process, on the same prompts.

    python -m benchmarks.exact_speed [--model smollm2-135m] [--task ioi] [--prompts 4] [--metric kl] [--layers 6]
                                     [--senders 16] [--samples 6]

The forward pass is the plain Hugging Face model's on the clean prompts, logits at the last position alone, at its best
batch size: less than what a test costs any program that runs the model again for each edge. Receivers are sampled in
layers spread over the model: the q, k and v inputs of one head, and the MLP; and the logits. What a test costs in the
layers between is interpolated, and weighed with the number of edges there: the mean over all edges of the model.
Some of the scores are taken again with the whole patched model, and must agree.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import torch

from benchmarks.acdc_speed import best_forward
from benchmarks.machine import machine
from circuitfind.circuits.graph import SLOTS, Graph, Node, Receiver
from circuitfind.circuits.masks import readable
from circuitfind.methods.exact import edge_tests
from circuitfind.metrics.measures import MetricName, find_metric
from circuitfind.metrics.objective import make_objective
from circuitfind.models.architectures.table import read_transformer
from circuitfind.models.loading.load import load_bridge, load_tokenizer
from circuitfind.models.loading.locate import locate
from circuitfind.models.transformer import Transformer
from circuitfind.models.workers import Threads
from circuitfind.patching.blocks import default_batch_size
from circuitfind.patching.problem import Problem
from circuitfind.patching.reference import prepare, run_patched
from circuitfind.progress import Silent
from circuitfind.prompts.batch import Batch, tokenise
from circuitfind.prompts.files import load_task
from circuitfind.runs.memory import gigabytes, peak

CLOSE = 2e-4
"""How far two float32 computations of a score may lie apart."""


def main() -> None:
    options = parse()
    tokenizer = load_tokenizer(options.model)
    batch = tokenise(load_task(options.task).make(tokenizer, options.prompts, 0), tokenizer)
    bridge = load_bridge(locate(options.model, Silent()), "cpu", torch.float32)
    model = read_transformer(bridge, batch.n_pos)
    graph, metric = model.architecture.graph, find_metric(options.metric)
    forward = best_forward(bridge.original_model, batch)
    receivers = sample(graph, options.layers)
    size = default_batch_size(batch.n_prompts, "cpu")
    seconds, scores = {}, {}
    with Threads(model.device) as threads:
        tests = edge_tests(Problem(model, batch, size, metric), threads)
        for receiver in receivers:
            senders = spread(graph.n_readable(receiver), options.senders)
            start = time.perf_counter()
            rises = tests.rises([receiver], senders).mean(0).tolist()
            seconds[receiver] = (time.perf_counter() - start) / len(senders)
            scores |= {(receiver, sender): rise for sender, rise in zip(senders, rises, strict=True)}
            print(
                f"  {receiver!s:<12}{len(senders):5} tests {seconds[receiver] * 1e3:9.2f} ms each",
                flush=True,
            )
    forward = min(forward, best_forward(bridge.original_model, batch))
    mean = mean_over_edges(graph, seconds)
    print(machine())
    print(
        f"{options.task}, {options.model}, {batch.n_prompts} prompts of up to {batch.n_pos} tokens, {metric}"
    )
    print(f"one forward pass      {forward * 1e3:9.1f} ms")
    print(f"one exact test        {mean * 1e3:9.2f} ms, mean over all {graph.n_edges:,} edges")
    print(f"  ratio               {forward / mean:9.1f} x")
    print(f"  all edges           {mean * graph.n_edges / 60:9.1f} min")
    print(f"peak memory {gigabytes(peak())}, the two models' included")
    chosen = {
        place: scores[place] for place in (list(scores)[i] for i in spread(len(scores), options.samples))
    }
    print(
        f"{len(chosen)} scores again with the whole model: within {check(model, batch, metric, chosen):.1e}"
    )


def sample(graph: Graph, n_layers: int) -> list[Receiver]:
    """The inputs of one head and the MLP in layers spread over the model, and the logits."""
    receivers = [Receiver(Node("logits"))]
    for layer in spread(graph.n_layers, n_layers):
        head = Node("head", layer, layer % graph.n_heads)
        receivers += [*(Receiver(head, slot) for slot in SLOTS), Receiver(Node("mlp", layer))]
    return receivers


def spread(n: int, n_wanted: int) -> list[int]:
    """At most so many of the first n numbers, the first and the last among them."""
    return sorted({round(x) for x in np.linspace(0, n - 1, min(n, n_wanted))})


def mean_over_edges(graph: Graph, seconds: dict[Receiver, float]) -> float:
    """The mean cost of a test: each kind of receiver interpolated between the sampled layers."""
    total = 0.0
    for receiver in graph.receivers:
        alike = sorted(
            (known.node.layer, cost) for known, cost in seconds.items()
            if (known.node.kind, known.slot) == (receiver.node.kind, receiver.slot)
        )  # fmt: skip
        layers, costs = zip(*alike, strict=True)
        total += graph.n_readable(receiver) * float(np.interp(receiver.node.layer, layers, costs))
    return total / graph.n_edges


def check(
    model: Transformer, batch: Batch, metric: MetricName, scores: dict[tuple[Receiver, int], float]
) -> float:
    """Takes scores again with the whole model; the largest difference. Exits with 1 where one is too large."""
    graph, baseline = model.architecture.graph, prepare(model, batch, "corrupted")
    objective, edges = make_objective(metric, model, batch, baseline.final), readable(graph)
    full, worst = float(objective(baseline.final.unsqueeze(0)).mean()), 0.0
    for (receiver, sender), score in scores.items():
        kept = edges.clone()
        kept[graph.receiver_index[receiver], sender] = False
        again = float(objective(run_patched(baseline, kept).unsqueeze(0)).mean()) - full
        worst = max(worst, abs(again - score))
        if worst > CLOSE:
            sys.exit(
                f"{graph.senders[sender]}->{receiver}: {again:.6g} with the whole model, {score:.6g} alone"
            )
    return worst


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--task", default="ioi")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--metric", default="kl")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--senders", type=int, default=16)
    parser.add_argument("--samples", type=int, default=6)
    return parser.parse_args()


if __name__ == "__main__":
    with torch.no_grad():
        main()
