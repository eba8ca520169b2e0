"""From a Subject to what its page shows: the strongest edges, the evidence, the prompts, a known
circuit beside it.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from circuitfind.circuits.bases import by_node
from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Node
from circuitfind.circuits.intervals import promise
from circuitfind.export.drawing.subject import Subject
from circuitfind.export.html.beside import compare, roles_of
from circuitfind.export.html.data import Neurons, Observations, Page, Pattern, Prompt
from circuitfind.export.html.folder import RunFolder, pick
from circuitfind.known import KnownCircuit, published_for

MOST_NEURONS = 5000
PATTERN_BUDGET = 1_600_000
"""Characters of the page for attention patterns: with 2,000 edges it stays below 3 MB."""
METRICS = {
    "kl": "KL to the model, nats",
    "logit-diff": "logit difference",
    "prob-diff": "probability difference",
    "loss": "loss, nats",
    "accuracy": "accuracy",
}
RUNS = ("full", "circuit", "ablated")


def gather(subject: Subject) -> Page:
    """What the page of the subject shows. Raises CircuitError for a known circuit of another shape."""
    circuit, folder = subject.circuit, RunFolder.of(subject.circuit, subject.folder)
    edges = strongest(circuit, subject.look.most_edges)
    known = published_for(circuit) if subject.known is None else subject.known
    nodes = _nodes(circuit, edges, known)
    observed, dropped = fit_budget(subject.observations, nodes, edges)
    prompts, n_prompts = _prompts(circuit, folder, observed)
    return Page(
        title=_title(circuit),
        subtitle=_subtitle(circuit),
        graph={
            "layers": circuit.graph.n_layers,
            "parallel": circuit.graph.parallel,
            "roles": circuit.graph.roles,
        },
        nodes=nodes,
        edges=edges,
        roles=roles_of(known),
        n_edges=len(circuit.edges),
        level=_level(circuit),
        summary=_summary(circuit, folder),
        evidence=_evidence(circuit),
        method=_method(circuit),
        notes=_notes(subject, folder, observed, dropped, len(prompts), n_prompts),
        prompts=prompts,
        **_sureness(circuit, folder, edges),
        observations=observed,
        curve=folder.curve() or (None if observed is None else observed.curve),
        point=_point(circuit),
        sweep=tuple(folder.sweep()),
        known=None if known is None else compare(circuit, known, folder),
    )


def _prompts(
    circuit: Circuit, folder: RunFolder, observed: Observations | None
) -> tuple[tuple[Prompt, ...], int]:
    """Those that were run, else the folder's; and how many the run had."""
    prompts, n_prompts = folder.prompts()
    if observed is None:
        return tuple(prompts), n_prompts
    return observed.prompts, max(n_prompts, circuit.task.get("n_prompts") or 0)


def _sureness(circuit: Circuit, folder: RunFolder, edges: Sequence[tuple[Edge, float]]) -> dict[str, Any]:
    """How sure edges or neurons are, where there was a bootstrap; and the neurons, where there are some."""
    found = folder.sureness()
    level = None if found is None else folder.record.get("bootstrap", {}).get("level")
    if circuit.neurons is not None:
        return {"sureness_level": level, "neurons": _neurons(circuit, found)}
    of_edges = () if found is None else tuple(pick(found, circuit.graph.order(edge)) for edge, _ in edges)
    return {"sureness_level": level, "sureness": of_edges}


def strongest(circuit: Circuit, most: int) -> tuple[tuple[Edge, float], ...]:
    """The ``most`` edges with the largest |score|, the strongest first; of equal ones the first in
    graph order.
    """
    return tuple(heapq.nlargest(most, circuit.edges.items(), key=lambda item: abs(item[1])))


def what_was_cut(subject: Subject) -> tuple[str, ...]:
    """What a user should know of the page: that it shows less than there is."""
    circuit, most = subject.circuit, subject.look.most_edges
    cut = []
    if len(circuit.edges) > most:
        cut.append(
            f"the circuit has {len(circuit.edges):,} edges; the page has the {most:,} strongest by |score|."
        )
    if circuit.neurons is not None and len(circuit.neurons) > MOST_NEURONS:
        cut.append(
            f"the circuit has {len(circuit.neurons):,} neurons; the page has the {MOST_NEURONS:,} strongest."
        )
    return tuple(cut)


def _notes(
    subject: Subject,
    folder: RunFolder,
    observed: Observations | None,
    dropped: int,
    n_shown: int,
    n_prompts: int,
) -> tuple[str, ...]:
    """Everything that the reader of the page should know first, each once."""
    notes = [*what_was_cut(subject), *folder.warnings, *(observed.warnings if observed else ())]
    if dropped:
        notes.append(
            f"attention patterns of the {dropped:,} weakest heads are left out: a page has room for so many."
        )
    if n_shown < n_prompts and n_shown:
        notes.append(f"the run had {n_prompts:,} prompts; the page has the first {n_shown:,}.")
    return tuple(dict.fromkeys(note[:1].upper() + note[1:] for note in notes))


def _title(circuit: Circuit) -> str:
    return (
        f"{circuit.task.get('name') or 'a circuit'} in {circuit.model.get('name') or 'an unnamed model'}"
    )


def _subtitle(circuit: Circuit) -> str:
    share = f"{len(circuit.edges) / circuit.graph.n_edges:.2%}"
    if circuit.neurons is not None:
        return f"{circuit.size} of {len(circuit.all_neurons):,}"
    return f"{circuit.size} of {circuit.graph.n_edges:,} ({share})"


