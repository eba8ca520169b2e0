"""Edges at roles: every method against a literal oracle that goes position by position, and the laws that hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jobs import keeping, resuming

from circuitfind.circuits.graph import END, Edge, Graph
from circuitfind.circuits.masks import readable
from circuitfind.circuits.selection import prune, select
from circuitfind.circuits.size import Selection
from circuitfind.errors import UsageError
from circuitfind.methods.attribution.atp import AtP
from circuitfind.methods.attribution.eap import EAP, EAPIG, CleanCorrupted, EAPIGActivations
from circuitfind.methods.attribution.gim import GIM
from circuitfind.methods.attribution.relp import RelP
from circuitfind.methods.baselines import Random
from circuitfind.methods.ensemble import Ensemble
from circuitfind.methods.exact import Exact
from circuitfind.methods.outcome import Found
from circuitfind.methods.search.acdc import ACDC, visiting_order
from circuitfind.methods.search.reuse import is_tested, start_from
from circuitfind.models.transformer import Transformer, unembed
from circuitfind.patching.ablation import ABLATIONS, AblationName
from circuitfind.patching.incremental import Rerun
from circuitfind.patching.problem import Problem
from circuitfind.patching.reference import prepare, run_patched
from circuitfind.prompts.batch import Batch
from circuitfind.prompts.roles import Roles, by_receiver, by_role
from tests.attributions import Scorer, late, literal, score
from tests.oracles import positions as oracle
from tests.oracles.literal import Literal
from tests.random_models import FAMILIES, random_batch, random_model, random_transformer, with_means

LENGTHS = (5, 7, 4)
NAMES = ("A", "B", "rest", END)


def with_roles(batch: Batch, seed: int = 0, names: tuple[str, ...] = NAMES) -> Batch:
    """The batch with a random role for each position up to the answer, which is END's."""
    generator = torch.Generator().manual_seed(seed)
    of = (
        torch.randint(len(names) - 1, batch.clean.shape, generator=generator)
        if len(names) > 1
        else batch.clean * 0
    )
    for i, end in enumerate(batch.end.tolist()):
        of[i, end], of[i, end + 1 :] = len(names) - 1, -1
    return replace(batch, roles=Roles(names, of))


def example(seed: int, lengths: tuple[int, ...] = LENGTHS) -> Batch:
    return with_roles(random_batch(seed, lengths), seed)


def edges_of(graph: Graph, kept: torch.Tensor) -> set[Edge]:
    return {Edge(graph.senders[sender], graph.receivers[row]) for row, sender in kept.nonzero().tolist()}


def draw_mask(graph: Graph, seed: int, share: float) -> torch.Tensor:
    edges = readable(graph)
    return edges & (torch.rand(edges.shape, generator=torch.Generator().manual_seed(seed)) < share)


