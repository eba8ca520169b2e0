"""report.md: what was asked, what was found, and the evidence for it, on one page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import networkx

from circuitfind.circuits.bases import Neuron, by_node
from circuitfind.circuits.bootstrap import Uncertainty
from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Node, Receiver
from circuitfind.circuits.intervals import promise
from circuitfind.circuits.kinds import INNER, KINDS
from circuitfind.circuits.reach import served_roles
from circuitfind.evaluation.performance import Evaluation, Performance
from circuitfind.methods.neuron_circuit import NeuronOutcome
from circuitfind.methods.options import spell_candidates
from circuitfind.methods.outcome import Found
from circuitfind.methods.scored import Scored
from circuitfind.prompts.pairs import PromptPair
from circuitfind.runs.memory import gigabytes
from circuitfind.runs.warnings import EMPTY, N_STRONGEST, NO_NEURON, _runs


@dataclass(frozen=True)
class Evidence:
    """All that a report is written from."""

    circuit: Circuit
    evaluation: Evaluation
    example: PromptPair
    record: dict[str, Any]
    pictures: Sequence[str]
    outcome: Found | Scored | NeuronOutcome | None = None


def on_paths(circuit: Circuit) -> int:
    """How many edges lie on a path of kept edges from the input to the logits; at roles, over nodes
    at roles.
    """
    graph: networkx.DiGraph[object] = networkx.DiGraph()
    roles = circuit.graph.roles or (None,)
    sources, logits = [Node("input").at(role) for role in roles], Node("logits").at(roles[-1])
    graph.add_nodes_from((*sources, logits))
    for edge in circuit.edges:
        graph.add_edge(edge.sender.at(circuit.graph.role_of(edge.receiver)), edge.receiver)
        served = served_roles(circuit.graph, edge.receiver)
        graph.add_edges_from((edge.receiver, edge.receiver.node.at(role)) for role in served)
    fed = set(sources).union(*(networkx.descendants(graph, source) for source in sources))
    between = fed & (networkx.ancestors(graph, logits) | {logits})
    return sum(
        edge.sender.at(circuit.graph.role_of(edge.receiver)) in between and edge.receiver in between
        for edge in circuit.edges
    )


def summary(circuit: Circuit, evaluation: Evaluation, found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The circuit in a few lines: what, and how much. ``found``: what run.json says of how it came about."""
    faithfulness = evaluation.faithfulness("logit-diff")
    lines = [
        _extent(circuit),
        ("nodes", circuit.graph.extent(circuit.nodes)),
        (
            "KL(full || circuit)",
            (
                f"{show(evaluation.circuit.mean('kl'))} nats (everything ablated:"
                f" {show(evaluation.ablated.mean('kl'))})"
            ),
        ),
        (
            "accuracy",
            " / ".join(f"{run.mean('accuracy'):.0%}" for run in _runs(evaluation))
            + "  (full / circuit / ablated)",
        ),
    ]
    if faithfulness is not None:
        lines.append(
            (
                "logit diff",
                " / ".join(show(run.mean("logit-diff")) for run in _runs(evaluation))
                + "  (full / circuit / ablated)",
            )
        )
        lines.append(("faithfulness", f"{faithfulness:.1%} of the logit difference"))
    if "candidates" in found:
        lines.append(("candidates", _candidates(circuit, found["candidates"])))
    lines += [(name, _own_line(evaluation, name)) for name in evaluation.full.own]
    if "bootstrap" in found:
        said = found["bootstrap"]
        lines.append(
            (
                f"{said['resamples']:,} resamples",
                (
                    f"two share {said['jaccard']:.0%} of their {parts_of(circuit)}; "
                    f"consensus circuit of {said['n_consensus']:,}"
                ),
            )
        )
    return lines


def _candidates(circuit: Circuit, said: Mapping[str, Any]) -> str:
    """What was left to be tested, and what that does by itself."""
    share = said["faithfulness_by_metric"].get(circuit.method["metric"])
    shown = "" if share is None else f", faithfulness ({circuit.method['metric']}) {share:z.1%}"
    return (
        f"{said['kept']:,} after pruning, of {said['asked']:,} by"
        f" {circuit.method['candidates']['method']['name']}; alone KL {show(said['metrics']['kl'])}"
        f" nats{shown}"
    )


