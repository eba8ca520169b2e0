"""How near the threshold a score must be for rounding to decide: known of float32 and float64,
measured of bfloat16.

bfloat16 keeps 8 bits, and what one layer loses the next ones make more of, in each model in its own
way. So where a search ran in it, some of its tests are made again, each in the run as it then was,
in bfloat16 and in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitfind.methods.outcome import in_question
from circuitfind.methods.search.reuse import Shortlist, decision_order
from circuitfind.metrics.objective import make_objective
from circuitfind.models.transformer import in_dtype
from circuitfind.patching.blocks import mean_over_prompts
from circuitfind.patching.problem import Problem
from circuitfind.patching.reference import prepare, run_patched

MARGINS = {torch.float32: 1e-6, torch.float64: 1e-12}
"""How far from the threshold a score must be for a dtype to tell the side, in the metric's unit."""
N_TESTS = 16
"""How many tests are made again."""
SAFETY = 4.0
"""How many times the largest difference among them a score must be from the threshold."""

Edges = Bool[Tensor, "receiver sender"]


def margin_of(problem: Problem, kept: Edges, shortlist: Shortlist = None) -> float:
    """How far from the threshold a score must be for the model's dtype to tell the side, in the
    metric's unit.

    ``kept``: what the search has found.
    """
    model = problem.model
    if model.dtype in MARGINS:
        return MARGINS[model.dtype]
    tests = some_tests(problem, kept, shortlist)
    ours, exact = (scores_of(problem.on(x), tests) for x in (model, in_dtype(model, torch.float32)))
    return SAFETY * float((ours - exact).abs().max())


def some_tests(problem: Problem, kept: Edges, shortlist: Shortlist) -> list[tuple[Edges, Edges]]:
    """What was kept before and after the edge of some tests was removed, spread over the search."""
    graph = problem.graph
    order = decision_order(graph, shortlist)
    there = in_question(graph, shortlist)
    tests = []
    for place in sorted({round(share * (len(order) - 1) / (N_TESTS - 1)) for share in range(N_TESTS)}):
        before = there.clone().flatten()
        before[order[:place]] = kept.flatten()[order[:place]]
        after = before.clone()
        after[order[place]] = False
        tests.append((before.reshape(kept.shape), after.reshape(kept.shape)))
    return tests


def scores_of(problem: Problem, tests: Sequence[tuple[Edges, Edges]]) -> Float[Tensor, " test"]:
    """By how much each test raises the objective, the mean over prompts, float64."""
    model = problem.model
    masks = [mask.to(model.device) for test in tests for mask in test]
    fulls, finals = [], []
    for block, n_real in problem.blocks():
        baseline = prepare(model, block, problem.ablation)
        fulls.append(baseline.final[:n_real])
        finals.append(torch.stack([run_patched(baseline, mask)[:n_real] for mask in masks]))
    objective = make_objective(problem.metric, model, problem.prompts, torch.cat(fulls), problem.match)
    values = objective(torch.cat(finals, dim=1))
    means = torch.tensor(mean_over_prompts(values), dtype=torch.float64)
    return means[1::2] - means[::2]
