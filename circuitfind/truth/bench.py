"""How well a method finds a circuit that is known: edge AUROC, as InterpBench has it (arXiv:2407.14494).

The probability that a true edge has a larger score, by size, than an edge that is none; equal
scores count half. For ACDC, which decides, an edge's score is the number of thresholds at which it
stays, of a geometric sweep (as the curves of arXiv:2304.14997 are made): from half of what ablating
everything costs down to a 2^-16th of it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from scipy.stats import rankdata
from torch import Tensor

from circuitfind.circuits.masks import readable
from circuitfind.evaluation.performance import evaluate
from circuitfind.methods.catalogue import CATALOGUE, MethodInfo
from circuitfind.methods.make import make_method
from circuitfind.methods.options import settle_method
from circuitfind.methods.search.acdc import ACDC
from circuitfind.metrics.measures import find_metric
from circuitfind.models.loading.load import load_tokenizer
from circuitfind.models.loading.model import Model, load_model
from circuitfind.options import RunOptions, SettledOptions
from circuitfind.patching.blocks import default_batch_size
from circuitfind.patching.problem import Problem
from circuitfind.progress import Progress
from circuitfind.prompts.batch import Batch, tokenise
from circuitfind.prompts.files import load_task
from circuitfind.truth.known import Known

N_THRESHOLDS = 16
"""Each half of the one before."""
LEARNED_STEPS = 200
SHARE = 0.1
"""Of all edges: what methods that are led to a size are led to."""
MEMBERS = ("eap-ig", "relp")
"""What the ensemble is of."""


@dataclass(frozen=True)
class Question:
    """A model that was loaded, its prompts, and where its true edges are."""

    known: Known
    model: Model
    batch: Batch
    metric: str
    truth: Bool[Tensor, "receiver sender"]

    @property
    def problem(self) -> Problem:
        """The model and its prompts, as a method takes them."""
        size = default_batch_size(self.batch.n_prompts, "cpu")
        return Problem(self.model.transformer, self.batch, size)


@dataclass(frozen=True)
class Measured:
    """What one method achieved on one model. ``seconds`` are those of scoring, or of the whole sweep."""

    method: str
    model: str
    metric: str
    auroc: float
    seconds: float


def load_question(known: Known) -> Question:
    """The model by the ordinary path, checked against TransformerLens on its own prompts."""
    folder = str(known.folder)
    task, tokenizer = load_task(str(known.prompts)), load_tokenizer(folder)
    n_prompts = len(known.prompts.read_text(encoding="utf-8").splitlines())
    batch = tokenise(task.make(tokenizer, n_prompts, 0), tokenizer)
    model = load_model(known.name, known.folder, batch, "cpu", torch.float32)
    graph = model.transformer.architecture.graph
    truth = torch.zeros_like(readable(graph))
    for edge in known.circuit.edges:
        truth[graph.receiver_index[edge.receiver], graph.sender_index[edge.sender]] = True
    return Question(known, model, batch, task.metric, truth)


def options_of(info: MethodInfo, question: Question, seed: int) -> SettledOptions:
    """What a run of the method would be asked for: all defaults, but for the steps of learned masks."""
    options = RunOptions(str(question.known.prompts), str(question.known.folder), info.name, seed=seed)
    if info.scores:
        options = replace(options, fraction=SHARE)
    if info.learns:
        options = replace(options, steps=LEARNED_STEPS)
    if "of" in info.takes:
        options = replace(options, of=MEMBERS)
    return settle_method(options, question.metric)[0]


def measure(name: str, question: Question, seed: int) -> Measured:
    """One method on one model."""
    options = options_of(CATALOGUE[name], question, seed)
    graph = question.model.transformer.architecture.graph
    begun = time.perf_counter()
    if CATALOGUE[name].scores:
        method = make_method(options, graph)
        assert not isinstance(method, ACDC)
        scores = method.score(question.problem).double().mean(0)
    else:
        scores = count_thresholds(question, options)
    seconds = time.perf_counter() - begun
    return Measured(
        name, question.known.name, options.metric, edge_auroc(scores, question.truth), seconds
    )


def count_thresholds(question: Question, options: SettledOptions) -> Float[Tensor, "receiver sender"]:
    """At how many thresholds ACDC keeps each edge; NaN where the graph has none."""
    problem, metric = question.problem, find_metric(options.metric)
    edges = readable(problem.graph)
    runs = evaluate(problem.model, problem.batch, edges, "corrupted", problem.batch_size)
    worth = abs((runs.ablated.mean(metric) or 0.0) - (runs.full.mean(metric) or 0.0))
    counts = torch.where(edges, 0.0, torch.nan).double()
    for power in range(1, N_THRESHOLDS + 1):
        method = ACDC(worth / 2**power, metric, schedule=options.schedule)
        counts += method.find(problem).kept
    return counts


def edge_auroc(scores: Float[Tensor, "receiver sender"], truth: Bool[Tensor, "receiver sender"]) -> float:
    """The probability that a true edge is ranked above another one, by the size of its score; NaN is no edge.

    From the sum of the true edges' ranks, as Mann and Whitney's U.
    """
    edges = ~scores.isnan()
    is_true = truth[edges].numpy()
    ranks = rankdata(scores[edges].abs().numpy())
    n_true, n_false = int(is_true.sum()), int((~is_true).sum())
    return float((ranks[is_true].sum() - n_true * (n_true + 1) / 2) / (n_true * n_false))


def bench_truth(
    models: Sequence[Known], methods: Sequence[str], seed: int, progress: Progress
) -> dict[str, Any]:
    """Every method on every model, as plain JSON values."""
    described, measured = [], []
    for known in models:
        progress.stage(f"{known.name}: {len(methods)} methods")
        question = load_question(known)
        described.append(describe(question))
        for done, name in enumerate(methods):
            progress.update(done, len(methods), name)
            measured.append(measure(name, question, seed))
    rows = [summarise([one for one in measured if one.method == name]) for name in methods]
    return {"seed": seed, "models": described, "methods": rows}


def describe(question: Question) -> dict[str, Any]:
    """What the record says of a model."""
    circuit = question.known.circuit
    return {
        "name": question.known.name,
        "title": circuit.task.get("title", ""),
        "made_by": circuit.method.get("name", ""),
        "n_edges": circuit.graph.n_edges,
        "n_true": len(circuit.edges),
        "n_prompts": question.batch.n_prompts,
        "folder": str(question.known.folder),
    }


def summarise(measured: Sequence[Measured]) -> dict[str, Any]:
    """What the record says of a method."""
    return {
        "name": measured[0].method,
        "metric": measured[0].metric if CATALOGUE[measured[0].method].has_metric else None,
        "median_auroc": statistics.median(one.auroc for one in measured),
        "seconds": sum(one.seconds for one in measured),
        "models": {one.model: {"auroc": one.auroc, "seconds": one.seconds} for one in measured},
    }
