"""Searches of a shortlist against literal ones that start from the same edges, and the laws that they obey."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from jobs import keeping, resuming
from torch import Tensor

from circuitfind.circuits.graph import Edge, Graph
from circuitfind.circuits.masks import readable
from circuitfind.circuits.selection import prune
from circuitfind.circuits.units import Units
from circuitfind.methods.attribution.eap import EAP, EAPIG
from circuitfind.methods.baselines import ActivationMagnitude
from circuitfind.methods.method import Job
from circuitfind.methods.outcome import Found, take_up
from circuitfind.methods.search import acdc
from circuitfind.methods.search.acdc import ACDC
from circuitfind.methods.search.candidates import Candidates
from circuitfind.methods.search.reuse import decided_alike, is_tested, start_from, undecidable
from circuitfind.models.transformer import Transformer
from circuitfind.patching.ablation import ABLATIONS
from circuitfind.patching.problem import Problem
from circuitfind.progress import Silent
from circuitfind.prompts.batch import Batch
from circuitfind.runs.time_left import Eta
from tests.oracles.acdc import acdc as literal_acdc
from tests.oracles.grouped import Search as LiteralGrouped
from tests.oracles.literal import Literal
from tests.oracles.screened import Screened
from tests.random_models import FAMILIES, random_batch, random_model, random_transformer, with_means

ROUNDING = 1e-9
SCHEDULES = ("sequential", "screened", "grouped")


def draw(graph: Graph, seed: int, share: float = 0.6) -> Tensor:
    """About this share of the edges, some of which lead nowhere."""
    generator = torch.Generator().manual_seed(seed)
    edges = readable(graph)
    return edges & (torch.rand(edges.shape, generator=generator) < share)


def edges_of(graph: Graph, kept: Tensor) -> set[Edge]:
    return {edge for edge in graph.edges() if kept[graph.order(edge)]}


def find(
    model: Transformer, batch: Batch, shortlist: Tensor | None, batch_size: int = 8, **options: Any
) -> Found:
    return ACDC(**options).find(Problem(model, batch, batch_size), shortlist=shortlist)


def same(one: Found, other: Found) -> bool:
    tensors = zip(
        (one.kept, one.scores, one.decided), (other.kept, other.scores, other.decided), strict=True
    )
    return (
        all(torch.equal(a.nan_to_num(9), b.nan_to_num(9)) for a, b in tensors)
        and one.n_tests == other.n_tests
    )


# against the literal algorithm


def agrees(
    family: str, seed: int, threshold: float, metric: str = "kl", ablation: str = "corrupted", **more: Any
) -> bool:
    """Whether the oracle's own decisions were clear of rounding; if they were, ours are the same."""
    batch, literal, rounding = random_batch(seed), Literal(random_model(family, seed)), ROUNDING
    shortlist = draw(literal.graph, seed)
    start = edges_of(literal.graph, shortlist)
    match = more.get("objective") == "match"
    outcome = literal_acdc(literal, batch, threshold, metric, ablation, match, start)
    if outcome.margin <= rounding:
        return False
    model = random_transformer(family, seed)
    batch = with_means(model, batch, ablation)  # type: ignore[arg-type]
    found = find(model, batch, shortlist, threshold=threshold, metric=metric, ablation=ablation, **more)
    assert edges_of(literal.graph, found.kept) == outcome.kept
    assert found.n_tests == len(outcome.scores) <= len(start)
    for edge in literal.graph.edges():
        expected = outcome.scores.get(edge, 0.0)
        assert found.scores[literal.graph.order(edge)].item() == pytest.approx(expected, abs=rounding)
    return bool(outcome.kept)


@pytest.mark.parametrize(
    ("family", "metric"), list(zip(FAMILIES, ("kl", "logit-diff", "loss", "prob-diff"), strict=True))
)
def test_every_candidate_is_decided_as_the_literal_algorithm_decides_it(family: str, metric: str) -> None:
    agreed = [
        agrees(family, seed, threshold, metric) for seed, threshold in ((1, 0.001), (2, 0.01), (3, 0.1))
    ]
    assert any(agreed)


