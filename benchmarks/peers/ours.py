"""Our side of a comparison: every prompt's score of every edge.

    python -m benchmarks.peers.ours FOLDER

reads ``job.json`` and the model there, and writes ``ours.npz`` (prompt by edge, a key a case) and ``ours.json``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.peers.job import MODEL, Case, Job, Side, measured
from circuitfind.circuits.masks import readable
from circuitfind.methods.attribution.eap import EAP, EAPIG, Attribution, CleanCorrupted, EAPIGActivations
from circuitfind.metrics.measures import find_metric
from circuitfind.metrics.objective import make_objective
from circuitfind.models.architectures.table import read_transformer
from circuitfind.models.forward import at_end, trace
from circuitfind.models.loading.load import load_bridge
from circuitfind.models.transformer import Transformer
from circuitfind.patching.problem import Problem
from circuitfind.prompts.batch import Batch

BLOCK = 4
"""Prompts a thread; it changes no score."""


def main() -> None:
    folder = Path(sys.argv[1])
    job = Job.read(folder)
    batch = to_batch(job)
    model = read_transformer(load_bridge(folder / MODEL, "cpu", torch.float32), batch.n_pos)
    edges = readable(model.architecture.graph)
    scores, costs = {}, {}
    for case in job.cases:
        method = make_method(case, job.steps)
        found, costs[str(case)] = measured(partial(method.score, Problem(model, batch, BLOCK)))
        scores[str(case)] = found[:, edges].double().numpy()
    names = [str(edge) for edge in model.architecture.graph.edges()]
    losses = (loss(model, batch, batch.clean), loss(model, batch, batch.corrupted))
    Side(names, scores, costs, losses, f"torch {torch.__version__}").write(folder, "ours")


def to_batch(job: Job) -> Batch:
    """The job's prompts, each filled up behind its last token."""
    ends = [len(tokens) - 1 for tokens in job.clean]
    answers, wrong = (tuple((pair[i],) for pair in job.answers) for i in (0, 1))
    return Batch(pad(job.clean), pad(job.corrupted), torch.tensor(ends), answers, wrong)


def pad(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows of ids as one tensor."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[row[-1]] * (width - len(row))] for row in rows])


def make_method(case: Case, steps: int) -> Attribution:
    """The method with its options."""
    methods: dict[str, Callable[..., Attribution]] = {
        "eap": EAP,
        "clean-corrupted": CleanCorrupted,
        "eap-ig": partial(EAPIG, steps=steps),
        "eap-ig-activations": partial(EAPIGActivations, steps=steps),
    }
    return methods[case.method](metric=find_metric(case.metric))


def loss(model: Transformer, batch: Batch, tokens: Tensor) -> float:
    """- logit difference of the unpatched model on these tokens, mean over prompts."""
    final = at_end(trace(model, tokens).final, batch.end)
    return float(make_objective("logit-diff", model, batch, final)(final.unsqueeze(0)).mean())


if __name__ == "__main__":
    with torch.no_grad():
        main()