def _level(circuit: Circuit) -> str:
    return "neuron" if circuit.neurons is not None else str(circuit.method.get("level") or "edge")


def _nodes(
    circuit: Circuit, edges: Sequence[tuple[Edge, float]], known: KnownCircuit | None
) -> tuple[Node, ...]:
    """What the page speaks of, in forward order: the nodes of its edges and those that are known;
    always both ends.
    """
    ends = {node for edge, _ in edges for node in (edge.sender, edge.receiver.node)}
    of_known = () if known is None else known.all_nodes
    spoken = {Node("input"), Node("logits"), *ends, *of_known, *by_node(circuit.neurons or {})}
    return tuple(node for node in (*circuit.graph.senders, Node("logits")) if node in spoken)


def _summary(circuit: Circuit, folder: RunFolder) -> tuple[tuple[str, str], ...]:
    """The circuit in a few numbers."""
    metrics = circuit.metrics
    rows = [
        ("Size", _subtitle(circuit)),
        ("Nodes", circuit.graph.extent(circuit.nodes)),
    ]
    share, interval = metrics.get("faithfulness"), metrics.get("faithfulness_interval")
    if isinstance(share, float | int):
        sure = promise(0.95, circuit.task.get("n_prompts"))
        said = f" ({sure}: {interval[0]:z.0%} to {interval[1]:z.0%})" if interval else ""
        rows.append(("Faithfulness", f"{share:z.1%}{said}".replace("-", "−")))
    if boot := folder.record.get("bootstrap"):
        rows.append(
            ("Bootstrap", f"{boot['resamples']:,} resamples; two circuits share {boot['jaccard']:.0%}")
        )
    return tuple(rows)


def _evidence(circuit: Circuit) -> tuple[tuple[str, ...], ...]:
    """A row for each metric: its mean in the full model, the circuit and with everything ablated."""
    runs = [circuit.metrics.get(run) for run in RUNS]
    if not all(isinstance(run, dict) for run in runs):
        return ()
    names = dict.fromkeys(name for run in runs if run for name in run)
    return tuple(
        (METRICS.get(name, name), *(_show(run.get(name), name) for run in runs if run)) for name in names
    )


def _show(value: object, name: str) -> str:
    if not isinstance(value, float | int):
        return "–"
    return (f"{value:.0%}" if name == "accuracy" else f"{value:.3g}").replace("-", "−")


def _method(circuit: Circuit) -> tuple[tuple[str, str], ...]:
    """How it was found: the circuit file's blocks, but for what they hold of other blocks."""
    method, task, model = circuit.method, circuit.task, circuit.model
    rows = [("task", task.get("name")), ("prompts", task.get("n_prompts")), ("seed", task.get("seed"))]
    rows += [("model", model.get("name")), ("architecture", model.get("architecture"))]
    rows += [("method" if key == "name" else key, value) for key, value in method.items()]
    rows.append(("weights, sha256", str(model.get("sha256") or "")[:16]))
    return tuple((key, _spell(value)) for key, value in rows if value not in (None, ""))


def _spell(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_spell(inner)}" for key, inner in value.items())
    return ", ".join(map(_spell, value)) if isinstance(value, list | tuple) else str(value)


def _neurons(circuit: Circuit, found: Mapping[str, np.ndarray] | None) -> Neurons:
    """The strongest neurons, and how sure they are."""
    known, every = circuit.all_neurons, circuit.neurons or {}
    ordered = sorted(every.items(), key=lambda item: -abs(item[1]))[:MOST_NEURONS]
    return Neurons(
        nodes=tuple(neuron.node for neuron, _ in ordered),
        indices=tuple(neuron.index for neuron, _ in ordered),
        scores=tuple(score for _, score in ordered),
        widths={node: known.width(node) for node in by_node(every)},
        sureness=()
        if found is None
        else tuple(pick(found, (known.place(neuron),)) for neuron, _ in ordered),
    )


def _point(circuit: Circuit) -> dict[str, Any] | None:
    """The circuit itself among those of other sizes."""
    metrics = circuit.metrics
    if circuit.neurons is not None or not isinstance(metrics.get("circuit"), Mapping):
        return None
    shares = metrics.get("faithfulness_by_metric", {})
    return {
        "edges": len(circuit.edges),
        "faithfulness": metrics.get("faithfulness"),
        "interval": metrics.get("faithfulness_interval"),
        "kl": metrics["circuit"].get("kl"),
        "metric": "logit-diff" if shares.get("logit-diff") is not None else "kl",
    }


def fit_budget(
    observed: Observations | None, nodes: Sequence[Node], edges: Sequence[tuple[Edge, float]]
) -> tuple[Observations | None, int]:
    """The observations with as many heads' patterns as there is room for, the strongest heads'; how
    many are left out.

    A head is as strong as the sum of the |scores| of the edges at it.
    """
    if observed is None:
        return None, 0
    strength = dict.fromkeys(observed.patterns, 0.0)
    for edge, score in edges:
        for node in (edge.sender, edge.receiver.node):
            if node in strength:
                strength[node] += abs(score)
    room, kept = PATTERN_BUDGET, dict[Node, tuple[Pattern, ...]]()
    shown = [node for node in strength if node in set(nodes)]
    for node in sorted(shown, key=lambda node: -strength[node]):
        room -= sum(pattern.size for pattern in observed.patterns[node])
        if room < 0:
            break
        kept[node] = observed.patterns[node]
    return replace(observed, patterns={node: kept[node] for node in nodes if node in kept}), len(
        shown
    ) - len(kept)