@pytest.mark.parametrize("ablation", [name for name in ABLATIONS if name != "corrupted"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_ablation_agrees_with_the_literal_algorithm(family: str, ablation: str) -> None:
    agreed = [agrees(family, seed, 0.0347, ablation=ablation) for seed in (4, 5)]
    assert any(agreed)


def test_matching_the_full_model_agrees_with_the_literal_algorithm() -> None:
    assert agrees("llama", 5, 0.02, "logit-diff", objective="match")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("schedule", ["screened", "grouped"])
def test_the_other_schedules_agree_with_their_literal_ones(schedule: str, family: str) -> None:
    agreed = False
    for seed, threshold in ((1, 0.01), (2, 0.05), (3, 0.02)):
        batch, literal = random_batch(seed), Literal(random_model(family, seed))
        shortlist = draw(literal.graph, seed, 0.8)
        search = {"screened": Screened, "grouped": LiteralGrouped}[schedule](
            literal, batch, threshold, "kl", "corrupted"
        )
        search.kept = edges_of(literal.graph, shortlist)
        outcome = search.search()
        if outcome.margin > 1e-9:
            found = find(
                random_transformer(family, seed), batch, shortlist, threshold=threshold, schedule=schedule
            )
            assert edges_of(literal.graph, found.kept) == outcome.kept
            for edge in literal.graph.edges():
                expected = outcome.scores.get(edge, 0.0)
                assert found.scores[literal.graph.order(edge)].item() == pytest.approx(expected, abs=1e-7)
            agreed |= bool(outcome.kept)
    assert agreed


# laws


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_nothing_but_candidates_is_kept_or_has_a_score_and_everything_is_decided(schedule: str) -> None:
    model, batch = random_transformer("gpt2", 3), random_batch(3)
    shortlist = draw(model.architecture.graph, 3)
    found = find(model, batch, shortlist, threshold=0.01, schedule=schedule)
    assert found.kept.any() and not (found.kept & ~shortlist).any()
    outside = readable(model.architecture.graph) & ~shortlist
    assert not found.scores[outside].any() and found.scores[shortlist].any()
    assert torch.equal(found.decided, readable(model.architecture.graph))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_shortlist_of_all_edges_is_the_search_of_all(family: str, schedule: str) -> None:
    model, batch = random_transformer(family, 2), random_batch(2)
    plain = find(model, batch, None, threshold=0.05, schedule=schedule)
    found = find(model, batch, readable(model.architecture.graph), threshold=0.05, schedule=schedule)
    assert torch.equal(found.kept, plain.kept) and found.n_tests == plain.n_tests
    assert torch.allclose(found.scores, plain.scores, atol=1e-8, equal_nan=True)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_nothing_on_the_shortlist_ends_at_once(schedule: str) -> None:
    model, batch = random_transformer("gpt2", 2), random_batch(2)
    found = find(
        model,
        batch,
        torch.zeros_like(readable(model.architecture.graph)),
        threshold=0.1,
        schedule=schedule,
    )
    assert not found.kept.any() and found.n_tests == found.n_evaluated == 0
    assert torch.equal(found.decided, readable(model.architecture.graph))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("family", ["llama", "pythia"])
def test_batch_size_memory_and_threads_change_no_bit(family: str, schedule: str) -> None:
    model = random_transformer(family, 7, dtype=torch.float32)
    batch = random_batch(7, (5, 7, 4, 6, 7, 3, 5))
    method = ACDC(0.02, schedule=schedule, candidates=Candidates(EAPIG(), 35))
    expected, n_threads = method.find(Problem(model, batch, 8)), torch.get_num_threads()
    assert expected.kept.any()
    try:
        for size, threads, in_flight in ((4, 2, 1 << 30), (3, 2, 1), (1, 1, 1)):
            torch.set_num_threads(threads)
            assert same(method.find(Problem(model, batch, size, bytes_in_flight=in_flight)), expected), (
                size
            )
    finally:
        torch.set_num_threads(n_threads)


@pytest.mark.parametrize("longest", [1, 5])
def test_the_length_of_the_chains_changes_no_bit(longest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = random_transformer("llama", 6, dtype=torch.float32), random_batch(6)
    shortlist = draw(model.architecture.graph, 6)
    expected = find(model, batch, shortlist, threshold=0.02)
    monkeypatch.setattr(acdc, "LONGEST_CHAIN", longest)
    monkeypatch.setattr(acdc, "SHORTEST_CHAIN", min(longest, 3))
    assert same(find(model, batch, shortlist, threshold=0.02), expected)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_search_taken_up_after_any_chain_ends_with_the_same_bits(schedule: str) -> None:
    model, batch = random_transformer("llama", 13, dtype=torch.float32), random_batch(13, (5, 7, 4, 6))
    method, shortlist = ACDC(0.02, schedule=schedule), draw(model.architecture.graph, 13, 0.8)
    states: list[Found] = []
    whole = method.find(
        Problem(model, batch, 8),
        keeping(states, model.architecture.graph),
        shortlist=shortlist,
    )
    assert len(states) > 5 and whole.kept.any()
    for state in states:
        assert same(method.find(Problem(model, batch, 4), resuming(state), shortlist=shortlist), whole)


# what is told of such a search


def test_the_candidates_are_the_largest_scores_without_those_that_lead_nowhere() -> None:
    model, batch = random_transformer("gpt2", 3), random_batch(3)
    method = EAP("logit-diff")
    sizes = method.score(Problem(model, batch, 8)).double().mean(0).abs().nan_to_num(-1.0)
    least = sizes.flatten().sort(descending=True).values[24]
    chosen = Candidates(method, 25).choose(Problem(model, batch, 4))
    assert (
        torch.equal(chosen, prune(model.architecture.graph, sizes >= least))
        and 0 < int(chosen.sum()) < 25
    )


def test_a_method_with_candidates_chooses_them_itself_and_says_so() -> None:
    model, batch = random_transformer("gpt2", 3), random_batch(3)
    candidates = Candidates(ActivationMagnitude(), 40)
    method = ACDC(0.02, candidates=candidates)
    shortlist = candidates.choose(Problem(model, batch, 8))
    assert same(method.find(Problem(model, batch, 8)), find(model, batch, shortlist, threshold=0.02))
    said = method.to_dict()["candidates"]
    assert said == {"asked": 40, "method": ActivationMagnitude().to_dict()}
    assert "candidates" not in ACDC(0.02).to_dict()


def test_progress_goes_over_the_candidates_alone() -> None:
    class Listening(Silent):
        def __init__(self) -> None:
            self.seen: list[tuple[float, float]] = []

        def update(self, done: float, total: float, note: str = "") -> None:
            self.seen.append((done, total))

    model, batch = random_transformer("gpt2", 3), random_batch(3)
    shortlist = draw(model.architecture.graph, 3, 0.3)
    n_edges, listening = int(shortlist.sum()), Listening()
    ACDC(0.01).find(Problem(model, batch, 8), Job(listening), shortlist=shortlist)
    done = [count for count, _ in listening.seen]
    assert {total for _, total in listening.seen} == {n_edges}
    assert done == sorted(done) and done[0] < n_edges / 2 and done[-1] == n_edges


def test_the_time_left_is_that_of_the_candidates() -> None:
    graph = Graph(2, 2)
    shortlist = draw(graph, 1, 0.2)
    found, eta = take_up(graph, None, shortlist), Eta(graph, shortlist)
    eta.see(found.kept, found.decided)
    eta._seconds, eta._n_timed = 100.0, 100.0  # a second a test
    eta._products, eta._sums = (
        torch.eye(2, dtype=torch.float64),
        torch.tensor([1.0, 0.0], dtype=torch.float64),
    )
    left = eta._estimate((found.decided & shortlist).sum(1).double(), eta._live(found.kept))
    assert left.longest == pytest.approx(int(shortlist.sum()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("earlier", "threshold"), [(0.3, 0.2), (0.2, 0.15)])
def test_a_search_that_starts_from_another_of_the_same_candidates_ends_as_it_would_alone(
    earlier: float, threshold: float, dtype: torch.dtype
) -> None:
    model, batch = random_transformer("llama", 5, 6, 8, dtype=dtype), random_batch(3)
    graph, shortlist = model.architecture.graph, draw(model.architecture.graph, 5, 0.8)
    first, alone = (find(model, batch, shortlist, threshold=at) for at in (earlier, threshold))
    start = start_from(graph, first, ACDC(earlier), ACDC(threshold), dtype, shortlist)
    assert start is not None and start.n_tests > 0
    found = ACDC(threshold).find(Problem(model, batch, 8), resuming(start), shortlist=shortlist)
    assert same(found, alone) and found.n_evaluated < alone.n_evaluated


def test_only_candidates_count_as_tested_or_undecidable() -> None:
    model, batch = random_transformer("gpt2", 3), random_batch(3)
    graph, shortlist = model.architecture.graph, draw(model.architecture.graph, 3)
    found = find(model, batch, shortlist, threshold=0.0)
    assert (
        int(is_tested(graph, found, shortlist).sum())
        == found.n_tests
        < int(is_tested(graph, found).sum())
    )
    units = Units(graph)
    near = undecidable(units, found, 0.0, 1e-12, shortlist)
    assert set(near) <= edges_of(graph, shortlist) and len(near) < len(
        undecidable(units, found, 0.0, 1e-12)
    )


def test_chains_are_of_candidates_where_another_threshold_takes_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In chains of two, without a0.h1: m0 and a0.h0 into the logits; then input, which is too near the threshold."""
    monkeypatch.setattr(acdc, "LONGEST_CHAIN", 2)
    graph = Graph(1, 2)
    shortlist = readable(graph)
    shortlist[graph.order(Edge.parse("a0.h1->logits"))] = False
    found = take_up(graph, None, shortlist)
    found.scores[graph.order(Edge.parse("input->logits"))] = 0.11
    start = decided_alike(graph, found, 0.3, 0.1, 0.02, shortlist)
    assert {str(edge) for edge in edges_of(graph, start.decided)} == {"m0->logits", "a0.h0->logits"}
    assert start.n_tests == 2
