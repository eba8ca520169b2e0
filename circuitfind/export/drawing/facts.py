"""What a circuit's file says of it in a few words: its size, what it was found in and by, how faithful it is.

The blocks of a file may hold anything: a value that is no number is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from circuitfind.circuits.bases import by_node
from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Node
from circuitfind.circuits.intervals import promise


def title(circuit: Circuit) -> str:
    """Task, model and method, as far as they are known."""
    return ", ".join(names(circuit).values()) or "a circuit"


def names(circuit: Circuit) -> dict[str, str]:
    """Those of task, model and method, as far as they are known."""
    blocks = {"task": circuit.task, "model": circuit.model, "method": circuit.method}
    return {key: one_line(block["name"]) for key, block in blocks.items() if block.get("name")}


def facts(circuit: Circuit) -> dict[str, str]:
    """A line each, under a name of one word or two."""
    said = {"size": _size(circuit), "nodes": _nodes(circuit)}
    if circuit.graph.roles:
        said["positions"] = ", ".join(circuit.graph.roles)
    for key, name in (("metric", "metric"), ("ablation", "ablation")):
        if circuit.method.get(key):
            said[name] = one_line(circuit.method[key])
    metrics = circuit.metrics
    faithfulness, interval = number(metrics.get("faithfulness")), metrics.get("faithfulness_interval")
    if faithfulness is not None:
        said["faithfulness"] = f"{faithfulness:.1%}{_interval(interval, circuit.task.get('n_prompts'))}"
    kl, ablated = (number(_block(metrics, name).get("kl")) for name in ("circuit", "ablated"))
    if kl is not None:
        worst = "" if ablated is None else f" (everything ablated: {ablated:.4g})"
        said["KL"] = f"{kl:.4g} nats{worst}"
    return said


def strengths(circuit: Circuit) -> dict[Node, list[float]]:
    """The scores of each node that takes part: of the edges that leave it, or of the neurons that
    it keeps.
    """
    if circuit.neurons is not None:
        return by_node(circuit.neurons)
    found: dict[Node, list[float]] = {node: [] for node in circuit.nodes}
    known: dict[
        int, list[float]
    ] = {}  # by the node's id: edges that were read together share their nodes
    for edge, score in circuit.edges.items():
        scores = known.get(id(edge.sender))
        if scores is None:
            scores = known[id(edge.sender)] = found[edge.sender]
        scores.append(score)
    return found


def number(value: object) -> float | None:
    """The value where it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def one_line(value: object) -> str:
    """A value from a file, without what moves a cursor or breaks a line, and not longer than a line.

    >>> one_line("a\\x1b[31mb")
    'a [31mb'
    """
    text = "".join(letter if letter.isprintable() else " " for letter in str(value))
    return text if len(text) <= 60 else text[:59] + "\u2026"


def _size(circuit: Circuit) -> str:
    if circuit.neurons is not None:
        return f"{len(circuit.neurons):,} of {len(circuit.all_neurons):,} neurons, all edges"
    n_all = circuit.graph.n_edges
    return f"{len(circuit.edges):,} of {n_all:,} edges ({len(circuit.edges) / n_all:.2%})"


def _nodes(circuit: Circuit) -> str:
    nodes = circuit.nodes if circuit.neurons is None else by_node(circuit.neurons)
    return circuit.graph.extent(nodes, ",")


def _block(metrics: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    block = metrics.get(name)
    return block if isinstance(block, dict) else {}


def _interval(interval: object, n_prompts: object) -> str:
    if not isinstance(interval, list) or len(interval) != 2:
        return ""
    low, high = (number(value) for value in interval)
    return (
        "" if low is None or high is None else f" ({promise(0.95, n_prompts)}: {low:.1%} to {high:.1%})"
    )
