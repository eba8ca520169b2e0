"""A submission to MIB's circuit track: packed from runs, and checked file by file.

The checks are what MIB asks for in its description of the track: names, one file or nine, every edge with a finite
score, circuits within their budgets. They are of edges; files of neurons or of scored nodes are not looked into.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from circuitfind.circuit import Circuit
from circuitfind.comparison import describe_shape
from circuitfind.errors import CircuitError, UsageError
from circuitfind.evaluation.reference import edges_of
from circuitfind.exchange.eapig import write_json, write_pt
from circuitfind.exchange.edges import ScoredEdges, of_circuit
from circuitfind.exchange.importing import choose, is_ranking
from circuitfind.exchange.mib import (
    BUDGETS,
    IMPORTANCES,
    LEAST_MODELS,
    LEAST_TASKS,
    folder_name,
    most_edges,
    name_problems,
    shape_of,
)
from circuitfind.exchange.readers import read_circuit
from circuitfind.size import Selection

Kind = Literal["importances", "circuits"]
WRITERS = {"json": write_json, "pt": write_pt}


def pack(run: Path, name: str | None, kind: Kind = "importances", suffix: str = "json") -> Mapping[str, bytes]:
    """The files of a run in a submission, by their paths in it. ``name``: of its folder, where not that of its blocks.

    Raises CircuitError for a run without the scores of all its edges, UsageError for one that doesn't say of what it is.
    """
    circuit = Circuit.load(run)
    edges = of_circuit(circuit, run if run.is_dir() else run.parent)
    if not is_ranking(edges):
        raise CircuitError(f"{run} has not the scores of all edges, which MIB ranks. Give a run's folder.")
    if edges.by_node:
        raise CircuitError(f"{run} has scores of nodes; a submission packed here has those of edges.")
    folder = name or folder_name(circuit.task.get("name"), circuit.model.get("name"))
    write = WRITERS[suffix]
    if kind == "importances":
        return {f"{folder}/{IMPORTANCES}.{suffix}": write(edges)}
    return {f"{folder}/{budget:g}.{suffix}": write(within(edges, budget)) for budget in BUDGETS}


def within(edges: ScoredEdges, budget: float) -> ScoredEdges:
    """The circuit of the largest |scores| within a budget, pruned."""
    if most_edges(edges.graph, budget) == 0:
        return replace(edges, kept=edges.kept & False)
    return choose(edges, Selection(fraction=budget), "its run")


def check(folder: Path) -> list[str]:
    """Everything wrong with a submission, each as one line. Raises UsageError where there is no folder."""
    if not folder.is_dir():
        raise UsageError(
            f"There is no folder {folder}. Give that of a submission, which has one for each task and model."
        )
    places = sorted(place for place in folder.iterdir() if place.is_dir() and not place.name.startswith("."))
    problems = [f"{place.name}: {problem}" for place in places for problem in check_one(place)]
    return problems + list(_whole_problems([place.name for place in places if not name_problems(place.name)]))


def check_one(place: Path) -> Iterator[str]:
    """What is wrong with the folder of one task and model."""
    yield from name_problems(place.name)
    files = sorted(file for file in place.iterdir() if file.suffix in (".json", ".pt"))
    if len(files) not in (1, len(BUDGETS)):
        yield f"it has {len(files)} files (.json, .pt); MIB takes 1 of importances or {len(BUDGETS)} circuits"
        return
    read = []
    for file in files:
        try:
            name, found = read_circuit(file)
        except CircuitError as error:
            yield str(error).replace(str(file), file.name)
            continue
        if not name.startswith("eap-ig"):
            yield f"{file.name}: it is {name}, not EAP-IG's graph"
            continue
        read.append((file.name, found.edges))
        yield from _shape_problems(file.name, found.edges, place.name)
    if len(read) == len(files):
        yield from _importance_problems(*read[0]) if len(files) == 1 else _budget_problems(read)


def _shape_problems(file: str, edges: ScoredEdges, name: str) -> Iterator[str]:
    shape = shape_of(name)
    if shape is not None and shape != edges.graph:
        yield f"{file}: it is of {describe_shape(edges.graph)}; the model has {describe_shape(shape)}"


def _importance_problems(file: str, edges: ScoredEdges) -> Iterator[str]:
    """What is wrong with the scores of all edges."""
    real = edges_of(edges.graph)
    if not edges.is_complete:
        n_known = edges.graph.n_edges - int((real & (edges.scores != edges.scores)).sum())
        yield f"{file}: {n_known:,} of {edges.graph.n_edges:,} edges have a score; all must have one"
    elif not edges.scores[real].any():
        yield f"{file}: every score is 0: nothing tells the edges apart"


def _budget_problems(circuits: Sequence[tuple[str, ScoredEdges]]) -> Iterator[str]:
    """What is wrong with nine circuits: from the smallest on, each must be within its budget."""
    ordered = sorted(circuits, key=lambda item: int(item[1].kept.sum()))
    for budget, (file, edges) in zip(BUDGETS, ordered, strict=True):
        size, most = int(edges.kept.sum()), most_edges(edges.graph, budget)
        if size > most:
            yield f"{file}: it has {size:,} edges; at {budget:.1%} it may have {most:,} (int({budget:g} x {edges.graph.n_edges:,}))"
    if not ordered[-1][1].kept.any():
        yield "no circuit has an edge"


def _whole_problems(names: Iterable[str]) -> Iterator[str]:
    """What is wrong with the submission as a whole."""
    parts = [name.partition("_") for name in names]
    tasks, models = {task for task, _, _ in parts}, {model for _, _, model in parts}
    if len(models) < LEAST_MODELS or len(tasks) < LEAST_TASKS:
        yield (
            f"the whole: {len(models)} of MIB's models and {len(tasks)} of its tasks; "
            f"it takes {LEAST_MODELS} or more of each"
        )
