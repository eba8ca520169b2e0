"""From what was read to a circuit, and to the files of a folder like a run's.

The circuit has the edges that the file marks as kept, as they are there, or those that are chosen
from its scores as a run chooses them (``circuits/selection.py``). The folder has circuit.json;
where the score of every edge is known also scores.safetensors; and run.json, which names the file,
so that ``evaluate`` takes the folder for one of a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Graph
from circuitfind.circuits.record import RUN_FILE
from circuitfind.circuits.size import Selection
from circuitfind.errors import UsageError
from circuitfind.evaluation.reference import SCORES_FILE, edges_of
from circuitfind.exchange.edges import ScoredEdges, kept_edges
from circuitfind.exchange.readers import read_circuit
from circuitfind.files.json_file import json_file
from circuitfind.version import __version__


@dataclass(frozen=True)
class ImportOptions:
    """``model``, ``task``: names to go with the circuit, which files of other tools don't have.
    ``selection``: which edges are kept, in place of those that the file marks. ``shape``: that of a
    model whose edges are listed alone."""

    path: Path
    format: str | None = None
    model: str | None = None
    task: str | None = None
    selection: Selection | None = None
    shape: Graph | None = None


@dataclass(frozen=True)
class Imported:
    """A circuit of another tool; ``edges`` all that is known of its edges, ``notes`` what of the
    file is left out.
    """

    circuit: Circuit
    edges: ScoredEdges
    options: ImportOptions
    format: str
    notes: tuple[str, ...]

    @property
    def files(self) -> dict[str, str | bytes]:
        """The files of its folder."""
        files: dict[str, str | bytes] = {"circuit.json": self.circuit.to_json()}
        if is_ranking(self.edges):
            files[SCORES_FILE] = _scores_file(self.edges)
        return files | {RUN_FILE: json_file(self._record)}

    @property
    def _record(self) -> dict[str, Any]:
        return {
            "circuitfind": __version__,
            "command": {"task": self.options.task, "model": self.options.model},
            "imported": {"file": self.options.path.name, "format": self.format},
        }


def import_circuit(options: ImportOptions) -> Imported:
    """The circuit in a file of another tool. Raises CircuitfindError for whatever is wrong with it."""
    format, read = read_circuit(options.path, options.format, options.shape)
    edges, chosen = read.edges, options.selection
    if chosen is not None:
        edges = choose(edges, chosen, str(options.path))
    elif not edges.kept.any():
        raise UsageError(
            f"{options.path} marks no edge as kept. Say how many to keep of the largest scores: "
            "--edges N, --fraction F, --threshold T or, of nodes, --nodes N."
        )
    notes = (
        read.notes if is_ranking(edges) else (*read.notes, "the scores of the other edges are not known")
    )
    if not edges.kept.any():
        notes = (*notes, "no edge of it is kept: the circuit is empty")
    model, task, method = _blocks(edges, options, format)
    circuit = Circuit(edges.graph, dict(kept_edges(edges)), model, task, method)
    return Imported(circuit, edges, options, format, notes)


def is_ranking(edges: ScoredEdges) -> bool:
    """Whether every edge's score is known; those outside the circuit, all 0, are no scores."""
    outside = edges.scores[edges_of(edges.graph) & ~edges.kept]
    return edges.is_complete and bool(not outside.size or outside.any())


def choose(edges: ScoredEdges, selection: Selection, source: str) -> ScoredEdges:
    """The edges that the selection keeps, after pruning. Raises UsageError where scores are not known."""
    import torch

    from circuitfind.circuits.selection import select
    from circuitfind.circuits.units import Units

    if selection.nodes is not None and not edges.by_node:
        raise UsageError(
            f"--nodes needs scores of nodes, and {source} has scores of edges. Give --edges."
        )
    if selection.edges is not None and edges.by_node:
        raise UsageError(
            f"--edges needs scores of edges, and {source} has scores of nodes. Give --nodes."
        )
    if not is_ranking(edges):
        raise UsageError(
            f"{source} has not the scores of all edges, to choose from. Leave the choice of edges out."
        )
    units = Units(edges.graph, "node" if edges.by_node else "edge")
    return replace(
        edges, kept=select(edges.graph, torch.from_numpy(edges.scores), selection, units).kept.numpy()
    )


def _blocks(edges: ScoredEdges, options: ImportOptions, format: str) -> tuple[dict[str, Any], ...]:
    """The blocks model, task and method of the circuit's file, with what is known."""
    graph, chosen = edges.graph, options.selection
    model = {
        "name": options.model,
        "n_layers": graph.n_layers,
        "n_heads": graph.n_heads,
        "d_model": edges.d_model,
        "parallel_attn_mlp": graph.parallel,
    }
    method = {"name": "imported", "format": format, "level": "node" if edges.by_node else None}
    said = {} if chosen is None else asdict(chosen)
    return _known(model), _known({"name": options.task}), _known(method | said)


def _known(block: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in block.items() if value is not None}


def _scores_file(edges: ScoredEdges) -> bytes:
    import torch

    from circuitfind.circuits.scores_file import scores_file

    dtype = torch.float32 if edges.is_single else torch.float64
    return scores_file(edges.graph, torch.from_numpy(edges.scores), dtype)