def options_line(method: Mapping[str, Any]) -> str:
    """The options in the block ``method`` of a circuit file, on one line."""
    spelled = (
        {**method, "candidates": spell_candidates(method.get("candidates"))}
        if "candidates" in method
        else method
    )
    return ", ".join(f"{key} {value}" for key, value in spelled.items() if key != "name")


def parts_of(circuit: Circuit) -> str:
    """What the circuit is made of."""
    if circuit.neurons is not None:
        return "neurons"
    return "nodes" if circuit.method.get("level") == "node" else "edges"


def _extent(circuit: Circuit) -> tuple[str, str]:
    """How much of the model it is."""
    if circuit.neurons is not None:
        n_all, n_kept = len(circuit.all_neurons), len(circuit.neurons)
        counts = Counter(neuron.node.kind for neuron in circuit.neurons)
        shares = ", ".join(f"{counts[kind.name]:,} in {kind.noun}s" for kind in INNER)
        return "neurons", f"{n_kept:,} of {n_all:,} ({n_kept / n_all:.2%}): {shares}; all edges are kept"
    n_edges, n_all = len(circuit.edges), circuit.graph.n_edges
    on_path = f"{on_paths(circuit):,} on a path from input to logits"
    return "edges", f"{n_edges:,} of {n_all:,} ({n_edges / n_all:.2%}), {on_path}"


def _own_line(evaluation: Evaluation, name: str) -> str:
    """What the three runs reach in a metric of the task's own, and the circuit's share of it."""
    faithfulness = evaluation.faithfulness(name)
    share = "" if faithfulness is None else f", faithfulness {faithfulness:.1%}"
    return (
        " / ".join(show(run.mean(name)) for run in _runs(evaluation))
        + f"  (full / circuit / ablated){share}"
    )


