"""Known circuits: the published ones, which come along, and circuit files that a user names. No torch.

A paper states heads and MLPs and what they do, so a published circuit is nodes by role. Its
``level`` says what its paper judged: ``heads`` alone (of MLPs it says nothing), or ``nodes``, heads
and MLPs. Of a circuit.json the ``edges`` are known.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from circuitfind.circuits.circuit import FORMAT as CIRCUIT_FORMAT
from circuitfind.circuits.circuit import Circuit, check_size, circuit_of
from circuitfind.circuits.compare import describe_shape
from circuitfind.circuits.graph import Graph, Node
from circuitfind.circuits.kinds import INNER
from circuitfind.circuits.schema import Model
from circuitfind.errors import CircuitError, shown, unknown
from circuitfind.files.json_file import Name, Schema, fit, parse_json, read_text
from circuitfind.files.links import file_in

FORMAT, VERSION = "circuitfind.known", 1
Given = Annotated[str, Meta(min_length=1, max_length=4096, pattern=r"\A[^\x00-\x1f\x7f\u2028-\u202e]*\Z")]
"""A text on one line."""
FOLDER = Path(__file__).parent / "circuits"
Level = Literal["heads", "nodes", "edges"]
KINDS: Mapping[Level, tuple[Literal["head", "mlp"], ...]] = {
    "heads": ("head",),
    "nodes": ("head", "mlp"),
    "edges": ("head", "mlp"),
}
"""Which nodes a known circuit of each level speaks of."""
OTHER_NAMES = {"gpt2-small": "gpt2", "openai-community/gpt2": "gpt2"}
"""Of the models in which circuits were published."""


class NamedModel(Model, frozen=True):
    """The model of a published circuit."""

    name: Given


class Paper(Schema, frozen=True):
    """Where a circuit was published."""

    id: Given
    title: Given


class KnownFile(Schema, frozen=True):
    """A published circuit's file, of version 1."""

    name: Given
    task: Given
    model: NamedModel
    paper: Paper
    level: Literal["heads", "nodes"]
    nodes: dict[str, Annotated[list[Name], Meta(min_length=1)]]


@dataclass(frozen=True)
class KnownCircuit:
    """Heads and MLPs by role; ``circuit`` where the edges are known too. ``paper``: an arXiv id or
    an address.
    """

    name: str
    task: str
    model: str
    graph: Graph
    paper: str
    title: str
    level: Level
    nodes: Mapping[str, tuple[Node, ...]]
    circuit: Circuit | None = None

    @property
    def all_nodes(self) -> tuple[Node, ...]:
        """Those of all roles, in forward order."""
        return tuple(
            sorted(
                (n for nodes in self.nodes.values() for n in nodes),
                key=self.graph.sender_index.__getitem__,
            )
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "task": self.task,
            "model": self.model,
            "n_layers": self.graph.n_layers,
            "n_heads": self.graph.n_heads,
            "parallel_attn_mlp": self.graph.parallel,
            "paper": self.paper,
            "title": self.title,
            "level": self.level,
            "n_nodes": len(self.all_nodes),
            "n_edges": None if self.circuit is None else len(self.circuit.edges),
            "nodes": {role: list(map(str, nodes)) for role, nodes in self.nodes.items()},
        }


def all_known(folder: Path | None = None) -> tuple[KnownCircuit, ...]:
    """The published circuits by name, then those whose files (.json) lie in ``folder``, by path.

    Raises CircuitError for a folder without such files, and for a file that is wrong.
    """
    files = sorted(FOLDER.glob("*.json"))
    if folder is not None:
        own = sorted(file for found in folder.glob("*.json") if (file := file_in(folder, found.name)))
        files += own
        if not own:
            raise CircuitError(f"{folder} holds no circuit files (.json). Give a folder that does.")
    return tuple(load_known(file) for file in files)


def find_known(name: str, folder: Path | None = None) -> KnownCircuit:
    """The known circuit of that name, or that of a path. Raises CircuitError with the nearest name
    if it is neither.
    """
    known = {one.name: one for one in all_known(folder)}
    if name in known:
        return known[name]
    if Path(name).exists():
        return load_known(Path(name))
    raise CircuitError(unknown("known circuit", name, known) + " Or give a circuit.json.")


