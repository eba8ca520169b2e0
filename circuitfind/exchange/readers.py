"""Every format of circuits that is read, and which of them a file is in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from circuitfind.circuits.circuit import FORMAT as OWN_FORMAT
from circuitfind.circuits.graph import Graph
from circuitfind.errors import CircuitError, UsageError, unknown
from circuitfind.exchange import acdc, autocircuit, eapig, edgepruning
from circuitfind.exchange.content import read_content
from circuitfind.exchange.reading import Read


@dataclass(frozen=True)
class Reader:
    """``fits``: whether a content is in the format. ``read`` takes the content, the file's name for
    messages, and the shape that the user gave, if any."""

    summary: str
    fits: Callable[[Any], bool]
    read: Callable[[Any, str, Graph | None], Read]


def _told(read: Callable[[Any, str], Read]) -> Callable[[Any, str, Graph | None], Read]:
    """The reader of a format that tells the shape of its model itself."""

    def read_told(content: Any, source: str, shape: Graph | None) -> Read:
        found = read(content, source)
        if shape is not None and shape != found.edges.graph:
            raise UsageError(
                f"{source} tells the shape of its model, and it is another. Leave --shape out."
            )
        return found

    return read_told


READERS: Mapping[str, Reader] = MappingProxyType(
    {
        "eap-ig-json": Reader("EAP-IG's and MIB's graph as JSON", eapig.is_json, _told(eapig.read_json)),
        "eap-ig-pt": Reader("EAP-IG's and MIB's graph as tensors", eapig.is_pt, _told(eapig.read_pt)),
        "acdc-json": Reader("ACDC's list of edges as JSON", acdc.is_list, acdc.read_list),
        "acdc-text": Reader("ACDC's list of edges as text", acdc.is_text, acdc.read_text),
        "acdc-pth": Reader("ACDC's subgraph", acdc.is_subgraph, acdc.read_subgraph),
        "autocircuit": Reader(
            "AutoCircuit's prune scores", autocircuit.is_scores, _told(autocircuit.read_scores)
        ),
        "edge-pruning": Reader("Edge-Pruning's edges.json", edgepruning.is_list, edgepruning.read_list),
    }
)


def read_circuit(path: Path, format: str | None = None, shape: Graph | None = None) -> tuple[str, Read]:
    """The edges in a file of another tool, and the name of the format that it is in (or is said to be in).

    Raises UsageError for a format that there is not, CircuitError for a file that can't be read or
    is in none.
    """
    if format is not None and format not in READERS:
        raise UsageError(unknown("import format", format, READERS))
    content, source = read_content(path), str(path)
    name = format or _recognise(content, source)
    if not READERS[name].fits(content):
        found = next((other for other, reader in READERS.items() if reader.fits(content)), None)
        hint = f" It looks like {found}." if found else ""
        raise CircuitError(f"{source} is not {READERS[name].summary} ({name}).{hint}")
    return name, READERS[name].read(content, source, shape)


def _recognise(content: Any, source: str) -> str:
    if isinstance(content, dict) and content.get("format") == OWN_FORMAT:
        raise CircuitError(
            f"{source} is a circuit of circuitfind's own already: there is nothing to import."
        )
    name = next((name for name, reader in READERS.items() if reader.fits(content)), None)
    if name is None:
        raise CircuitError(f"{source} is in no format that is known. Formats: {', '.join(READERS)}.")
    return name
