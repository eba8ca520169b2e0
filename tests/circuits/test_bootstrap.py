"""The bootstrap over prompts, beside a literal loop and what statistics says of it."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitfind.circuits import bootstrap as module
from circuitfind.circuits.bootstrap import Bootstrap, Uncertainty, bootstrap, mean_jaccard
from circuitfind.circuits.graph import Edge, Graph
from circuitfind.circuits.intervals import ratio_interval
from circuitfind.circuits.masks import readable
from circuitfind.circuits.selection import select
from circuitfind.circuits.size import SELECTS, Selection, SelectName
from circuitfind.errors import UsageError
from tests.oracles import selection as literal

GRAPH = Graph(2, 2)
FEW = Bootstrap(resamples=30, level=0.8, bar=0.6, seed=3)
TOP = Selection(edges=20)
FIELDS = ("mean", "lower", "upper", "inclusion", "consensus")

every_select = pytest.mark.parametrize("name", SELECTS)
seeds = st.integers(0, 2**32 - 1)


def draw_scores(graph: Graph, n_prompts: int, seed: int = 0, noise: float = 1.0) -> torch.Tensor:
    """An effect of each edge's own, and noise of each prompt's; NaN where there is no edge."""
    generator = torch.Generator().manual_seed(seed)
    edges = readable(graph)
    effect = torch.randn(edges.shape, generator=generator)
    return (effect + noise * torch.randn(n_prompts, *edges.shape, generator=generator)).masked_fill(
        ~edges, math.nan
    )


def same(one: Uncertainty, other: Uncertainty) -> bool:
    fields = [(getattr(one, name), getattr(other, name)) for name in FIELDS]
    return one.jaccard == other.jaccard and all(
        torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in fields
    )


@every_select
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("parallel", [True, False])
def test_the_bootstrap_is_that_of_a_literal_loop(
    name: SelectName, dtype: torch.dtype, parallel: bool
) -> None:
    graph, selection = Graph(2, 2, parallel), Selection(edges=20, select=name)
    scores = draw_scores(graph, 5, seed=1).to(dtype)
    found = bootstrap(graph, scores, selection, FEW)
    edges = list(graph.edges())
    table = {edge: [float(of_prompt[graph.order(edge)]) for of_prompt in scores] for edge in edges}
    generator = torch.Generator().manual_seed(FEW.seed)
    drawn = torch.randint(5, (FEW.resamples, 5), generator=generator).tolist()
    means = [
        {edge: math.fsum(table[edge][i] for i in prompts) / 5 for edge in edges} for prompts in drawn
    ]
    circuits = [literal.prune(literal.choose(graph, mean, selection)) for mean in means]
    for edge in edges:
        place = graph.order(edge)
        assert float(found.mean[place]) == pytest.approx(math.fsum(table[edge]) / 5, rel=1e-12)
        ends = ratio_interval(np.array(table[edge]), np.ones(5), np.array(drawn), FEW.level, 0)
        assert (float(found.lower[place]), float(found.upper[place])) == pytest.approx(
            ends, rel=1e-5, abs=1e-5
        )
        assert (
            float(found.inclusion[place]) == sum(edge in circuit for circuit in circuits) / FEW.resamples
        )
    often = {
        edge for edge in edges if sum(edge in circuit for circuit in circuits) >= 0.6 * FEW.resamples
    }
    assert {edge for edge in edges if found.consensus[graph.order(edge)]} == literal.prune(often)
    alike = [len(a & b) / len(a | b) for a, b in itertools.combinations(circuits, 2)]
    assert found.jaccard == pytest.approx(math.fsum(alike) / len(alike), rel=1e-12)
    assert 0 < found.jaccard < 1 and len(literal.prune(often)) > 0


def test_what_is_no_edge_is_nan_and_in_no_circuit() -> None:
    found = bootstrap(GRAPH, draw_scores(GRAPH, 4), TOP, FEW)
    for name in ("mean", "lower", "upper", "inclusion"):
        values = getattr(found, name)
        assert torch.equal(values.isnan(), ~readable(GRAPH))
        assert values.dtype == torch.float64
    assert not (found.consensus & ~readable(GRAPH)).any()


def test_the_interval_of_gaussian_scores_covers_the_truth_as_often_as_it_says() -> None:
    """An interval of n normal prompts is that of Student's t or a little wider: of 48 nearly a normal one."""
    graph, n_prompts, generator = Graph(12, 4), 48, torch.Generator().manual_seed(5)
    noise = torch.randn(n_prompts, *readable(graph).shape, generator=generator)
    truth = 3.0
    for level in (0.95, 0.8):
        found = bootstrap(
            graph, truth + noise, Selection(edges=100), Bootstrap(resamples=400, level=level, seed=1)
        )
        covered = ((found.lower <= truth) & (found.upper >= truth))[readable(graph)].double().mean()
        assert level - 0.01 <= float(covered) <= level + 0.04
        width = (found.upper - found.lower)[readable(graph)].mean()
        z = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor((1 + level) / 2))
        assert float(width) == pytest.approx(2 * float(z) / math.sqrt(n_prompts), rel=0.1)