def published_for(circuit: Circuit) -> KnownCircuit | None:
    """The published circuit of the same task in the same model, if there is one: a model of its
    shape alone has other heads."""
    task, model = circuit.task.get("name"), str(circuit.model.get("name"))
    named = OTHER_NAMES.get(model, model)
    fitting = (k for k in all_known() if (k.task, k.model, k.graph) == (task, named, circuit.graph.base))
    return next(fitting, None)


def choose_known(circuit: Circuit, known: Collection[KnownCircuit]) -> KnownCircuit:
    """The one of the circuit's task in a model of its shape. Raises CircuitError where there is
    none or several.
    """
    task = circuit.task.get("name")
    fitting = [one for one in known if one.graph == circuit.graph and one.task == task]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(one.name for one in fitting or known)
    number = f"{len(fitting)} known circuits are" if fitting else "No known circuit is"
    raise CircuitError(
        f"{number} of the task {shown(task)} in a model of {describe_shape(circuit.graph)}. Name one:"
        f" {names}."
    )


def load_known(path: Path) -> KnownCircuit:
    """The known circuit in a file: a published one's, a circuit.json or a run folder. Raises CircuitError."""
    if path.is_dir():
        return _established(Circuit.load(path), path)
    data = parse_json(read_text(path), str(path))
    if isinstance(data, dict) and data.get("format") == CIRCUIT_FORMAT:
        return _established(circuit_of(data, str(path)), path)
    return _published(data, str(path))


def _established(circuit: Circuit, path: Path) -> KnownCircuit:
    """A circuit whose edges are known; its name is where it lies."""
    roles = {
        f"{kind.noun}s": tuple(node for node in circuit.nodes if node.kind == kind.name) for kind in INNER
    }
    return KnownCircuit(
        name=str(path),
        task=str(circuit.task.get("name", "")),
        model=str(circuit.model.get("name", "")),
        graph=circuit.graph,
        paper="",
        title=f"found with {circuit.method.get('name', 'an unknown method')}",
        level="edges",
        nodes={title: nodes for title, nodes in roles.items() if nodes},
        circuit=circuit,
    )


def _published(data: Any, source: str) -> KnownCircuit:
    """What a published circuit's file says. Raises CircuitError naming ``source`` and what is wrong
    with it.
    """
    if not isinstance(data, dict) or data.get("format") != FORMAT or data.get("version") != VERSION:
        raise CircuitError(
            f'{source} is no known circuit: it lacks "format": "{FORMAT}", "version": {VERSION}. '
            "Give a circuit.json or a run folder."
        )
    file = fit(data, KnownFile, source)
    model, paper = file.model, file.paper
    check_size(model.n_layers, model.n_heads, source)
    graph = Graph(model.n_layers, model.n_heads, model.parallel_attn_mlp)
    try:
        nodes = {role: tuple(map(Node.parse, names)) for role, names in file.nodes.items()}
    except CircuitError as error:
        raise CircuitError(f"{source}: {error}") from None
    _check_nodes(nodes, graph, file.level, source)
    return KnownCircuit(file.name, file.task, model.name, graph, paper.id, paper.title, file.level, nodes)


def _check_nodes(nodes: Mapping[str, tuple[Node, ...]], graph: Graph, level: Level, source: str) -> None:
    """Raises CircuitError for no nodes, one in two roles, and one that the level or the model does
    not have.
    """
    seen: set[Node] = set()
    for node in (node for of_role in nodes.values() for node in of_role):
        if node in seen:
            raise CircuitError(f"{source}: '{node}' stands in it twice.")
        if node.kind not in KINDS[level] or node not in graph.sender_index:
            raise CircuitError(
                f"{source}: '{node}' is none of the {level} of a model of {describe_shape(graph)}."
            )
        seen.add(node)
    if not seen:
        raise CircuitError(f"{source} names no nodes.")
