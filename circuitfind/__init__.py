"""circuitfind finds the circuit of a behaviour in a language model.

    from circuitfind import RunOptions, run

    result = run(RunOptions(task="ioi", model="tiny", threshold=0.1))
    result.circuit  # a notebook draws it

Importing it imports no torch: what needs it is imported when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from circuitfind.circuits.circuit import Circuit, Faces
from circuitfind.circuits.graph import Edge, Graph, Node, Receiver
from circuitfind.version import __version__

if TYPE_CHECKING:
    from networkx import MultiDiGraph

    from circuitfind.options import RunOptions
    from circuitfind.pipeline import run

__all__ = ["Circuit", "Edge", "Graph", "Node", "Receiver", "RunOptions", "__version__", "run"]


def __getattr__(name: str) -> Any:
    """What takes long to import, imported when it is first asked for."""
    if name == "run":
        from circuitfind.pipeline import run

        return run
    if name == "RunOptions":
        from circuitfind.options import RunOptions

        return RunOptions
    raise AttributeError(f"module 'circuitfind' has no attribute {name!r}")


def _networkx(circuit: Circuit) -> MultiDiGraph[str]:
    from circuitfind.export.formats.network import circuit_to_networkx

    return circuit_to_networkx(circuit)


def _html(circuit: Circuit) -> str:
    from circuitfind.export.formats.notebook import circuit_to_html

    return circuit_to_html(circuit)


def _svg(circuit: Circuit) -> str | None:
    from circuitfind.export.formats.notebook import circuit_to_svg

    return circuit_to_svg(circuit)


def _line(circuit: Circuit) -> str:
    from circuitfind.export.formats.notebook import circuit_to_line

    return circuit_to_line(circuit)


Circuit.faces = Faces(_networkx, _html, _svg, _line)