def test_the_inclusion_probability_is_the_chance_that_the_mean_passes_the_threshold() -> None:
    """Two prompts, 0 and 1: a resample's mean is 0, 1/2 or 1 with chances 1/4, 1/2, 1/4."""
    logits = GRAPH.order(Edge.parse("input->logits"))
    scores = torch.zeros(2, *readable(GRAPH).shape)
    scores[1, logits[0], logits[1]] = 1
    for threshold, chance in ((0.25, 0.75), (0.5, 0.75), (0.75, 0.25), (1.25, 0.0)):
        found = bootstrap(GRAPH, scores, Selection(threshold=threshold), Bootstrap(resamples=800))
        assert float(found.inclusion[logits]) == pytest.approx(chance, abs=0.05)
        assert float(found.inclusion.nansum()) == float(found.inclusion[logits])
        both = chance**2 + (1 - chance) ** 2  # alike: both have it, or neither
        assert found.jaccard == pytest.approx(both, abs=0.05)


@given(seed=seeds, n_prompts=st.integers(2, 40), dtype=st.sampled_from([torch.float16, torch.float32]))
@settings(max_examples=20)
def test_prompts_that_are_all_alike_leave_no_doubt(seed: int, n_prompts: int, dtype: torch.dtype) -> None:
    score = draw_scores(GRAPH, 1, seed).to(dtype)
    found = bootstrap(GRAPH, score.expand(n_prompts, -1, -1), TOP, FEW)
    expected, edges = select(GRAPH, score[0], TOP).kept, readable(GRAPH)
    for values in (found.mean, found.lower, found.upper):
        assert torch.equal(values[edges], score[0][edges].double())
    assert torch.equal(found.inclusion[edges], expected[edges].double())
    assert torch.equal(found.consensus, expected)
    assert found.jaccard == 1


@given(
    seed=seeds, n_prompts=st.integers(2, 12), name=st.sampled_from(SELECTS), exponent=st.integers(-40, 40)
)
@settings(max_examples=20)
def test_scores_in_another_unit_make_no_other_circuit(
    seed: int, n_prompts: int, name: SelectName, exponent: int
) -> None:
    selection, scores = Selection(fraction=0.3, select=name), draw_scores(GRAPH, n_prompts, seed)
    found = bootstrap(GRAPH, scores, selection, FEW)
    scaled = bootstrap(GRAPH, scores * 2.0**exponent, selection, FEW)
    assert torch.equal(scaled.inclusion.nan_to_num(7), found.inclusion.nan_to_num(7))
    assert torch.equal(scaled.consensus, found.consensus)
    assert scaled.jaccard == found.jaccard
    for name_of in ("mean", "lower", "upper"):
        expected = getattr(found, name_of) * 2.0**exponent
        assert torch.equal(getattr(scaled, name_of).nan_to_num(7), expected.nan_to_num(7))


@given(
    seed=seeds, n_prompts=st.integers(2, 12), name=st.sampled_from(SELECTS), level=st.floats(0.01, 0.99)
)
@settings(max_examples=20)
def test_bounds_stand_in_order_and_a_higher_level_is_wider(
    seed: int, n_prompts: int, name: SelectName, level: float
) -> None:
    scores, edges = draw_scores(GRAPH, n_prompts, seed), readable(GRAPH)
    selection = Selection(fraction=0.3, select=name)
    narrow, wide = (
        bootstrap(GRAPH, scores, selection, Bootstrap(20, at)) for at in (level, (level + 1) / 2)
    )
    assert (narrow.lower <= narrow.upper)[edges].all()
    assert (wide.lower <= narrow.lower)[edges].all() and (narrow.upper <= wide.upper)[edges].all()
    assert (narrow.lower <= narrow.mean)[edges].all() and (narrow.mean <= narrow.upper)[edges].all()
    assert 0 <= narrow.jaccard <= 1
    assert ((narrow.inclusion >= 0) & (narrow.inclusion <= 1))[edges].all()


