"""report.md: what was asked, what was found, and the evidence for it, on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import networkx

from circuitfind.circuit import Circuit
from circuitfind.evaluation.performance import Evaluation, Performance
from circuitfind.graph import Edge, Node
from circuitfind.memory import gigabytes
from circuitfind.methods.found import Found
from circuitfind.methods.scored import Scored
from circuitfind.prompts import PromptPair
from circuitfind.uncertainty import Uncertainty

FAILS_BELOW = 0.75
OVER_RECOVERS, NO_BETTER_THAN_NOTHING = 1.2, 0.1
N_STRONGEST, N_NAMED = 10, 3
EMPTY = {
    True: "No edge was kept: the threshold is above what any edge carries. Lower it.",
    False: "No edge was kept: none of those chosen lies on a path from the input to the logits. Ask for more edges.",
}
"""What to tell of a circuit without edges, by whether a threshold made it."""


@dataclass(frozen=True)
class Evidence:
    """All that a report is written from."""

    circuit: Circuit
    evaluation: Evaluation
    example: PromptPair
    record: dict[str, Any]
    pictures: Sequence[str]
    outcome: Found | Scored | None = None


def task_line(performance: Performance) -> str:
    """How well the full model does the task, in one line."""
    accuracy, difference = performance.mean("accuracy"), performance.mean("logit-diff")
    shown = "" if difference is None else f", logit diff {difference:.2f}"
    return f"accuracy {accuracy:.0%}{shown}, loss {performance.mean('loss'):.2f} nats"


def task_warning(performance: Performance) -> str | None:
    """What to tell a user whose model fails the task; None where it does it."""
    accuracy, difference = performance.mean("accuracy"), performance.mean("logit-diff")
    if (accuracy or 0.0) >= FAILS_BELOW and (difference is None or difference > 0):
        return None
    return (
        f"the full model fails this task ({task_line(performance)}): "
        "a circuit found for it explains no working behaviour. Take another model or other prompts."
    )


def recovery_warning(evaluation: Evaluation, is_search: bool = True) -> str | None:
    """What to tell a user whose circuit does better than the full model, or no better than none; else None.

    The bounds are on the faithfulness of the logit difference: OVER_RECOVERS and NO_BETTER_THAN_NOTHING. ``is_search``:
    it comes from a search, not from a number of edges that was asked for.
    """
    faithfulness = evaluation.faithfulness("logit-diff")
    if faithfulness is None or NO_BETTER_THAN_NOTHING < faithfulness <= OVER_RECOVERS:
        return None
    share = f"its faithfulness (logit difference) is {faithfulness:.0%}"
    if faithfulness > OVER_RECOVERS:
        remedy = "Use --metric kl, or --objective match." if is_search else "Keep more edges, or another method's."
        return f"the circuit over-recovers: {share}, because what speaks against the answer was removed too. {remedy}"
    remedy = "Lower --threshold to keep more of it." if is_search else "Keep more edges."
    return f"the circuit does hardly more than the fully ablated model: {share}. {remedy}"


def rounding_warning(near: Sequence[Edge], threshold: float, margin: float) -> str | None:
    """What to tell a user of tests that came out within ``margin`` of the threshold; None where none did."""
    if not near:
        return None
    shown = ", ".join(map(str, near[:N_NAMED])) + (", ..." if len(near) > N_NAMED else "")
    return (
        f"{len(near):,} of the tests came out within {margin:g} of the threshold {threshold:g}, where rounding decides "
        f"({shown}; all are in run.json). Another threshold, or --dtype float64, tells the sides apart."
    )


def on_paths(circuit: Circuit) -> int:
    """How many edges lie on a path of kept edges from the input to the logits."""
    graph: networkx.DiGraph[object] = networkx.DiGraph()
    graph.add_edges_from((edge.sender, edge.receiver.node) for edge in circuit.edges)
    graph.add_nodes_from((Node("input"), Node("logits")))
    between = networkx.descendants(graph, Node("input")) & networkx.ancestors(graph, Node("logits"))
    between |= {Node("input"), Node("logits")}
    return sum(edge.sender in between and edge.receiver.node in between for edge in circuit.edges)


def summary(circuit: Circuit, evaluation: Evaluation, found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The circuit in a few lines: what, and how much. ``found``: what run.json says of how it came about."""
    faithfulness = evaluation.faithfulness("logit-diff")
    graph, heads = circuit.graph, [node for node in circuit.nodes if node.kind == "head"]
    mlps = [node for node in circuit.nodes if node.kind == "mlp"]
    lines = [
        (
            "edges",
            f"{len(circuit.edges):,} of {graph.n_edges:,} ({len(circuit.edges) / graph.n_edges:.2%}), "
            f"{on_paths(circuit):,} on a path from input to logits",
        ),
        ("nodes", f"{len(heads)} of {graph.n_layers * graph.n_heads} heads, {len(mlps)} of {graph.n_layers} MLPs"),
        (
            "KL(full || circuit)",
            f"{show(evaluation.circuit.mean('kl'))} nats (everything ablated: {show(evaluation.ablated.mean('kl'))})",
        ),
        (
            "accuracy",
            " / ".join(f"{run.mean('accuracy'):.0%}" for run in _runs(evaluation)) + "  (full / circuit / ablated)",
        ),
    ]
    if faithfulness is not None:
        lines.append(
            (
                "logit diff",
                " / ".join(show(run.mean("logit-diff")) for run in _runs(evaluation)) + "  (full / circuit / ablated)",
            )
        )
        lines.append(("faithfulness", f"{faithfulness:.1%} of the logit difference"))
    lines += [(name, _own_line(evaluation, name)) for name in evaluation.full.own]
    if "bootstrap" in found:
        said = found["bootstrap"]
        lines.append(
            (
                f"{said['resamples']:,} resamples",
                f"two share {said['jaccard']:.0%} of their edges; consensus circuit of {said['n_consensus']:,}",
            )
        )
    return lines


