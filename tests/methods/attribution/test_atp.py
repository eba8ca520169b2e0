"""AtP* against a literal oracle, and what its two repairs find."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from circuitfind.circuits.graph import Edge
from circuitfind.circuits.masks import readable
from circuitfind.errors import UsageError
from circuitfind.methods.attribution import atp
from circuitfind.methods.attribution.atp import AtP
from circuitfind.methods.attribution.eap import EAP
from circuitfind.metrics.measures import MetricName
from circuitfind.metrics.objective import make_objective
from circuitfind.models.components import Layer
from circuitfind.models.transformer import Transformer
from circuitfind.patching.ablation import AblationName
from circuitfind.patching.reference import prepare, run_patched
from circuitfind.progress import Silent
from circuitfind.prompts.batch import Batch
from tests.attributions import agrees, late, linear, same_bits, score, total_effect
from tests.oracles import atp as oracle
from tests.random_models import FAMILIES, random_batch, random_model, random_transformer

REPAIRS = [(True, False), (True, True), (False, True)]


@pytest.mark.parametrize(("qk_fix", "grad_drop"), REPAIRS)
@pytest.mark.parametrize(
    ("metric", "ablation"), [("loss", "corrupted"), ("logit-diff", "zero"), ("prob-diff", "corrupted")]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_score_is_the_literal_one(
    family: str, metric: MetricName, ablation: AblationName, qk_fix: bool, grad_drop: bool
) -> None:
    model, batch = random_transformer(family, 3, 3), random_batch(3, (5, 7, 4))
    batch = late(batch) if metric == "prob-diff" else batch
    expected = oracle.atp(random_model(family, 3, 3), batch, metric, ablation, qk_fix, grad_drop)
    for batch_size in (8, 2, 1) if metric == "loss" else (3,):
        agrees(score(AtP(metric, ablation, qk_fix, grad_drop), model, batch, batch_size), expected)


@pytest.mark.parametrize(("qk_fix", "grad_drop"), REPAIRS)
@pytest.mark.parametrize(
    ("family", "dtype"), [("gpt2", torch.float32), ("llama", torch.float32), ("pythia", torch.float64)]
)
def test_batch_size_and_threads_change_no_bit(
    family: str, dtype: torch.dtype, qk_fix: bool, grad_drop: bool
) -> None:
    same_bits(AtP("loss", qk_fix=qk_fix, grad_drop=grad_drop), family, dtype)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_its_repairs_it_is_eap(family: str) -> None:
    model, batch = random_transformer(family, 2), random_batch(2)
    found = score(AtP("loss", qk_fix=False), model, batch)
    assert torch.allclose(found, score(EAP("loss"), model, batch), rtol=1e-10, atol=1e-12, equal_nan=True)


def test_how_many_scores_are_held_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = random_transformer("llama", 2), random_batch(2)
    expected = score(AtP("loss"), model, batch)
    monkeypatch.setattr(atp, "SCORES", 1)
    assert torch.allclose(
        score(AtP("loss"), model, batch), expected, rtol=1e-10, atol=1e-12, equal_nan=True
    )


def linear_behind_patterns(model: Transformer, sharpness: float = 1.0) -> Transformer:
    """The model with nothing but attention patterns that isn't linear: the more sharpness, the harder they are."""
    straight = linear(model)
    scale = straight.architecture.readout.norm.eps**0.5

    def attending(layer: Layer, own: Layer) -> Layer:
        return replace(layer, W_Q=own.W_Q * scale * sharpness, b_Q=own.b_Q, W_K=own.W_K * scale)

    layers = tuple(map(attending, straight.layers, model.layers))
    return replace(straight, layers=layers)


def measured(model: Transformer, batch: Batch, edge: Edge) -> torch.Tensor:
    """How the objective rises on each prompt as one edge alone is ablated."""
    baseline = prepare(model, batch, "corrupted")
    kept = readable(baseline.graph)
    kept[baseline.graph.order(edge)] = False
    objective = make_objective("logit-diff", model, batch, baseline.final)
    now, then = objective(torch.stack((baseline.final, run_patched(baseline, kept))))
    return then - now


@pytest.mark.parametrize("family", ["gpt2", "pythia"])
def test_where_all_behind_a_pattern_is_linear_the_qk_fix_is_exact(family: str) -> None:
    model, batch = linear_behind_patterns(random_transformer(family, 5)), random_batch(5)
    graph = model.architecture.graph
    found, plain = (score(AtP("logit-diff", qk_fix=fix), model, batch) for fix in (True, False))
    differ = 0.0
    for edge in graph.edges():
        if edge.receiver.node.layer == graph.n_layers - 1 and edge.receiver.slot in ("q", "k"):
            row, column = graph.order(edge)
            expected = measured(model, batch, edge)
            assert torch.allclose(found[:, row, column], expected, rtol=1e-5, atol=1e-7), str(edge)
            differ = max(differ, float((plain[:, row, column] - expected).abs().max()))
    assert differ > 1e-2


