"""A circuit: the kept edges of a model's graph, their scores, and how they were found. The file
format, version 1.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import msgspec

from circuitfind.circuits.bases import Neuron, Neurons, in_order
from circuitfind.circuits.graph import END, Counts, Edge, Graph, Node, Receiver, is_role
from circuitfind.circuits.schema import LARGEST, MOST_NODES, CircuitFile
from circuitfind.errors import CircuitError, shown
from circuitfind.files.json_file import fit, parse_json, read_text
from circuitfind.files.links import file_in

if TYPE_CHECKING:
    from networkx import MultiDiGraph

T = TypeVar("T")
FORMAT = "circuitfind.circuit"
VERSION = 1
A_SCORE = f"a score must be a finite number, of no more than {LARGEST:g}"
MOST_SITES = 1_000_000
"""A file whose heads and MLPs, times its roles, are more is wrong."""


@dataclass(frozen=True)
class Circuit:
    """Kept edges with their scores, in graph order, and the record of what found them.

    ``model``, ``task``, ``method`` and ``metrics`` are the blocks of the file of the same names
    (plain JSON values). An edge's score is, for ACDC, the metric change measured when it was
    tested; for attribution methods the attribution (positive = corrupting the edge hurts).

    ``neurons``: the kept neurons with their scores, in forward order, of a circuit at neuron level;
    None at edge level. There ``model`` has d_head and d_mlp, and ``edges`` are those among the
    nodes that keep a neuron (``circuits/bases.py``).
    """

    graph: Graph
    edges: Mapping[Edge, float]
    model: Mapping[str, Any] = field(default_factory=dict)
    task: Mapping[str, Any] = field(default_factory=dict)
    method: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    neurons: Mapping[Neuron, float] | None = None
    tolerances: Mapping[str, Any] = field(default_factory=dict)
    """How far a later run may be from what is stored (``review/tolerances.py``); most files have none."""
    faces: ClassVar[Faces]
    """How it is shown: ``circuitfind/__init__.py`` hands that in, since a circuit is data and knows
    no pictures.
    """

    def __post_init__(self) -> None:
        edges, places = self.edges, list(self.graph.places(self.edges))
        for (edge, score), place in zip(edges.items(), places, strict=True):
            if place is None:
                shape = f"{self.graph.n_layers} layers of {self.graph.n_heads} heads"
                roles = f" at {', '.join(self.graph.roles)}" if self.graph.roles else ""
                raise CircuitError(
                    f"Edge '{edge}' cannot exist in a model of {shape}{roles}: no such node"
                    f"{' or role' if roles else ''}, or it reads what comes later."
                )
            if not abs(score) <= LARGEST:
                raise CircuitError(f"Edge '{edge}' has the score {score}; {A_SCORE}.")
        if not all(one < other for one, other in pairwise(filter(None, places))):
            ordered = sorted(zip(filter(None, places), edges.items(), strict=True), key=itemgetter(0))
            edges = {edge: score for _, (edge, score) in ordered}
        if not all(type(score) is float for score in edges.values()):
            edges = {edge: float(score) for edge, score in edges.items()}
        object.__setattr__(self, "edges", dict(edges))
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

    def places(self) -> Iterator[tuple[tuple[int, int], float]]:
        """The kept edges' places in a [receiver, sender] matrix, with their scores."""
        places = self.graph.places(self.edges)
        return (
            (place, score)
            for place, score in zip(places, self.edges.values(), strict=True)
            if place is not None
        )

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes that kept edges touch, in forward order, the logits last."""
        senders = {
            id(edge.sender): edge.sender for edge in self.edges
        }  # most are one object: of these one is hashed
        receivers = {id(edge.receiver): edge.receiver for edge in self.edges}
        touched = {*senders.values(), *(receiver.node for receiver in receivers.values())}
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
        """The circuit as a networkx graph: ``export/formats/network.py`` says what its nodes and
        edges have.
        """
        return self.faces.networkx(self)

    def _repr_html_(self) -> str:
        """In a notebook: the picture and a table."""
        return self.faces.html(self)

    def _repr_svg_(self) -> str | None:
        """The picture alone, which a notebook takes where it is made into a PDF."""
        return self.faces.svg(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """In IPython without pictures: a line, not thousands of edges."""
        printer.text(self.faces.line(self))

    @staticmethod
    def from_json(text: str, source: str = "circuit.json") -> Circuit:
        """The circuit that ``to_json`` wrote. Raises CircuitError naming ``source`` and what is
        wrong with it.
        """
        with uncollected():
            return circuit_of(parse_json(text, source), source)

    @staticmethod
    def load(path: Path) -> Circuit:
        """The circuit in a circuit.json or a run folder. Raises CircuitError if there is none."""
        file = path / "circuit.json" if path.is_dir() else path
        if path.is_dir():
            file_in(path, file.name)  # no link that leads out of the folder
        try:
            text = read_text(file)
        except CircuitError as error:
            reason = str(error).removeprefix("Cannot read ")
            raise CircuitError(
                f"Cannot read the circuit {reason} Give a circuit.json or a run folder."
            ) from None
        return Circuit.from_json(text, str(file))


@contextmanager
def uncollected() -> Iterator[None]:
    """No search for unreachable objects inside: of a million edges that all stay, it takes a quarter
    of the time and finds nothing.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def circuit_of(data: Any, source: str) -> Circuit:
    """The circuit in the JSON values of its file. Raises CircuitError naming ``source`` and what is
    wrong with it.
    """
    check_header(data, source)
    file = fit(data, CircuitFile, source)
    check_spelling(data, source)
    graph = graph_of(file, source)
    try:
        edges = dict(zip(parse_edges(file.edges), file.edges.values(), strict=True))
        neurons = None if file.neurons is msgspec.UNSET else parse_neurons(file)
        blocks = {name: data[name] for name in ("model", "task", "method", "metrics")}
        return Circuit(graph, edges, neurons=neurons, tolerances=data.get("tolerances") or {}, **blocks)
    except CircuitError as error:
        raise CircuitError(f"{source}: {error}") from None