def test_a_higher_bar_leaves_fewer_edges_and_a_bar_of_one_those_of_every_resample() -> None:
    scores, consensus = draw_scores(GRAPH, 6, noise=0.1), []
    for bar in (0.01, 0.5, 1.0):
        found = bootstrap(GRAPH, scores, TOP, Bootstrap(50, bar=bar))
        consensus.append(found.consensus)
        assert (found.inclusion[found.consensus] >= bar).all()
    assert (consensus[1] <= consensus[0]).all() and (consensus[2] <= consensus[1]).all()
    assert 0 < consensus[2].sum() < consensus[0].sum()


def test_the_seed_decides_and_nothing_else_does() -> None:
    scores = draw_scores(GRAPH, 6)
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    found = bootstrap(GRAPH, scores, TOP, Bootstrap(30, seed=1))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    assert same(bootstrap(GRAPH, scores, TOP, Bootstrap(30, seed=1)), found)
    assert not same(bootstrap(GRAPH, scores, TOP, Bootstrap(30, seed=2)), found)


def test_slices_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = draw_scores(GRAPH, 6).half()  # whose sums are exact
    found = bootstrap(GRAPH, scores, TOP, FEW)
    for n_edges, n_resamples in ((1, 30), (7, 4), (1000, 0)):
        monkeypatch.setattr(module, "EDGES", n_edges)
        monkeypatch.setattr(module, "BYTES", n_resamples * 8 * GRAPH.n_edges)
        assert same(bootstrap(GRAPH, scores, TOP, FEW), found)


def test_the_scores_stay_as_they_were_and_no_gradient_is_kept() -> None:
    scores = draw_scores(GRAPH, 4).requires_grad_()
    before = scores.detach().clone()
    found = bootstrap(GRAPH, scores, TOP, FEW)
    assert torch.equal(scores.detach().nan_to_num(7), before.nan_to_num(7))
    assert not found.mean.requires_grad


@given(
    seed=seeds,
    n_rows=st.integers(2, 8),
    n_edges=st.integers(1, 20),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_mean_jaccard_is_that_of_sets(seed: int, n_rows: int, n_edges: int, share: float) -> None:
    members = torch.rand(n_rows, n_edges, generator=torch.Generator().manual_seed(seed)) < share
    sets = [set(row.nonzero().flatten().tolist()) for row in members]
    alike = [len(a & b) / len(a | b) if a | b else 1.0 for a, b in itertools.combinations(sets, 2)]
    assert mean_jaccard(members) == pytest.approx(math.fsum(alike) / len(alike), rel=1e-12)


@pytest.mark.parametrize("n_prompts", [0, 1])
def test_fewer_than_two_prompts_are_refused(n_prompts: int) -> None:
    with pytest.raises(
        UsageError, match=rf"^A bootstrap needs two prompts or more, not {n_prompts}: raise"
    ):
        bootstrap(GRAPH, draw_scores(GRAPH, n_prompts), TOP, FEW)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_refused_with_its_edge(value: float) -> None:
    scores = draw_scores(GRAPH, 3)
    row, sender = GRAPH.order(Edge.parse("a0.h1->m0"))
    scores[2, row, sender] = value
    with pytest.raises(UsageError, match=f"'a0.h1->m0' is {value}"):
        bootstrap(GRAPH, scores, TOP, FEW)


def test_more_edges_than_there_are_are_refused() -> None:
    with pytest.raises(UsageError, match="999 edges are asked for"):
        bootstrap(GRAPH, draw_scores(GRAPH, 3), Selection(edges=999), FEW)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resamples": 1}, "--bootstrap is 1; give it 2 resamples or more"),
        ({"level": 0.0}, r"The level is 0\.0"),
        ({"level": 1.0}, r"The level is 1\.0"),
        ({"level": math.nan}, "The level is nan"),
        ({"bar": 0.0}, r"The bar is 0\.0"),
        ({"bar": 1.1}, r"The bar is 1\.1"),
        ({"bar": math.nan}, "The bar is nan"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Bootstrap(**options)  # type: ignore[arg-type]


def test_a_model_of_thirteen_thousand_edges_takes_about_a_second() -> None:
    graph = Graph(12, 7)
    scores = draw_scores(graph, 32).half()
    begin = time.process_time()
    bootstrap(graph, scores, Selection(edges=500), Bootstrap(200))
    assert time.process_time() - begin < 5
