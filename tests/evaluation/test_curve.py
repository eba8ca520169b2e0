"""Faithfulness and KL over sizes, and the areas CPR and CMD, beside whole literal runs and a loop."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from circuitfind.circuits.masks import readable
from circuitfind.circuits.units import Units
from circuitfind.errors import UsageError
from circuitfind.evaluation.curve import BUDGETS, Curve, Point, area, measure_curve
from circuitfind.evaluation.trials import Kept, Trials
from circuitfind.models.workers import Threads
from circuitfind.patching.ablation import AblationName
from tests.oracles import curve as oracle
from tests.oracles import selection as literal_selection
from tests.oracles.literal import Literal
from tests.random_models import random_batch, random_model, random_transformer, with_means

LENGTHS = (5, 7, 4)


@contextmanager
def trials_of(
    family: str = "gpt2", ablation: AblationName = "corrupted", batch_size: int = 2
) -> Iterator[Trials]:
    model = random_transformer(family, seed=3)
    batch = with_means(model, random_batch(4, LENGTHS), ablation)
    with Threads(model.device) as threads:
        yield Trials(model, batch, ablation, batch_size, threads)


def draw_scores(trials: Trials, seed: int = 1) -> torch.Tensor:
    scores = torch.randn(
        trials.edges.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return scores.masked_fill(~trials.edges, math.nan)


def faring(*values: float | None) -> Curve:
    """A curve whose circuits, of either kind, have this faithfulness."""
    points = tuple(Point(b, 1, 1, v, 0.1, v) for b, v in zip(BUDGETS, values, strict=True))
    return Curve("logit-diff", 1000, 1.0, 0.0, 2.0, points, points)


# areas


def test_a_circuit_that_fails_until_it_is_the_whole_graph_scores_a_quarter() -> None:
    """From .5 to 1 a triangle of .5 * 1 / 2; before it |1 - f| is 1 from .001 to .5, that is .499 more."""
    curve = faring(*[0.0] * 9, 1.0)
    assert (curve.cpr, curve.cmd) == (pytest.approx(0.25), pytest.approx(0.749))


def test_a_perfect_circuit_has_all_of_the_area_and_no_distance() -> None:
    curve = faring(*[1.0] * 10)
    assert (curve.cpr, curve.cmd) == (pytest.approx(0.999), 0.0)  # the axis begins at .001


def test_over_recovery_raises_cpr_above_one_and_cmd_with_it() -> None:
    curve = faring(*[2.0] * 10)
    assert (curve.cpr, curve.cmd) == (pytest.approx(1.998), pytest.approx(0.999))


def test_where_the_metric_does_not_change_both_areas_are_undefined() -> None:
    curve = faring(*[None] * 10)
    assert (curve.cpr, curve.cmd) == (None, None)
    assert json.loads(json.dumps(curve.to_dict()))["cpr"] is None


@given(st.lists(st.floats(-10, 10), min_size=10, max_size=10))
def test_areas_are_those_of_a_literal_loop(values: list[float]) -> None:
    curve = faring(*values)
    assert curve.cpr == pytest.approx(oracle.area(values), abs=1e-12)
    assert curve.cmd == pytest.approx(oracle.area([abs(1 - value) for value in values]), abs=1e-12)


def test_an_area_is_additive_and_one_place_has_none() -> None:
    points = [(0.0, 1.0), (0.3, 2.0), (1.0, -1.0)]
    assert area(points) == pytest.approx(area(points[:2]) + area(points[1:]))  # type: ignore[operator]
    assert area(points[:1]) == 0.0


# circuits


@pytest.mark.parametrize(
    ("family", "ablation", "metric"),
    [
        ("gpt2", "corrupted", "logit-diff"),
        ("llama", "zero", "kl"),
        ("pythia", "mean", "loss"),
        ("pythia-sequential", "corrupted", "prob-diff"),
    ],
)
def test_every_circuit_fares_as_in_whole_literal_runs(
    family: str, ablation: AblationName, metric: str
) -> None:
    literal, batch = Literal(random_model(family, 3)), random_batch(4, LENGTHS)
    everything, metrics = set(literal.graph.edges()), (metric, "kl")
    full, empty = (
        oracle.measured(literal, batch, kept, metrics, ablation)[metric] for kept in (everything, set())
    )
    with trials_of(family, ablation) as trials:
        scores = draw_scores(trials)
        curve = measure_curve(trials, scores, metric)
    named = {edge: float(scores[literal.graph.order(edge)]) for edge in literal.graph.edges()}
    heights = {}
    for select, points in (("top-signed", curve.signed), ("top", curve.absolute)):
        expected = oracle.circuits(literal, named, select)  # type: ignore[arg-type]
        runs = [oracle.measured(literal, batch, kept, metrics, ablation) for kept in expected]
        heights[select] = [oracle.faithfulness(run[metric], full, empty) for run in runs]
        assert [point.n_kept for point in points] == [len(edges) for edges in expected]
        assert [point.value for point in points] == pytest.approx(
            [run[metric] for run in runs], rel=1e-8, abs=1e-8
        )
        assert [point.kl for point in points] == pytest.approx(
            [run["kl"] for run in runs], rel=1e-8, abs=1e-8
        )
        assert [point.faithfulness for point in points] == pytest.approx(
            heights[select], rel=1e-8, abs=1e-8
        )
    assert curve.cpr == pytest.approx(oracle.area(heights["top-signed"]), rel=1e-8)
    assert curve.cmd == pytest.approx(oracle.area([abs(1 - f) for f in heights["top"]]), rel=1e-8)


def test_circuits_of_nodes_have_shares_of_whole_nodes_and_the_input() -> None:
    literal, batch = Literal(random_model("gpt2", 3)), random_batch(4, LENGTHS)
    units, names = Units(literal.graph, "node"), ("logit-diff", "kl")
    heads_and_mlps = [node for node in literal.graph.senders if node.kind != "input"]
    everything = set(literal.graph.edges())
    full, empty = (
        oracle.measured(literal, batch, kept, names, "corrupted") for kept in (everything, set())
    )
    with trials_of() as trials:
        scores = units.spread(draw_scores(trials))
        curve = measure_curve(trials, scores, units=units)
    for signed, points in ((True, curve.signed), (False, curve.absolute)):
        size = {node: float(scores[-1, literal.graph.sender_index[node]]) for node in heads_and_mlps}
        best = sorted(heads_and_mlps, key=lambda node: -size[node] if signed else -abs(size[node]))
        for point, budget in zip(points, BUDGETS, strict=True):
            inside = {"input", "logits", *map(str, best[: int(budget * len(best))])}
            among = {e for e in everything if str(e.sender) in inside and str(e.receiver.node) in inside}
            run = oracle.measured(literal, batch, literal_selection.prune(among), names, "corrupted")
            expected = oracle.faithfulness(run["logit-diff"], full["logit-diff"], empty["logit-diff"])
            assert point.n_chosen == int(budget * 6)
            assert (point.faithfulness, point.kl) == pytest.approx(
                (expected, run["kl"]), rel=1e-8, abs=1e-8
            )
    assert (curve.units, curve.to_dict()["shares_of"]) == ("nodes", "nodes")
    assert curve.signed[0].n_kept == 1  # the input alone, into the logits


def test_the_last_size_is_the_full_model_and_the_first_of_a_small_graph_no_edge() -> None:
    with trials_of() as trials:
        curve = measure_curve(trials, draw_scores(trials))
    for points in (curve.signed, curve.absolute):
        assert (points[-1].n_kept, points[-1].faithfulness, points[-1].value) == (46, 1.0, curve.full)
        assert (points[0].n_chosen, points[0].faithfulness, points[0].kl) == (0, 0.0, curve.ablated_kl)
        assert [point.n_chosen for point in points] == [int(budget * 46) for budget in BUDGETS]
        assert all(point.n_kept <= point.n_chosen for point in points)


class Counted(Trials):
    """Trials that remember which circuits were run."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.ran: list[bytes] = []

    def run(self, kept: Kept, *names: Any) -> Any:
        self.ran.append(kept.numpy().tobytes())
        return super().run(kept, *names)