def _own_line(evaluation: Evaluation, name: str) -> str:
    """What the three runs reach in a metric of the task's own, and the circuit's share of it."""
    faithfulness = evaluation.faithfulness(name)
    share = "" if faithfulness is None else f", faithfulness {faithfulness:.1%}"
    return " / ".join(show(run.mean(name)) for run in _runs(evaluation)) + f"  (full / circuit / ablated){share}"


def report(evidence: Evidence) -> str:
    """The page, in Markdown."""
    circuit, record = evidence.circuit, evidence.record
    uncertainty = evidence.outcome.uncertainty if isinstance(evidence.outcome, Scored) else None
    sections = [
        f"# {circuit.task['name']} in {circuit.model['name']}: a circuit of {len(circuit.edges):,} edges",
        _picture(evidence.pictures),
        markdown_table(("", ""), summary(circuit, evidence.evaluation, record)),
        *_warnings(record["warnings"]),
        "## Evidence",
        _evidence(evidence.evaluation),
        "## The strongest edges",
        _strongest(circuit, uncertainty),
        *_sureness(circuit, record, uncertainty),
        "## The prompts",
        _prompts(circuit, evidence.example),
        "## How it was found",
        _how(circuit, record),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _runs(evaluation: Evaluation) -> tuple[Performance, ...]:
    return evaluation.full, evaluation.circuit, evaluation.ablated


def show(value: float | None) -> str:
    """A number to four digits; a dash where there is none."""
    return "-" if value is None else f"{value:.4g}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, one line a row."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


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
        (label, *(show(run.mean(name)) for run in _runs(evaluation)), show(_worst(evaluation.circuit, name)))
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
    if not circuit.edges:
        return EMPTY["threshold" in circuit.method]
    strongest = sorted(circuit.edges.items(), key=lambda item: (-abs(item[1]), circuit.graph.order(item[0])))
    if uncertainty is None:
        rows = [(f"`{edge}`", show(score)) for edge, score in strongest[:N_STRONGEST]]
        return markdown_table(("edge", "score"), rows)
    sure = [
        (f"`{edge}`", show(score), *_interval(uncertainty, circuit.graph.order(edge)))
        for edge, score in strongest[:N_STRONGEST]
    ]
    return markdown_table(("edge", "score", "confidence interval", "inclusion"), sure)


def _interval(uncertainty: Uncertainty, place: tuple[int, int]) -> tuple[str, str]:
    lower, upper = float(uncertainty.lower[place]), float(uncertainty.upper[place])
    return f"{show(lower)} to {show(upper)}", f"{float(uncertainty.inclusion[place]):.0%}"


def _sureness(circuit: Circuit, record: dict[str, Any], uncertainty: Uncertainty | None) -> list[str]:
    """What other prompts of the same kind would have changed, as a bootstrap tells it."""
    if uncertainty is None:
        return []
    said = record["bootstrap"]
    inclusions = [float(uncertainty.inclusion[circuit.graph.order(edge)]) for edge in circuit.edges]
    n_sure = sum(inclusion >= said["bar"] for inclusion in inclusions)
    rows = [
        ("resamples", f"{said['resamples']:,} of the prompts, with replacement, seed {said['seed']}"),
        ("two resampled circuits share", f"{said['jaccard']:.0%} of their edges (mean Jaccard)"),
        (f"edges in {said['bar']:.0%} of them or more", f"{n_sure:,} of the circuit's {len(circuit.edges):,}"),
        ("consensus circuit", f"{said['n_consensus']:,} edges, in `consensus.json`"),
        ("intervals", f"{said['level']:.0%}, percentiles of the resampled means; all are in `bootstrap.safetensors`"),
    ]
    return ["## How sure it is", markdown_table(("", ""), rows)]


def _prompts(circuit: Circuit, example: PromptPair) -> str:
    rows = [(field, f"`{_one_line(value)}`") for field, value in _fields(example)]
    n, seed = circuit.task["n_prompts"], circuit.task["seed"]
    return f"{n} pairs, seed {seed}; all are in `prompts.jsonl`. The first:\n\n" + markdown_table(("", ""), rows)


def _fields(pair: PromptPair) -> list[tuple[str, str]]:
    answers = [", ".join(repr(text) for text in texts) for texts in (pair.answers, pair.wrong_answers)]
    return [
        ("clean", pair.clean),
        ("corrupted", pair.corrupted),
        ("answers", answers[0]),
        ("wrong answers", answers[1]),
    ]


def _one_line(text: str) -> str:
    return text.replace("\n", "\\n").replace("`", "'")


def _count(record: dict[str, Any]) -> tuple[str, str]:
    """How many edges were tested, and for how many rounding decided; or how many were chosen by their scores."""
    if "selection" in record:
        selection = record["selection"]
        return "edges", f"{selection['nominal']:,} chosen, {selection['kept']:,} left after pruning"
    search = record["search"]
    return "tests", (
        f"{search['tested']:,} tested, {search['computed']:,} computed, {search['taken_over']:,} taken over, "
        f"{search['n_undecidable']:,} undecidable"
    )


def _constants(record: dict[str, Any]) -> list[tuple[str, str]]:
    """How much less the learned constants of optimal ablation spoil than the means, where there are such."""
    if "constants" not in record:
        return []
    said = record["constants"]
    text = f"{show(said['loss'])} nats under random masks, the means {show(said['loss_of_means'])}"
    return [("learned constants", text)]


def _how(circuit: Circuit, record: dict[str, Any]) -> str:
    method = ", ".join(f"{key} {value}" for key, value in circuit.method.items() if key != "name")
    timings = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in record["timings"].items())
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    rows = [
        ("method", f"{circuit.method['name']} ({method})"),
        _count(record),
        *_constants(record),
        (
            "model",
            f"{circuit.model['name']} ({circuit.model['architecture']}), sha256 `{circuit.model['sha256'][:16]}`",
        ),
        ("differs from TransformerLens by", f"{record['model_difference']:.1e} relative at the most"),
        ("wall time", timings),
        ("peak memory", gigabytes(record["peak_memory_bytes"])),
        ("versions", versions),
    ]
    return markdown_table(("", ""), rows)
