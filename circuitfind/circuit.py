"""A circuit: the kept edges of a model's graph, their scores, and how they were found. The file format, version 1."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitfind.circuits.folder import file_in
from circuitfind.errors import CircuitError
from circuitfind.graph import END, Edge, Graph, Node, is_role
from circuitfind.neurons import Neuron, Neurons, in_order

if TYPE_CHECKING:
    from networkx import MultiDiGraph

FORMAT = "circuitfind.circuit"
VERSION = 1
MOST_NODES = 200_000
"""A file that claims more heads and MLPs than this is wrong: the largest models have some twenty thousand."""
MOST_IN_A_NODE = 10_000_000
"""Likewise of neurons: the widest MLPs have some hundred thousand."""
MOST_SITES = 10_000_000
"""So is one whose heads and MLPs, times its roles, are more."""


@dataclass(frozen=True)
class Circuit:
    """Kept edges with their scores, in graph order, and the record of what found them.

    ``model``, ``task``, ``method`` and ``metrics`` are the blocks of the file of the same names (plain JSON values).
    An edge's score is, for ACDC, the metric change measured when it was tested; for attribution methods the attribution
    (positive = corrupting the edge hurts).

    ``neurons``: the kept neurons with their scores, in forward order, of a circuit at neuron level; None at edge level.
    There ``model`` has d_head and d_mlp, and ``edges`` are those among the nodes that keep a neuron (``neurons.py``).
    """

    graph: Graph
    edges: Mapping[Edge, float]
    model: Mapping[str, Any] = field(default_factory=dict)
    task: Mapping[str, Any] = field(default_factory=dict)
    method: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    neurons: Mapping[Neuron, float] | None = None
    tolerances: Mapping[str, Any] = field(default_factory=dict)
    """How far a later run may be from what is stored (``gate.py``); most files have none."""

    def __post_init__(self) -> None:
        for edge, score in self.edges.items():
            if edge not in self.graph:
                shape = f"{self.graph.n_layers} layers of {self.graph.n_heads} heads"
                places = f" at {', '.join(self.graph.roles)}" if self.graph.roles else ""
                raise CircuitError(
                    f"Edge '{edge}' cannot exist in a model of {shape}{places}: no such node"
                    f"{' or role' if places else ''}, or it reads what comes later."
                )
            if not math.isfinite(score):
                raise CircuitError(f"Edge '{edge}' has the score {score}; a score must be a finite number.")
        ordered = sorted(self.edges.items(), key=lambda item: self.graph.order(item[0]))
        object.__setattr__(self, "edges", {edge: float(score) for edge, score in ordered})
        if self.neurons is not None:
            object.__setattr__(self, "neurons", check_neurons(self.all_neurons, self.neurons))

    @property
    def all_neurons(self) -> Neurons:
        """All that the model has; of a circuit at neuron level."""
        return Neurons(self.graph, self.model["d_head"], self.model["d_mlp"])

    @property
    def size(self) -> str:
        """How many edges it has, or neurons, in words."""
        return f"{len(self.edges):,} edges" if self.neurons is None else f"{len(self.neurons):,} neurons"

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
            "graph": self.graph.to_dict(),
        }
        lines = [f"  {json.dumps(key)}: {_spell(value)}," for key, value in head.items()]
        lines.append(_block("edges", self.edges))
        if self.neurons is not None:
            lines.append(_block("neurons", self.neurons))
        tolerances = f',\n  "tolerances": {_spell(self.tolerances)}' if self.tolerances else ""
        lines.append(f'  "metrics": {_spell(self.metrics)}' + tolerances)
        return "{\n" + "\n".join(lines) + "\n}\n"

    def to_networkx(self) -> MultiDiGraph[str]:
        """The circuit as a networkx graph: ``export.network`` says what its nodes and edges have."""
        from circuitfind.export.network import circuit_to_networkx

        return circuit_to_networkx(self)

    def _repr_html_(self) -> str:
        """In a notebook: the picture and a table."""
        from circuitfind.export.notebook import circuit_to_html

        return circuit_to_html(self)

    def _repr_svg_(self) -> str | None:
        """The picture alone, which a notebook takes where it is made into a PDF."""
        from circuitfind.export.notebook import circuit_to_svg

        return circuit_to_svg(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """In IPython without pictures: a line, not thousands of edges."""
        from circuitfind.export.notebook import circuit_to_line

        printer.text(circuit_to_line(self))

    @staticmethod
    def from_json(text: str, source: str = "circuit.json") -> Circuit:
        """The circuit that ``to_json`` wrote. Raises CircuitError naming ``source`` and what is wrong with it."""
        data = _parse(text, source)
        model = data["model"]
        roles = _roles(data["graph"], model, source)
        graph = Graph(model["n_layers"], model["n_heads"], model["parallel_attn_mlp"], roles)
        n_edges = data["graph"].get("n_edges")
        if n_edges != graph.n_edges:
            raise CircuitError(f"{source}: its graph has {n_edges} edges; a model of its shape has {graph.n_edges}.")
        try:
            edges = {Edge.parse(name): _number(name, score) for name, score in data["edges"].items()}
            blocks = {name: data[name] for name in ("model", "task", "method", "metrics", "tolerances")}
            return Circuit(graph, edges, neurons=_read_neurons(data), **blocks)
        except CircuitError as error:
            raise CircuitError(f"{source}: {error}") from None

    @staticmethod
    def load(path: Path) -> Circuit:
        """The circuit in a circuit.json or a run folder. Raises CircuitError if there is none."""
        file = path / "circuit.json" if path.is_dir() else path
        try:
            if path.is_dir():
                file_in(path, file.name)  # no link that leads out of the folder
            return Circuit.from_json(file.read_text(encoding="utf-8"), str(file))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise CircuitError(
                f"Cannot read the circuit {file}: {reason}. Give a circuit.json or a run folder."
            ) from None


def check_neurons(known: Neurons, scores: Mapping[Neuron, float]) -> dict[Neuron, float]:
    """The neurons in forward order. Raises CircuitError for one that there is not, and a score that is no number."""
    for neuron, score in scores.items():
        if neuron not in known:
            shape = f"{known.graph.n_layers} layers of {known.graph.n_heads} heads of {known.d_head} neurons"
            raise CircuitError(f"Neuron '{neuron}' cannot exist in a model of {shape}, and MLPs of {known.d_mlp:,}.")
        if not math.isfinite(score):
            raise CircuitError(f"Neuron '{neuron}' has the score {score}; a score must be a finite number.")
    return {neuron: float(score) for neuron, score in in_order(known, scores.items()).items()}


def _block(name: str, scores: Mapping[Edge, float] | Mapping[Neuron, float]) -> str:
    """A block of names and scores, one a line."""
    lines = ",\n".join(f"    {json.dumps(str(key))}: {_spell(score)}" for key, score in scores.items())
    return f'  "{name}": {{\n{lines}\n  }},' if lines else f'  "{name}": {{}},'


def _read_neurons(data: dict[str, Any]) -> dict[Neuron, float] | None:
    """The kept neurons, in a file that has them. Raises CircuitError."""
    if "neurons" not in data:
        return None
    if not isinstance(data["neurons"], dict):
        raise CircuitError('its block "neurons" must hold a score for each kept neuron.')
    for key in ("d_head", "d_mlp"):
        value = data["model"].get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MOST_IN_A_NODE:
            said = f"with neurons it must be a whole number above 0, and at most {MOST_IN_A_NODE:,}"
            raise CircuitError(f'its model\'s "{key}" is {value!r}; {said}.')
    return {Neuron.parse(name): _number(name, score, "Neuron") for name, score in data["neurons"].items()}


def _spell(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _number(name: str, score: object, kind: str = "Edge") -> float:
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise CircuitError(f"{kind} '{name}' has the score {score!r}; a score must be a finite number.")
    try:
        return float(score)
    except OverflowError:
        raise CircuitError(f"{kind} '{name}' has a score too large for a number.") from None


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
    data.setdefault("tolerances", {})
    for block in ("model", "task", "method", "graph", "edges", "metrics", "tolerances"):
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


def _roles(graph: dict[str, Any], model: dict[str, Any], source: str) -> tuple[str, ...]:
    """The roles of a circuit of positions; none where its edges stand for all of them."""
    if "positions" not in graph:
        return ()
    roles = graph["positions"]
    is_list = isinstance(roles, list) and all(isinstance(role, str) and is_role(role) for role in roles)
    if not is_list or len(set(roles)) < len(roles) or roles[-1:] != [END]:
        raise CircuitError(f'{source}: its graph\'s "positions" must be a list of different roles, the last {END}.')
    if len(roles) * model["n_layers"] * (model["n_heads"] + 1) > MOST_SITES:
        raise CircuitError(f"{source}: its graph has {len(roles):,} roles; no prompt has so many.")
    return tuple(roles)


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
