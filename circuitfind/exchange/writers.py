"""Every format of other tools that a circuit is written in, and what each can't hold. Light: torch
comes later.

What a file lacks is told when it is written; docs/exchange.md has the whole table.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from circuitfind.circuits.circuit import Circuit
    from circuitfind.exchange.edges import ScoredEdges


@dataclass(frozen=True)
class Writer:
    """``module`` and ``function``: what writes it, from all edges. ``of_kept``: it has kept edges
    alone; ``of_scores``: scores alone. ``is_single``: its scores are float32."""

    summary: str
    suffix: str
    module: str
    function: str
    is_text: bool
    of_kept: bool = False
    of_scores: bool = False
    has_scores: bool = True
    is_single: bool = False


WRITERS: Mapping[str, Writer] = MappingProxyType(
    {
        "eap-ig-json": Writer(
            "EAP-IG's and MIB's graph as JSON", "eap-ig.json", "eapig", "write_json", True
        ),
        "eap-ig-pt": Writer(
            "EAP-IG's and MIB's graph as tensors", "eap-ig.pt", "eapig", "write_pt", False, is_single=True
        ),
        "acdc-json": Writer(
            "ACDC's list of edges as JSON", "acdc.json", "acdc", "write_list", True, of_kept=True
        ),
        "acdc-text": Writer(
            "ACDC's list of edges as text", "acdc.txt", "acdc", "write_text", True, of_kept=True
        ),
        "acdc-pth": Writer(
            "ACDC's subgraph", "acdc.pth", "acdc", "write_subgraph", False, of_kept=True, has_scores=False
        ),
        "autocircuit": Writer(
            "AutoCircuit's prune scores",
            "autocircuit.pt",
            "autocircuit",
            "write_scores",
            False,
            False,
            True,
            True,
            True,
        ),
        "edge-pruning": Writer(
            "Edge-Pruning's list of edges",
            "edges.json",
            "edgepruning",
            "write_list",
            True,
            True,
            has_scores=False,
        ),
    }
)


def write(name: str, circuit: Circuit, folder: Path | None = None) -> bytes:
    """The circuit in that format. Raises CircuitError where it has neurons or positions, which none
    of them has.
    """
    module = importlib.import_module(f"circuitfind.exchange.{WRITERS[name].module}")
    function: Callable[[ScoredEdges], bytes] = getattr(module, WRITERS[name].function)
    return function(_edges_of(circuit, folder))


def lost(name: str, circuit: Circuit, folder: Path | None = None) -> str:
    """What the file can't hold of the circuit, in a few words."""
    writer, edges = WRITERS[name], _edges_of(circuit, folder)
    parts = ["what the circuit was found with (model, task, method) and its metrics"]
    if writer.of_scores:
        parts.append("which edges are kept")
    if not writer.has_scores:
        parts.append("all scores")
    elif writer.of_kept:
        parts.append("the scores of edges outside the circuit")
    elif not edges.is_complete:
        parts.append("the scores of edges outside the circuit, which are not in its folder: they are 0")
    if writer.is_single and not edges.is_single:
        parts.append("digits of the scores beyond float32")
    return "; ".join(parts)


def _edges_of(circuit: Circuit, folder: Path | None) -> ScoredEdges:
    from circuitfind.exchange.edges import of_circuit

    return of_circuit(circuit, folder)