def report(evidence: Evidence) -> str:
    """The page, in Markdown."""
    circuit, record = evidence.circuit, evidence.record
    outcome = evidence.outcome
    uncertainty = outcome.uncertainty if isinstance(outcome, Scored | NeuronOutcome) else None
    sections = [
        f"# {circuit.task['name']} in {circuit.model['name']}: a circuit of {circuit.size}",
        _picture(evidence.pictures),
        markdown_table(("", ""), summary(circuit, evidence.evaluation, record)),
        *_warnings(record["warnings"]),
        "## Evidence",
        _evidence(evidence.evaluation),
        f"## The strongest {parts_of(circuit)}",
        _strongest(circuit, uncertainty),
        *_by_node(circuit),
        *_by_role(circuit),
        *_sureness(circuit, record, uncertainty),
        "## The prompts",
        _prompts(circuit, evidence.example),
        "## How it was found",
        _how(circuit, record),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def show(value: float | None) -> str:
    """A number to four digits; a dash where there is none."""
    return "-" if value is None else f"{value:.4g}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, one line a row."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def _picture(pictures: Sequence[str]) -> str:
    image = next((name for name in pictures if name.endswith((".svg", ".png"))), None)
    return f"![The circuit]({image})" if image else ""


def _warnings(warnings: Sequence[str]) -> list[str]:
    return ["\n".join(f"> **Warning:** {warning}" for warning in warnings)] if warnings else []


def _evidence(evaluation: Evaluation) -> str:
    names = {
        "kl": "KL(full || run), nats",
        "logit-diff": "logit diff",
        "prob-diff": "prob diff",
        "loss": "loss, nats",
        "accuracy": "accuracy",
    } | {name: name for name in evaluation.full.own}
    rows = [
        (
            label,
            *(show(run.mean(name)) for run in _runs(evaluation)),
            show(_worst(evaluation.circuit, name)),
        )
        for name, label in names.items()
    ]
    head = ("mean over prompts", "full model", "circuit", "everything ablated", "circuit, worst prompt")
    return markdown_table(head, rows)


def _worst(run: Performance, name: str) -> float | None:
    """The least favourable prompt's value."""
    if run.mean(name) is None:
        return None
    return (max if name in ("kl", "loss") else min)(run.values[name])


def _strongest(circuit: Circuit, uncertainty: Uncertainty | None) -> str:
    scores: Mapping[Edge, float] | Mapping[Neuron, float] = circuit.edges
    if circuit.neurons is not None:
        scores = circuit.neurons
    if not scores:
        return nothing_kept(circuit)
    if circuit.method.get("level") == "node":
        return _strongest_nodes(circuit, uncertainty)
    every: list[tuple[Edge | Neuron, float]] = list(scores.items())
    strongest = sorted(every, key=lambda item: -abs(item[1]))[:N_STRONGEST]  # of equal ones the first
    if uncertainty is None:
        rows = [(f"`{part}`", show(score)) for part, score in strongest]
        return markdown_table((parts_of(circuit)[:-1], "score"), rows)
    sure = [
        (f"`{part}`", show(score), *_interval(uncertainty, _place(circuit, part)))
        for part, score in strongest
    ]
    return markdown_table((parts_of(circuit)[:-1], "score", "confidence interval", "inclusion"), sure)


def nothing_kept(circuit: Circuit) -> str:
    """What to tell of a circuit without edges or neurons."""
    if circuit.neurons is not None:
        return NO_NEURON
    has_candidates = circuit.method.get("candidates", {}).get("kept", 1) > 0
    return EMPTY["threshold" in circuit.method and has_candidates]


def _place(circuit: Circuit, part: Edge | Neuron) -> tuple[int, int]:
    """Where an edge or a neuron stands in what a bootstrap found."""
    return circuit.graph.order(part) if isinstance(part, Edge) else (0, circuit.all_neurons.place(part))


def _by_node(circuit: Circuit) -> list[str]:
    """How many neurons each node keeps, the node with the largest scores first."""
    if not circuit.neurons:
        return []
    known, kept = circuit.all_neurons, by_node(circuit.neurons)
    ordered = sorted(kept.items(), key=lambda item: -sum(map(abs, item[1])))
    rows = [
        (
            f"`{node}`",
            f"{len(scores):,} of {known.width(node):,}",
            show(sum(scores)),
            show(max(scores, key=abs)),
        )
        for node, scores in ordered
    ]
    return [
        "## Neurons by node",
        markdown_table(("node", "kept", "sum of their scores", "the largest"), rows),
    ]


def _strongest_nodes(circuit: Circuit, uncertainty: Uncertainty | None) -> str:
    """Of a circuit of nodes: each has the score of all edges that leave it, of which that into the
    logits is kept.
    """
    order, logits = circuit.graph.order, Receiver(Node("logits"))
    scores = {edge: score for edge, score in circuit.edges.items() if edge.receiver == logits}
    strongest = sorted(scores.items(), key=lambda item: (-abs(item[1]), order(item[0])))[:N_STRONGEST]
    rows = [(f"`{edge.sender}`", show(score)) for edge, score in strongest]
    if uncertainty is None:
        return markdown_table(("node", "score"), rows)
    sure = [
        (*row, *_interval(uncertainty, order(edge)))
        for row, (edge, _) in zip(rows, strongest, strict=True)
    ]
    return markdown_table(("node", "score", "confidence interval", "inclusion"), sure)


def _by_role(circuit: Circuit) -> list[str]:
    """How many edges are read at each role, and at which inputs, where positions are told apart."""
    graph = circuit.graph
    if not graph.roles:
        return []
    kinds = [slot or kind.name for kind in KINDS.values() for slot in kind.slots]
    counts = Counter((graph.role_of(edge.receiver), _kind(edge)) for edge in circuit.edges)
    rows = []
    for role in graph.roles:
        each = [counts[role, kind] for kind in kinds]
        rows.append((role, *(f"{count:,}" for count in (sum(each), *each))))
    return [
        "## The edges by role",
        markdown_table(("read at", "edges", "into q", "k", "v", "MLPs", "logits"), rows),
    ]


def _kind(edge: Edge) -> str:
    """What the edge leads into: q, k, v, mlp or logits."""
    return edge.receiver.slot or edge.receiver.node.kind


def _interval(uncertainty: Uncertainty, place: tuple[int, int]) -> tuple[str, str]:
    lower, upper = float(uncertainty.lower[place]), float(uncertainty.upper[place])
    return f"{show(lower)} to {show(upper)}", f"{float(uncertainty.inclusion[place]):.0%}"


def _sureness(circuit: Circuit, record: dict[str, Any], uncertainty: Uncertainty | None) -> list[str]:
    """What other prompts of the same kind would have changed, as a bootstrap tells it."""
    if uncertainty is None:
        return []
    said = record["bootstrap"]
    places = [
        _place(circuit, part) for part in (circuit.edges if circuit.neurons is None else circuit.neurons)
    ]
    inclusions = [float(uncertainty.inclusion[place]) for place in places]
    parts = "edges" if circuit.neurons is None else "neurons"
    n_prompts = circuit.task.get("n_prompts")
    n_sure = sum(inclusion >= said["bar"] for inclusion in inclusions)
    rows = [
        ("resamples", f"{said['resamples']:,} of the prompts, with replacement, seed {said['seed']}"),
        ("two resampled circuits share", f"{said['jaccard']:.0%} of their {parts} (mean Jaccard)"),
        (f"{parts} in {said['bar']:.0%} of them or more", f"{n_sure:,} of the circuit's {len(places):,}"),
        ("consensus circuit", f"{said['n_consensus']:,} {parts}, in `consensus.json`"),
        ("intervals", f"{promise(said['level'], n_prompts)}; all are in `bootstrap.safetensors`"),
    ]
    return ["## How sure it is", markdown_table(("", ""), rows)]


def _prompts(circuit: Circuit, example: PromptPair) -> str:
    rows = [(field, f"`{_one_line(value)}`") for field, value in _fields(example)]
    n, seed = circuit.task["n_prompts"], circuit.task["seed"]
    return f"{n} pairs, seed {seed}; all are in `prompts.jsonl`. The first:\n\n" + markdown_table(
        ("", ""), rows
    )


def _fields(pair: PromptPair) -> list[tuple[str, str]]:
    answers = [", ".join(repr(text) for text in texts) for texts in (pair.answers, pair.wrong_answers)]
    fields = [
        ("clean", pair.clean),
        ("corrupted", pair.corrupted),
        ("answers", answers[0]),
        ("wrong answers", answers[1]),
    ]
    roles = ", ".join(f"{role.name} {pair.clean[role.start : role.end]!r}" for role in pair.roles)
    return [*fields, ("roles", roles)] if roles else fields


def _one_line(text: str) -> str:
    return text.replace("\n", "\\n").replace("`", "'")


def _count(record: dict[str, Any], parts: str) -> tuple[str, str]:
    """How many edges were tested, and for how many rounding decided; or how many were chosen by
    their scores.
    """
    if "selection" in record:
        selection = record["selection"]
        if parts == "neurons":
            return parts, f"{selection['nominal']:,} chosen; none is pruned"
        of = selection.get("units", "edges")
        edges = "" if of == "edges" else "edges "
        return of, f"{selection['nominal']:,} chosen, {selection['kept']:,} {edges}left after pruning"
    search = record["search"]
    return (
        "tests",
        (
            f"{search['tested']:,} tested, {search['computed']:,} computed, {search['taken_over']:,} taken"
            f" over, {search['n_undecidable']:,} undecidable"
        ),
    )


def _constants(record: dict[str, Any]) -> list[tuple[str, str]]:
    """How much less the learned constants of optimal ablation spoil than the means, where there are such."""
    if "constants" not in record:
        return []
    said = record["constants"]
    text = f"{show(said['loss'])} nats under random masks, the means {show(said['loss_of_means'])}"
    return [("learned constants", text)]


def _how(circuit: Circuit, record: dict[str, Any]) -> str:
    timings = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in record["timings"].items())
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    rows = [
        ("method", f"{circuit.method['name']} ({options_line(circuit.method)})"),
        _count(record, parts_of(circuit)),
        *_constants(record),
        (
            "model",
            (
                f"{circuit.model['name']} ({circuit.model['architecture']}), sha256"
                f" `{circuit.model['sha256'][:16]}`"
            ),
        ),
        ("differs from TransformerLens by", f"{record['model_difference']:.1e} relative at the most"),
        ("wall time", timings),
        ("peak memory", gigabytes(record["peak_memory_bytes"])),
        ("versions", versions),
    ]
    return markdown_table(("", ""), rows)
