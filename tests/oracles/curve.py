"""The circuits of every size and their areas, literally: whole runs, one prompt at a time; areas by a loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from circuitfind.circuits.graph import Edge
from circuitfind.circuits.size import Selection, SelectName
from circuitfind.prompts.batch import Batch
from tests.oracles import selection
from tests.oracles.literal import Literal, ablated_outputs, run
from tests.oracles.metrics import objective

SIZES = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]


def circuits(literal: Literal, scores: Mapping[Edge, float], select: SelectName) -> list[set[Edge]]:
    """The circuit of each size, pruned."""
    wanted = [Selection(fraction=size, select=select) for size in SIZES]
    return [selection.prune(selection.choose(literal.graph, scores, each)) for each in wanted]


def measured(
    literal: Literal, batch: Batch, kept: set[Edge], metrics: Sequence[str], ablation: str
) -> dict[str, float]:
    """The metrics (higher is better but for kl and loss), means over prompts."""
    total = dict.fromkeys(metrics, 0.0)
    for i, end in enumerate(batch.end.tolist()):
        clean, corrupted = batch.clean[i, : end + 1], batch.corrupted[i, : end + 1]
        ablated = ablated_outputs(literal, clean, corrupted, ablation)
        full, logits = (
            run(literal, clean, k, ablated)[0] for k in (frozenset(literal.graph.edges()), kept)
        )
        for metric in total:
            value = objective(metric, full, logits, batch.answers[i], batch.wrong_answers[i])
            total[metric] += (value if metric in ("kl", "loss") else -value) / len(batch.end)
    return total


def faithfulness(circuit: float, full: float, empty: float) -> float:
    """0 as bad as with everything ablated, 1 as good as the full model."""
    return (circuit - empty) / (full - empty)


def area(heights: Sequence[float]) -> float:
    """Under the heights at ``SIZES``: of each strip the mean of its two sides, times its width."""
    total = 0.0
    for i in range(1, len(SIZES)):
        total += (SIZES[i] - SIZES[i - 1]) * 0.5 * (heights[i - 1] + heights[i])
    return total
