"""A submission to MIB's circuit track: packed from runs, and checked file by file.

The checks are what MIB asks for in its description of the track: names, one file or nine, every
edge with a finite score, circuits within their budgets. They are of edges; files of neurons or of
scored nodes are not looked into.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.compare import describe_shape
from circuitfind.circuits.graph import Graph
from circuitfind.circuits.size import Selection
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
from circuitfind.files.links import leads_outside

WRITERS = {"json": write_json, "pt": write_pt}
FILES = frozenset(
    f"{stem}.{suffix}" for stem in (IMPORTANCES, *(f"{b:g}" for b in BUDGETS)) for suffix in WRITERS
)
"""Every file that a folder of a submission may have."""
ReadFiles = Sequence[tuple[str, ScoredEdges]]


def pack(
    run: Path, name: str | None, by_budget: bool = False, suffix: str = "json"
) -> tuple[str, dict[str, bytes]]:
    """The folder of a run in a submission, and its files: the scores of all edges, or nine circuits
    of budgets.

    ``name``: the folder's, where not by the circuit's task and model. Raises CircuitError for a run
    without the scores of all its edges, UsageError for a name that no folder can have.
    """
    circuit = Circuit.load(run)
    edges = of_circuit(circuit, run if run.is_dir() else run.parent)
    if not is_ranking(edges):
        raise CircuitError(
            f"{run} has not the scores of all edges, which MIB ranks. Give a run's folder."
        )
    if edges.by_node:
        raise CircuitError(f"{run} has scores of nodes; what is packed here are those of edges.")
    folder = name or folder_name(circuit.task.get("name"), circuit.model.get("name"))
    if not re.fullmatch(r"\w[\w.-]*", folder, re.ASCII):
        raise UsageError(
            f"'{folder}' is no name of a folder. Name it by task and model, as in ioi_gpt2=RUN."
        )
    write = WRITERS[suffix]
    if not by_budget:
        return folder, {f"{IMPORTANCES}.{suffix}": write(edges)}
    return folder, {f"{budget:g}.{suffix}": write(within(edges, budget)) for budget in BUDGETS}


def within(edges: ScoredEdges, budget: float) -> ScoredEdges:
    """The circuit of the largest |scores| within a budget, pruned."""
    if most_edges(edges.graph, budget) == 0:
        return replace(edges, kept=np.zeros_like(edges.kept))
    return choose(edges, Selection(fraction=budget), "the run")


def check(folder: Path) -> list[str]:
    """Everything wrong with a submission, each as one line. Raises UsageError where there is no folder."""
    if not folder.is_dir():
        raise UsageError(
            f"There is no folder {folder}. Give a submission's: it has one for each task and model."
        )
    places = sorted(
        place for place in folder.iterdir() if place.is_dir() and not place.name.startswith(".")
    )
    problems = [f"{place.name}: {problem}" for place in places for problem in check_one(place)]
    return problems + list(
        _whole_problems(place.name for place in places if not name_problems(place.name))
    )


def check_one(place: Path) -> Iterator[str]:
    """What is wrong with the folder of one task and model."""
    yield from name_problems(place.name)
    files = sorted(file for file in place.iterdir() if file.suffix in (".json", ".pt"))
    if len(files) not in (1, len(BUDGETS)):
        yield f"it has {len(files)} files (.json, .pt); MIB takes 1 of importances or {len(BUDGETS)} circuits"
        return
    read = []
    for file in files:
        if leads_outside(file, place.parent):
            yield f"{file.name}: it is a link that leads out of the submission"
            continue
        try:
            read.append((file.name, _read(file)))
        except CircuitError as error:
            yield str(error).replace(str(file), file.name)
    yield from _shape_problems(read, shape_of(place.name))
    if len(read) == len(files):
        yield from _importance_problems(*read[0]) if len(files) == 1 else _budget_problems(read)


def _read(file: Path) -> ScoredEdges:
    """The edges in a graph file of EAP-IG's. Raises CircuitError for any other."""
    format, read = read_circuit(file)
    if not format.startswith("eap-ig"):
        raise CircuitError(f"{file} is {format}, and MIB takes EAP-IG's graphs.")
    return read.edges


def _shape_problems(read: ReadFiles, shape: Graph | None) -> Iterator[str]:
    """Which files are not of the shape that the model has; where that is not known, not of the
    first file's.
    """
    wanted = shape or (read[0][1].graph if read else None)
    wrong = [(file, edges.graph) for file, edges in read if edges.graph != wanted]
    if wrong and wanted is not None:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        yield f"{wrong[0][0]}{more}: of {describe_shape(wrong[0][1])}; the model has {describe_shape(wanted)}"


def _importance_problems(file: str, edges: ScoredEdges) -> Iterator[str]:
    """What is wrong with the scores of all edges."""
    scores = edges.scores[edges_of(edges.graph)]
    if not edges.is_complete:
        n_known = int(np.isfinite(scores).sum())
        yield f"{file}: {n_known:,} of {edges.graph.n_edges:,} edges have a score; all must have one"
    elif not scores.any():
        yield f"{file}: every score is 0: nothing tells the edges apart"


def _budget_problems(circuits: ReadFiles) -> Iterator[str]:
    """What is wrong with nine circuits: from the smallest on, each must be within its budget."""
    ordered = sorted(circuits, key=lambda item: int(item[1].kept.sum()))
    for budget, (file, edges) in zip(BUDGETS, ordered, strict=True):
        size, most = int(edges.kept.sum()), most_edges(edges.graph, budget)
        if size > most:
            yield f"{file}: it has {size:,} edges; a circuit of {budget:.1%} may have {most:,}"
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
