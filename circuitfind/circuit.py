"""A circuit: the kept edges of a model's graph, their scores, and how they were found. The file format, version 1."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from circuitfind.errors import CircuitError
from circuitfind.graph import Edge, Graph, Node

FORMAT = "circuitfind.circuit"
VERSION = 1
MOST_NODES = 200_000
"""A file that claims more heads and MLPs than this is wrong: the largest models have some twenty thousand."""


@dataclass(frozen=True)
class Circuit:
    """Kept edges with their scores, in graph order, and the record of what found them.

    ``model``, ``task``, ``method`` and ``metrics`` are the blocks of the file of the same names (plain JSON values).
    An edge's score is, for ACDC, the metric change measured when it was tested; for attribution methods the attribution
    (positive = corrupting the edge hurts).
    """

    graph: Graph
    edges: Mapping[Edge, float]
    model: Mapping[str, Any] = field(default_factory=dict)
    task: Mapping[str, Any] = field(default_factory=dict)
    method: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for edge, score in self.edges.items():
            if edge not in self.graph:
                shape = f"{self.graph.n_layers} layers of {self.graph.n_heads} heads"
                raise CircuitError(
                    f"Edge '{edge}' cannot exist in a model of {shape}: no such node, or it reads what comes later."
                )
            if not math.isfinite(score):
                raise CircuitError(f"Edge '{edge}' has the score {score}; a score must be a finite number.")
        ordered = sorted(self.edges.items(), key=lambda item: self.graph.order(item[0]))
        object.__setattr__(self, "edges", {edge: float(score) for edge, score in ordered})

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes that kept edges touch, in forward order, the logits last."""
        touched = {node for edge in self.edges for node in (edge.sender, edge.receiver.node)}
        return tuple(node for node in (*self.graph.senders, Node("logits")) if node in touched)

    def to_json(self) -> str:
        """The file's text: fixed key order and number spelling, one line an edge."""
        head = {
            "format": FORMAT,
            "version": VERSION,
            "model": self.model,
            "task": self.task,
            "method": self.method,
            "graph": {"n_edges": self.graph.n_edges, "n_nodes": self.graph.n_nodes},
        }
        lines = [f"  {json.dumps(key)}: {_spell(value)}," for key, value in head.items()]
        edges = ",\n".join(f"    {json.dumps(str(edge))}: {_spell(score)}" for edge, score in self.edges.items())
        lines.append('  "edges": {\n' + edges + "\n  }," if edges else '  "edges": {},')
        lines.append(f'  "metrics": {_spell(self.metrics)}')
        return "{\n" + "\n".join(lines) + "\n}\n"

    @staticmethod
    def from_json(text: str, source: str = "circuit.json") -> Circuit:
        """The circuit that ``to_json`` wrote. Raises CircuitError naming ``source`` and what is wrong with it."""
        data = _parse(text, source)
        model = data["model"]
        graph = Graph(model["n_layers"], model["n_heads"], model["parallel_attn_mlp"])
        n_edges = data["graph"].get("n_edges")
        if n_edges != graph.n_edges:
            raise CircuitError(f"{source}: its graph has {n_edges} edges; a model of its shape has {graph.n_edges}.")
        try:
            edges = {Edge.parse(name): _number(name, score) for name, score in data["edges"].items()}
            return Circuit(graph, edges, model, data["task"], data["method"], data["metrics"])
        except CircuitError as error:
            raise CircuitError(f"{source}: {error}") from None

    @staticmethod
    def load(path: Path) -> Circuit:
        """The circuit in a circuit.json or a run folder. Raises CircuitError if there is none."""
        file = path / "circuit.json" if path.is_dir() else path
        try:
            return Circuit.from_json(file.read_text(encoding="utf-8"), str(file))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise CircuitError(
                f"Cannot read the circuit {file}: {reason}. Give a circuit.json or a run folder."
            ) from None


def _spell(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _number(name: str, score: object) -> float:
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise CircuitError(f"Edge '{name}' has the score {score!r}; a score must be a finite number.")
    try:
        return float(score)
    except OverflowError:
        raise CircuitError(f"Edge '{name}' has a score too large for a number.") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CircuitError(f"'{twice}' stands in it twice")
    return dict(pairs)


def _parse(text: str, source: str) -> dict[str, Any]:
    data = read_json(text, source)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise CircuitError(f'{source} is no circuit: it lacks "format": "{FORMAT}".')
    if data.get("version") != VERSION:
        raise CircuitError(
            f"{source} has version {data.get('version')}; this circuitfind reads version {VERSION}. Upgrade it."
        )
    for block in ("model", "task", "method", "graph", "edges", "metrics"):
        if not isinstance(data.get(block), dict):
            raise CircuitError(f'{source} lacks the block "{block}".')
        if block != "edges":
            _check_values(block, data[block], source)
    check_model(data["model"], source)
    return data


def read_json(text: str, source: str) -> Any:
    """What a file of ours holds. Raises CircuitError naming ``source`` for what is no whole JSON."""
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise CircuitError(f"{source} is not whole JSON: {error.msg} in line {error.lineno}.") from None
    except CircuitError as error:
        raise CircuitError(f"{source}: {error}.") from None
    except (RecursionError, ValueError):  # brackets in brackets in brackets; a number of thousands of digits
        raise CircuitError(
            f"{source} is no circuit: it is nested too deeply or holds a number that is too long."
        ) from None


def _check_values(block: str, values: dict[str, Any], source: str) -> None:
    """Raises CircuitError for what Python's reader lets through though no JSON file may hold it."""
    try:
        _spell(values).encode()
    except UnicodeEncodeError:
        raise CircuitError(f'{source}: its block "{block}" holds half a character (a lone surrogate).') from None
    except ValueError:
        raise CircuitError(f'{source}: its block "{block}" holds NaN or an infinite number.') from None


def check_model(model: dict[str, Any], source: str) -> None:
    """Raises CircuitError where the block ``model`` lacks a shape that a model can have."""
    for key in ("n_layers", "n_heads"):
        value = model.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise CircuitError(f'{source}: its model\'s "{key}" is {value!r}; it must be a whole number above 0.')
    n_nodes = model["n_layers"] * (model["n_heads"] + 1)
    if n_nodes > MOST_NODES:
        raise CircuitError(
            f"{source}: its model has {n_nodes:,} heads and MLPs; no model has more than {MOST_NODES:,}."
        )
    if not isinstance(model.get("parallel_attn_mlp"), bool):
        raise CircuitError(f'{source}: its model\'s "parallel_attn_mlp" must be true or false.')
