"""The grouped schedule of ACDC: its time and its circuit, beside one that sequential ACDC found on the same prompts.

    python -m benchmarks.grouped [--task ioi] [--model smollm2-135m] [--prompts 16] [--threshold 0.02]
                                 [--against circuit.json]

``--against`` is the circuit of a sequential run of the same model, task, seed and number of prompts; both circuits are
evaluated here, in one process. Where grouped keeps more edges, the third line cuts it to equal size: of its edges those
with the highest scores. Where it keeps fewer, it is compared as it is.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from benchmarks.machine import machine
from circuitfind.circuits.graph import Edge
from circuitfind.circuits.masks import readable
from circuitfind.evaluation.performance import evaluate
from circuitfind.methods.outcome import Found
from circuitfind.methods.search.acdc import ACDC
from circuitfind.models.architectures.table import read_transformer
from circuitfind.models.loading.load import load_bridge, load_tokenizer
from circuitfind.models.loading.locate import locate
from circuitfind.models.transformer import Transformer
from circuitfind.patching.problem import Problem
from circuitfind.progress import Silent
from circuitfind.prompts.batch import Batch, tokenise
from circuitfind.prompts.files import load_task

BATCH_SIZE = 8


def main() -> None:
    options = parse()
    tokenizer = load_tokenizer(options.model)
    batch = tokenise(load_task(options.task).make(tokenizer, options.prompts, 0), tokenizer)
    model = read_transformer(
        load_bridge(locate(options.model, Silent()), "cpu", torch.float32), batch.n_pos
    )
    method = ACDC(options.threshold, metric=options.metric, schedule="grouped")
    start = time.perf_counter()
    found = method.find(Problem(model, batch, BATCH_SIZE))
    seconds = time.perf_counter() - start
    print(machine())
    prompts = f"{batch.n_prompts} prompts of up to {batch.n_pos} tokens"
    print(f"{options.task}, {options.model}, {prompts}, {options.metric}, threshold {options.threshold}")
    print(f"grouped: {seconds:.1f} s, {found.n_evaluated:,} tests, of which {found.n_tests:,} decided")
    print(f"{'circuit':<28}{'edges':>7}{'KL, nats':>11}{'faithfulness':>14}{'of KL':>8}")
    tell("grouped", model, batch, found.kept)
    if options.against:
        other = read_mask(model, options.against)
        tell("sequential", model, batch, other)
        if int(found.kept.sum()) > int(other.sum()):
            tell("grouped, of equal size", model, batch, strongest(found, int(other.sum())))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--task", default="ioi")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--metric", default="kl")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--threshold", type=float, default=0.02)
    parser.add_argument("--against", type=Path)
    return parser.parse_args()


def tell(name: str, model: Transformer, batch: Batch, kept: Bool[Tensor, "receiver sender"]) -> None:
    """A line of the table: the circuit's size and how well it does."""
    evaluation = evaluate(model, batch, kept, "corrupted", BATCH_SIZE)
    shares = [evaluation.faithfulness(metric) for metric in ("logit-diff", "kl")]
    faithfulness, of_kl = ("-" if share is None else f"{share:.1%}" for share in shares)
    cost = evaluation.circuit.mean("kl")
    print(f"{name:<28}{int(kept.sum()):>7,}{cost:>11.3f}{faithfulness:>14}{of_kl:>8}")


def read_mask(model: Transformer, path: Path) -> Bool[Tensor, "receiver sender"]:
    """The kept edges of a circuit file."""
    graph = model.architecture.graph
    kept = torch.zeros_like(readable(graph))
    for name in json.loads(path.read_text(encoding="utf-8"))["edges"]:
        kept[graph.order(Edge.parse(name))] = True
    return kept


def strongest(found: Found, n_edges: int) -> Bool[Tensor, "receiver sender"]:
    """The kept edges with the highest scores; of equal ones the first in graph order."""
    scores = torch.where(found.kept, found.scores, -torch.inf).flatten()
    kept = torch.zeros_like(found.kept)
    kept.view(-1)[scores.argsort(descending=True, stable=True)[:n_edges]] = True
    return kept


if __name__ == "__main__":
    main()