def test_a_circuit_that_comes_up_twice_is_run_once() -> None:
    model = random_transformer("gpt2", seed=3)
    with Threads(model.device) as threads:
        trials = Counted(model, random_batch(4, LENGTHS), "corrupted", 4, threads)
        curve = measure_curve(trials, draw_scores(trials).abs())  # signed and absolute choose the same
    assert curve.signed == curve.absolute
    assert len(trials.ran) == len(set(trials.ran)) <= len(BUDGETS)
    assert {0, 46} == {sum(ran) for ran in trials.ran[:2]}  # those of the trials: no edge, and all


def test_signed_and_absolute_scores_make_different_circuits() -> None:
    with trials_of() as trials:
        curve = measure_curve(trials, draw_scores(trials))
        mirrored = measure_curve(trials, -draw_scores(trials))
    assert curve.signed != curve.absolute
    assert mirrored.absolute == curve.absolute and mirrored.signed != curve.signed


def test_neither_batch_size_nor_threads_change_a_bit() -> None:
    before, found = torch.get_num_threads(), []
    try:
        for n_threads, batch_size in ((1, 1), (2, 3), (2, 64)):
            torch.set_num_threads(n_threads)
            with trials_of("llama", batch_size=batch_size) as trials:
                found.append(measure_curve(trials, draw_scores(trials), "prob-diff"))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_without_wrong_answers_kl_still_says_how_far_circuits_are() -> None:
    model = random_transformer("gpt2", seed=3)
    batch = replace(random_batch(4, LENGTHS), wrong_answers=((),) * len(LENGTHS))
    with Threads(model.device) as threads:
        trials = Trials(model, batch, "corrupted", 4, threads)
        curve = measure_curve(trials, draw_scores(trials))
    assert (curve.cpr, curve.cmd, curve.full) == (None, None, None)
    assert all(point.kl is not None and point.value is None for point in curve.signed)
    assert json.loads(json.dumps(curve.to_dict(), allow_nan=False)) == curve.to_dict()


class Noted:
    """Progress that remembers."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def stage(self, name: str) -> None:
        self.said.append(name)

    def update(self, done: float, total: float, note: str = "") -> None:
        self.said.append((done, total))

    def warn(self, message: str) -> None:
        raise AssertionError(message)


def test_it_tells_how_far_it_is() -> None:
    noted = Noted()
    with trials_of() as trials:
        measure_curve(trials, draw_scores(trials), budgets=(0.5, 1.0), progress=noted)
    assert noted.said == ["running circuits of every size", (1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"metric": "logitdiff"}, "Did you mean 'logit-diff'"),
        ({"budgets": (0.1, 0.1)}, "give each once, the smallest first"),
        ({"budgets": (0.5, 0.1)}, "0.5, 0.1"),
        ({"budgets": (0.5, 2.0)}, "The fraction is 2.0"),
        ({"scores": torch.full((15, 7), math.nan).double()}, "no finite numbers"),
    ],
)
def test_what_makes_no_curve_is_refused(given: dict[str, Any], says: str) -> None:
    with trials_of() as trials, pytest.raises(UsageError, match=says):
        measure_curve(
            trials, **{"scores": torch.where(readable(trials.graph), 1.0, 0.0).double(), **given}
        )