def check_header(data: Any, source: str) -> None:
    """Raises CircuitError for what is no circuit's file, and for one of another version."""
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise CircuitError(f'{source} is no circuit: it lacks "format": "{FORMAT}".')
    if data.get("version") != VERSION or isinstance(data["version"], bool):
        said = shown(data.get("version"))
        raise CircuitError(
            f"{source} has version {said}; this circuitfind reads version {VERSION}. Upgrade it."
        )


def check_spelling(data: dict[str, Any], source: str) -> None:
    """Raises CircuitError for half a character (a lone surrogate), which no file can be written with."""
    for block in ("model", "task", "method", "metrics", "tolerances"):
        try:
            _spell(data.get(block)).encode()
        except UnicodeEncodeError:
            raise CircuitError(
                f'{source}: its block "{block}" holds half a character (a lone surrogate).'
            ) from None


def graph_of(file: CircuitFile, source: str) -> Graph:
    """The graph of a circuit's file. Raises CircuitError for one that no model has."""
    model, roles = file.model, _roles(file, source)
    check_size(model.n_layers, model.n_heads, source, len(roles))
    graph = Graph(model.n_layers, model.n_heads, model.parallel_attn_mlp, roles)
    if file.graph.n_edges != graph.n_edges:
        raise CircuitError(
            f"{source}: its graph has {file.graph.n_edges} edges; a model of its shape has {graph.n_edges}."
        )
    return graph


def parse_edges(names: Iterable[str]) -> Iterator[Edge]:
    """The edges of these names. Raises CircuitError for a name that no edge has."""
    senders, receivers = _Memo(Node.parse), _Memo(Receiver.parse)
    for name in names:
        sender, arrow, receiver = name.partition("->")
        yield Edge(senders[sender], receivers[receiver]) if arrow else Edge.parse(name)


def parse_neurons(file: CircuitFile) -> dict[Neuron, float]:
    """The kept neurons of a circuit's file. Raises CircuitError for a name that none has, and for a
    model without their numbers."""
    for key in ("d_head", "d_mlp"):
        if getattr(file.model, key) is None:
            raise CircuitError(
                f'it has neurons, but its model lacks "{key}", how many of them a node has.'
            )
    scores = {} if file.neurons is msgspec.UNSET else file.neurons
    return {Neuron.parse(name): score for name, score in scores.items()}


class _Memo(dict[str, T]):
    """What is parsed once a name."""

    def __init__(self, parse: Callable[[str], T]) -> None:
        self._parse = parse

    def __missing__(self, name: str) -> T:
        self[name] = found = self._parse(name)
        return found


def check_neurons(known: Neurons, scores: Mapping[Neuron, float]) -> dict[Neuron, float]:
    """The neurons in forward order. Raises CircuitError for one that there is not, and a score that
    is no number.
    """
    for neuron, score in scores.items():
        if neuron not in known:
            shape = (
                f"{known.graph.n_layers} layers of {known.graph.n_heads} heads of {known.d_head} neurons"
            )
            raise CircuitError(
                f"Neuron '{neuron}' cannot exist in a model of {shape}, and MLPs of {known.d_mlp:,}."
            )
        if not abs(score) <= LARGEST:
            raise CircuitError(f"Neuron '{neuron}' has the score {score}; {A_SCORE}.")
    return {neuron: float(score) for neuron, score in in_order(known, scores.items()).items()}


def _block(name: str, scores: Mapping[Edge, float] | Mapping[Neuron, float]) -> str:
    """A block of names and scores, one a line."""
    lines = ",\n".join(f"    {json.dumps(str(key))}: {_spell(score)}" for key, score in scores.items())
    return f'  "{name}": {{\n{lines}\n  }},' if lines else f'  "{name}": {{}},'


def _spell(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _roles(file: CircuitFile, source: str) -> tuple[str, ...]:
    """The roles of a circuit of positions; none where its edges stand for all of them."""
    roles = file.graph.positions
    if roles is None:
        return ()
    if not all(map(is_role, roles)) or len(set(roles)) < len(roles) or roles[-1:] != [END]:
        raise CircuitError(
            f'{source}: its graph\'s "positions" must be a list of different roles, the last {END}.'
        )
    return tuple(roles)


def check_size(n_layers: int, n_heads: int, source: str, n_roles: int = 0) -> None:
    """Raises CircuitError for more heads and MLPs than any model has, or more of them times roles."""
    n_nodes = Counts.of(n_layers, n_heads).senders - 1  # the input is neither
    if n_nodes > MOST_NODES:
        raise CircuitError(
            f"{source}: its model has {n_nodes:,} heads and MLPs; no model has more than {MOST_NODES:,}."
        )
    if n_roles * n_nodes > MOST_SITES:
        raise CircuitError(f"{source}: its graph has {n_roles:,} roles; no prompt has so many.")


@dataclass(frozen=True)
class Faces:
    """What a circuit is shown as: a networkx graph, a notebook's page, its picture (None where
    there can be none), and one line."""

    networkx: Callable[[Circuit], MultiDiGraph[str]]
    html: Callable[[Circuit], str]
    svg: Callable[[Circuit], str | None]
    line: Callable[[Circuit], str]