def test_the_qk_fix_finds_what_saturated_attention_hides() -> None:
    model, batch = linear_behind_patterns(random_transformer("gpt2", 5), sharpness=300), random_batch(5)
    graph = model.architecture.graph
    found, plain = (score(AtP("logit-diff", qk_fix=fix), model, batch) for fix in (True, False))
    rows = [
        i for i, r in enumerate(graph.receivers) if r.slot == "q" and r.node.layer == graph.n_layers - 1
    ]
    n_readable = graph.n_readable(graph.receivers[rows[0]])
    found, plain = found[:, rows, :n_readable], plain[:, rows, :n_readable]
    hidden = (plain.abs() < 1e-9) & (found.abs() > 1e-2)
    assert hidden.any()
    for _, row, column in hidden.nonzero().tolist():
        edge = Edge(graph.senders[column], graph.receivers[rows[row]])
        assert torch.allclose(found[:, row, column], measured(model, batch, edge), rtol=1e-4, atol=1e-6)


def test_grad_drop_finds_what_a_later_layer_cancels() -> None:
    """The last MLP writes what it reads with the other sign, so that nothing behind it sees anything before it."""
    model, batch = linear(random_transformer("pythia-sequential", 5)), random_batch(5)
    last, d_model = model.layers[-1], model.architecture.d_model
    width = last.W_in.shape[1]
    undoing = replace(
        last,
        W_in=torch.eye(d_model, width, dtype=model.dtype) * 1e9,
        W_out=-torch.eye(width, d_model, dtype=model.dtype),
    )
    model = replace(model, layers=(*model.layers[:-1], undoing))
    plain, found = (
        score(AtP("logit-diff", grad_drop=drop), model, batch)[:, :-2].nan_to_num(0)
        for drop in (False, True)
    )
    assert float(plain.abs().max()) < 1e-6 * float(found.max())
    assert float(found[:, : model.architecture.n_heads * 3 + 1].amax((1, 2)).min()) > 1e-2


def test_grad_drop_is_never_negative_and_leaves_edges_into_the_logits_as_they_are() -> None:
    model, batch = random_transformer("gpt2", 4, 3), random_batch(4)
    found, plain = (
        score(AtP("loss", grad_drop=drop), model, batch).nan_to_num(0) for drop in (True, False)
    )
    assert float(found.min()) >= 0
    assert torch.allclose(found[:, -1], plain[:, -1].abs())


@pytest.mark.parametrize("family", ["gpt2", "pythia"])
def test_in_a_linear_model_the_scores_sum_to_the_effect(family: str) -> None:
    model, batch = linear(random_transformer(family, 5)), random_batch(5)
    effect, scores = total_effect(model, batch, "logit-diff"), score(AtP("logit-diff"), model, batch)
    assert torch.allclose(scores[:, -1].sum(-1), effect, rtol=1e-6)
    assert torch.allclose(scores[:, :, 0].sum(-1), effect, rtol=1e-6)


def test_progress_counts_every_layer_of_every_block() -> None:
    told: list[tuple[float, float]] = []

    class Told(Silent):
        def update(self, done: float, total: float, note: str = "") -> None:
            told.append((done, total))

    score(AtP("loss"), random_transformer("gpt2", 1), random_batch(1), 2, Told())
    assert told == [(done, 4) for done in range(1, 5)]


def test_kl_is_refused() -> None:
    with pytest.raises(UsageError, match=r"atp.*clean run"):
        AtP("kl")


def test_a_model_of_one_layer_has_nothing_to_drop() -> None:
    model, batch = random_transformer("gpt2", 1, 1), random_batch(1)
    with pytest.raises(UsageError, match=r"--grad-drop.*1 layer"):
        score(AtP("loss", grad_drop=True), model, batch)
    assert score(AtP("loss"), model, batch).nansum() != 0


def test_the_record_names_every_option_and_says_what_a_score_is() -> None:
    record = AtP("loss").to_dict()
    assert (record["name"], record["qk_fix"], record["grad_drop"]) == ("atp", True, False)
    assert record["score"].endswith("positive if ablation hurts")
    assert AtP("loss", grad_drop=True).to_dict()["score"].endswith("never negative")