# runs


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_under_any_edges_at_roles_is_the_literal_one(family: str, ablation: AblationName) -> None:
    model, batch = random_transformer(family, 3), example(3)
    prompts = oracle.Prompts(literal(family, 3), batch, "kl", ablation)
    graph = batch.graph_of(model.architecture.graph)
    baseline = prepare(model, with_means(model, batch, ablation), ablation)
    for seed, share in ((0, 0.8), (1, 0.5), (2, 0.95)):
        kept = draw_mask(graph, seed, share)
        expected = torch.stack(prompts.logits(edges_of(graph, kept)))
        assert torch.allclose(unembed(model, run_patched(baseline, kept)), expected, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("family", FAMILIES)
def test_edges_that_are_kept_at_all_roles_or_none_are_those_of_all_positions(family: str) -> None:
    model, plain = random_transformer(family, 4), random_batch(4, LENGTHS)
    batch, base = with_roles(plain), model.architecture.graph
    kept = draw_mask(base, 5, 0.7)
    everywhere = by_receiver(batch.graph_of(base), kept.expand(len(NAMES), -1, -1))
    finals = [
        run_patched(prepare(model, b, "corrupted"), k) for b, k in ((plain, kept), (batch, everywhere))
    ]
    assert torch.allclose(*finals, atol=1e-12)


@given(
    st.builds(
        Graph, st.integers(1, 3), st.integers(1, 3), st.booleans(), st.sampled_from([(), (END,), NAMES])
    ),
    st.integers(0, 99),
)
def test_a_set_of_edges_survives_being_told_apart_by_role(graph: Graph, seed: int) -> None:
    kept = draw_mask(graph, seed, 0.5)
    each = by_role(graph, kept)
    assert each.shape == (graph.n_roles, len(graph.base.receivers), len(graph.senders))
    assert torch.equal(by_receiver(graph, each), kept)
    assert not each[:-1, -1].any()
    for row, receiver in enumerate(graph.receivers[:-1]):
        number = graph.roles.index(receiver.role) if receiver.role else 0
        assert torch.equal(each[number, graph.base.receiver_index[receiver.base]], kept[row])


# scores

SUMMED = (
    EAP("loss"),
    CleanCorrupted("kl"),
    EAPIG("kl", steps=2),
    EAPIGActivations("loss", steps=2),
    RelP("logit-diff"),
    GIM("logit-diff"),
    AtP("logit-diff", qk_fix=False),
)
named = pytest.mark.parametrize("method", SUMMED, ids=lambda method: str(method.name))


@named
@pytest.mark.parametrize("family", FAMILIES)
def test_the_scores_at_all_roles_sum_to_the_score_of_the_edge(family: str, method: Scorer) -> None:
    model, batch = random_transformer(family, 6), late(random_batch(6, LENGTHS))
    told_apart = with_roles(batch)
    graph = told_apart.graph_of(model.architecture.graph)
    each = by_role(graph, score(method, model, told_apart).nan_to_num(0))
    plain = score(method, model, batch).nan_to_num(0)
    assert int((each.abs() > 1e-3).any(dim=3).any(dim=2).any(dim=0).sum()) >= 3  # roles
    assert torch.allclose(each.sum(1), plain, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_edge_scores_by_the_positions_of_its_role_alone(family: str) -> None:
    """In a batch whose clean and corrupted prompts differ in one position, the input's edges score there alone."""
    model, batch = random_transformer(family, 6), random_batch(6, LENGTHS)
    corrupted = batch.clean.clone()
    corrupted[:, 1] = batch.corrupted[:, 1]
    batch = with_roles(replace(batch, corrupted=corrupted))
    assert batch.roles is not None
    graph, here = batch.graph_of(model.architecture.graph), batch.roles.of[:, 1].tolist()
    each = by_role(graph, score(EAP("loss"), model, batch).nan_to_num(0))[..., 0]
    for prompt, number in enumerate(here):
        others = [other for other in range(len(NAMES)) if other != number]
        assert each[prompt, number].abs().max() > 1e-3
        assert not each[prompt, others].any()


@pytest.mark.parametrize(
    ("family", "ablation"),
    [*((family, "corrupted") for family in FAMILIES), ("gpt2", "zero"), ("llama", "mean")],
)
def test_every_exact_score_at_a_role_is_the_literal_one(family: str, ablation: AblationName) -> None:
    model, batch = random_transformer(family, 7), example(7, (5, 3))
    expected = oracle.exact(literal(family, 7), batch, "loss", ablation)
    found = score(Exact("loss", ablation), model, with_means(model, batch, ablation))
    assert float(expected.nan_to_num(0).abs().max()) > 0.1
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.allclose(found, expected, rtol=1e-8, atol=1e-8, equal_nan=True)


@pytest.mark.parametrize("grad_drop", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_atp_at_roles_is_the_literal_one(family: str, grad_drop: bool) -> None:
    model, batch = random_transformer(family, 8), late(random_batch(8, LENGTHS))
    batch = with_roles(batch, 8)
    expected = oracle.atp(random_model(family, 8), batch, "loss", "corrupted", grad_drop)
    for batch_size in (8, 1):
        found = score(AtP("loss", grad_drop=grad_drop), model, batch, batch_size)
        assert torch.equal(found.isnan(), expected.isnan())
        assert torch.allclose(found, expected, rtol=1e-8, atol=1e-8, equal_nan=True)


@pytest.mark.parametrize(
    "method", [*SUMMED, AtP("loss"), Exact("kl")], ids=lambda method: str(method.name)
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batch_size_and_threads_change_no_bit_of_a_score_at_a_role(
    method: Scorer, dtype: torch.dtype
) -> None:
    model, batch = random_transformer("llama", 9, dtype=dtype), example(9, (5, 7, 4, 6, 7))
    expected = score(method, model, batch)
    before = torch.get_num_threads()
    try:
        for n_threads, batch_size in ((2, 3), (1, 1)):
            torch.set_num_threads(n_threads)
            assert torch.equal(
                score(method, model, batch, batch_size).nan_to_num(9), expected.nan_to_num(9)
            )
    finally:
        torch.set_num_threads(before)


def test_chance_and_ensembles_score_every_edge_at_every_role() -> None:
    model, batch = random_transformer("gpt2", 1), example(1)
    edges = readable(batch.graph_of(model.architecture.graph))
    for method in (Random(), Ensemble((EAP("loss"), RelP("loss")))):
        found = score(method, model, batch)
        assert torch.equal(~found[0].isnan(), edges)


# the search


def find(
    model: Transformer, batch: Batch, batch_size: int = 8, start: Found | None = None, **options: object
) -> Found:
    return ACDC(**options).find(Problem(model, batch, batch_size), resuming(start))  # type: ignore[arg-type]


def search_agrees(
    family: str,
    seed: int,
    batch: Batch,
    threshold: float,
    metric: str,
    ablation: AblationName,
    match: bool = False,
) -> bool:
    """Whether the oracle's decisions were clear of rounding; if they were, ours are the same, each with its score."""
    outcome = oracle.acdc(Literal(random_model(family, seed)), batch, threshold, metric, ablation, match)
    if outcome.margin <= 1e-9:
        return False
    model = random_transformer(family, seed)
    graph, objective = batch.graph_of(model.architecture.graph), "match" if match else "improve"
    found = find(
        model,
        with_means(model, batch, ablation),
        threshold=threshold,
        metric=metric,
        ablation=ablation,
        objective=objective,
    )
    assert edges_of(graph, found.kept) == outcome.kept
    for edge, number in outcome.scores.items():
        assert found.scores[graph.order(edge)].item() == pytest.approx(number, abs=1e-8)
    assert found.n_tests == len(outcome.scores)
    tested = is_tested(graph, found)
    assert edges_of(graph, tested) == set(outcome.scores)
    assert not found.scores[readable(graph) & ~tested].any()
    return True


@pytest.mark.parametrize(("metric", "seed", "threshold"), [("kl", 1, 0.003), ("logit-diff", 2, 0.05)])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_edge_at_a_role_is_decided_as_the_literal_algorithm_decides_it(
    family: str, metric: str, seed: int, threshold: float
) -> None:
    assert search_agrees(family, seed, example(seed, (5, 4)), threshold, metric, "corrupted")


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    family=st.sampled_from(FAMILIES),
    seed=st.integers(10, 30),
    lengths=st.lists(st.integers(2, 6), min_size=1, max_size=2),
    threshold=st.sampled_from([0.003, 0.05, 0.3]),
    match=st.booleans(),
    ablation=st.sampled_from(["corrupted", "mean"]),
)
def test_any_model_prompts_and_roles_agree_with_the_literal_algorithm(
    family: str, seed: int, lengths: list[int], threshold: float, match: bool, ablation: AblationName
) -> None:
    search_agrees(family, seed, example(seed, tuple(lengths)), threshold, "logit-diff", ablation, match)


def test_receivers_are_visited_in_the_published_order_each_from_its_last_role_to_its_first() -> None:
    graph = Graph(3, 2, False, NAMES)
    assert list(visiting_order(graph)) == oracle.order(graph)


def test_a_search_at_roles_is_the_same_to_the_bit_in_any_blocks_and_from_any_start() -> None:
    model, batch = random_transformer("llama", 5, dtype=torch.float32), example(5, (5, 7, 4, 6, 3))
    states: list[Found] = []
    options = {"threshold": 0.02}
    whole = ACDC(**options).find(
        Problem(model, batch, 8), keeping(states, batch.graph_of(model.architecture.graph))
    )  # type: ignore[arg-type]
    in_pieces = find(model, batch, 2, **options)
    for start in (states[0], states[len(states) // 3], states[-2]):
        resumed = find(model, batch, 4, start=start, **options)
        for other in (in_pieces, resumed):
            assert torch.equal(other.kept, whole.kept) and other.n_tests == whole.n_tests
            assert torch.equal(other.scores.nan_to_num(9), whole.scores.nan_to_num(9))


def test_a_search_at_a_smaller_threshold_starts_from_a_larger_ones_decisions() -> None:
    model, batch = random_transformer("gpt2", 5), example(5)
    graph = batch.graph_of(model.architecture.graph)
    large, small = ACDC(0.02), ACDC(0.0199)
    found = large.find(Problem(model, batch, 8))
    start = start_from(graph, found, large, small, torch.float64)
    assert start is not None and start.n_tests > 10
    expected, taken_up = (
        small.find(Problem(model, batch, 8), resuming(begin)) for begin in (None, start)
    )
    assert torch.equal(taken_up.kept, expected.kept)
    assert torch.equal(taken_up.scores.nan_to_num(9), expected.scores.nan_to_num(9))


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("family", FAMILIES)
def test_removing_edges_receiver_by_receiver_ends_where_a_whole_run_ends(
    family: str, share: float
) -> None:
    model, batch = random_transformer(family, 4, 3, 2), example(4, (5, 7, 4, 6))
    baseline, graph = prepare(model, batch, "corrupted"), batch.graph_of(model.architecture.graph)
    rerun, kept, generator = Rerun(baseline), readable(graph), torch.Generator().manual_seed(0)
    for receiver in visiting_order(graph):
        row, n_readable = graph.receiver_index[receiver], graph.n_readable(receiver)
        more = (
            share if receiver.role in (None, END) else 1 - (1 - share) / 5
        )  # so that many are read at END alone
        goes = torch.rand(n_readable, generator=generator) < more
        if not rerun.is_live(receiver.node, receiver.serves):
            kept[row] = False
            continue
        rerun.visit(receiver)
        removed = goes.nonzero().flatten().tolist()
        change = sum((rerun.removal(receiver, sender) for sender in removed), rerun.zero_change(receiver))
        kept[row, removed] = False
        final = rerun.commit(
            receiver, change, [graph.senders[s] for s in (~goes).nonzero().flatten().tolist()]
        )
        assert torch.allclose(final, run_patched(baseline, kept), atol=1e-9), receiver


@pytest.mark.parametrize("schedule", ["screened", "grouped"])
def test_schedules_that_do_not_tell_positions_apart_refuse(schedule: str) -> None:
    with pytest.raises(UsageError, match=f"{schedule}.*sequential"):
        find(random_transformer("gpt2", 1), example(1), threshold=0.1, schedule=schedule)


# selection

graphs = st.builds(
    Graph, st.integers(1, 3), st.integers(1, 2), st.booleans(), st.sampled_from([NAMES, (END,)])
)


@given(graphs, st.integers(0, 10**6), st.sampled_from([0.05, 0.15, 0.4]))
def test_pruning_leaves_the_edges_on_paths_over_nodes_at_roles(
    graph: Graph, seed: int, share: float
) -> None:
    chosen = draw_mask(graph, seed, share)
    assert edges_of(graph, prune(graph, chosen)) == oracle.prune(graph, edges_of(graph, chosen))


def test_pruning_by_hand() -> None:
    graph = Graph(2, 1, False, ("A", END))

    def mask(*names: str) -> torch.Tensor:
        kept = torch.zeros_like(readable(graph))
        for name in names:
            kept[graph.order(Edge.parse(name))] = True
        return kept

    on_path = mask("input->m0@A", "m0->a1.h0<k>@A", "a1.h0->logits")  # the key at A is seen from END
    off_path = mask("input->m0@END", "m0->a1.h0<q>@A", "a1.h0->m1@A", "m1->logits")
    # m0 at END is read by none; a1.h0 at A leads to m1 at A alone, and m1 at END is entered by none
    assert edges_of(graph, prune(graph, on_path | off_path)) == edges_of(graph, on_path)


@given(graphs, st.integers(0, 10**6), st.integers(1, 60))
def test_the_greedy_way_takes_the_largest_edge_into_a_site_of_the_circuit(
    graph: Graph, seed: int, count: int
) -> None:
    edges = readable(graph)
    scores = torch.randn(edges.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    scores = scores.masked_fill(~edges, torch.nan)
    count = min(count, graph.n_edges)
    taken: set[Edge] = set()
    for _ in range(count):
        left = [e for e in graph.edges() if e not in taken and oracle.is_live(e.receiver, taken)]
        if not left:
            break
        taken.add(max(left, key=lambda edge: abs(float(scores[graph.order(edge)]))))
    selected = select(graph, scores, Selection(edges=count, select="greedy"))
    assert selected.n_nominal == len(taken)
    assert edges_of(graph, selected.kept) == oracle.prune(graph, taken)
