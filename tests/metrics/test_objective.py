"""Metrics against numbers worked by hand, against a literal version, and against what a search computes instead."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitfind.errors import UsageError
from circuitfind.metrics import log_z
from circuitfind.metrics.log_z import log_partition
from circuitfind.metrics.measures import (
    HIGHER_IS_BETTER,
    MetricName,
    check_answers,
    correct,
    find_metric,
    kl,
    logit_diff,
    loss,
    prob_diff,
)
from circuitfind.metrics.objective import make_objective
from circuitfind.models.transformer import final_norm, unembed
from circuitfind.prompts.batch import Batch
from circuitfind.prompts.task_metric import METRICS
from tests.oracles.metrics import objective as literal
from tests.random_models import FAMILIES, random_batch, random_transformer


def batch(answers: tuple[tuple[int, ...], ...], wrong: tuple[tuple[int, ...], ...]) -> Batch:
    """As many prompts of one token as there are answers."""
    tokens = torch.zeros(len(answers), 1, dtype=torch.int64)
    return Batch(tokens, tokens, torch.zeros(len(answers), dtype=torch.int64), answers, wrong)


def logits_of(*probabilities: float) -> torch.Tensor:
    """One prompt's logits of these probabilities, shifted: a constant changes no metric."""
    return torch.tensor([probabilities]).log() + 7.0


ONE = batch(((0,),), ((1,),))


def test_kl_of_two_tokens() -> None:
    # P = 1/2, 1/2 and Q = 1/4, 3/4: 1/2 log 2 + 1/2 log 2/3 = 1/2 log 4/3 = 0.1438
    full, circuit = logits_of(0.5, 0.5), logits_of(0.25, 0.75)
    assert kl(full.log_softmax(-1), circuit).item() == pytest.approx(0.5 * math.log(4 / 3), abs=1e-6)
    # the other way around it is another number: 1/4 log 1/2 + 3/4 log 3/2 = 0.1308
    assert kl(circuit.log_softmax(-1), full).item() == pytest.approx(0.1308, abs=1e-4)
    assert kl(full.log_softmax(-1), full + 3).item() == pytest.approx(0, abs=1e-6)


def test_logit_diff_of_two_tokens() -> None:
    # log 3/4 - log 1/4 = log 3
    assert logit_diff(logits_of(0.75, 0.25), ONE).item() == pytest.approx(math.log(3), abs=1e-6)


def test_logit_diff_takes_the_mean_of_several_answers() -> None:
    # (5 + 1) / 2 - (2 + 4 + 0) / 3 = 1
    logits = torch.tensor([[5.0, 1.0, 2.0, 4.0, 0.0]])
    assert logit_diff(logits, batch(((0, 1),), ((2, 3, 4),))).item() == 1.0


def test_prob_diff_sums_the_probabilities_of_several_answers() -> None:
    # .1 + .4 - .2 = .3; the rest, .3, counts for neither
    logits = logits_of(0.1, 0.4, 0.2, 0.3)
    assert prob_diff(logits, batch(((0, 1),), ((2,),))).item() == pytest.approx(0.3, abs=1e-6)


def test_loss_of_several_answers_is_that_of_their_summed_probability() -> None:
    # -log (.1 + .4) = log 2
    logits = logits_of(0.1, 0.4, 0.2, 0.3)
    assert loss(logits, batch(((0, 1),), ((2,),))).item() == pytest.approx(math.log(2), abs=1e-6)
    assert loss(logits, batch(((1,),), ((2,),))).item() == pytest.approx(-math.log(0.4), abs=1e-6)


@pytest.mark.parametrize(
    ("probabilities", "right", "wrong", "expected"),
    [
        (
            (0.3, 0.2, 0.5),
            (0,),
            (1,),
            1.0,
        ),  # likelier than every wrong answer, though another token is likelier still
        ((0.2, 0.3, 0.5), (0,), (1,), 0.0),
        ((0.1, 0.2, 0.3, 0.4), (0, 3), (1, 2), 1.0),  # one right answer is enough
        ((0.1, 0.4, 0.3, 0.2), (0, 3), (1, 2), 0.0),
        ((0.25, 0.25, 0.5), (0,), (1,), 0.0),  # a tie is not likelier
        ((0.3, 0.2, 0.5), (0,), (), 0.0),  # without wrong answers every other token is a rival
        ((0.5, 0.2, 0.3), (0,), (), 1.0),
        ((0.4, 0.35, 0.25), (0, 1), (), 1.0),  # but not another right answer
    ],
)
def test_a_prompt_is_correct_where_an_answer_beats_its_rivals(
    probabilities, right, wrong, expected
) -> None:
    assert correct(logits_of(*probabilities), batch((right,), (wrong,))).item() == expected


def test_without_wrong_answers_a_difference_is_not_a_number_and_a_loss_is() -> None:
    alone = batch(((0,),), ((),))
    assert logit_diff(logits_of(0.5, 0.5), alone).isnan().all()
    assert loss(logits_of(0.5, 0.5), alone).item() == pytest.approx(math.log(2), abs=1e-6)


def test_each_prompt_has_its_own_answers() -> None:
    logits = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    assert logit_diff(logits, batch(((0,), (2,)), ((1,), (0,)))).tolist() == [-1.0, 24.0]


@pytest.mark.parametrize("measure", [logit_diff, prob_diff, loss, correct])
def test_a_metric_of_many_runs_is_that_of_each(measure) -> None:
    answers = random_batch(1)
    logits = torch.randn(4, 3, 29, generator=torch.Generator().manual_seed(0))
    together = measure(logits, answers)
    assert together.shape == (4, 3) and together.dtype == torch.float64
    assert torch.equal(together, torch.stack([measure(row, answers) for row in logits]))


@given(st.integers(0, 10**6), st.sampled_from(METRICS))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_the_metrics_agree_with_the_literal_ones(seed: int, name: MetricName) -> None:
    generator = torch.Generator().manual_seed(seed)
    full, logits = (5 * torch.randn(3, 29, generator=generator, dtype=torch.float64) for _ in range(2))
    answers = random_batch(seed)
    measure = {"logit-diff": logit_diff, "prob-diff": prob_diff, "loss": loss}
    ours = kl(full.log_softmax(-1), logits) if name == "kl" else measure[name](logits, answers)
    sign = -1 if name in HIGHER_IS_BETTER else 1
    for i in range(3):
        expected = literal(name, full[i], logits[i], answers.answers[i], answers.wrong_answers[i])
        assert sign * ours[i].item() == pytest.approx(expected, abs=1e-9)


# what a search minimises


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("match", [False, True])
def test_the_objective_is_the_metric_of_the_full_logits(
    family: str, name: MetricName, match: bool
) -> None:
    model, answers = random_transformer(family, 1), random_batch(5)
    model = replace(model, b_U=torch.linspace(-1, 1, 29, dtype=torch.float64))  # a bias must count
    finals = torch.randn(
        4, 3, model.architecture.d_model, generator=torch.Generator().manual_seed(1)
    ).double()
    full = finals[0] + 0.5
    ours = make_objective(name, model, answers, full, match)(finals)
    for test, prompt in ((0, 0), (1, 1), (3, 2)):
        at, reference = (unembed(model, x[prompt]) for x in (finals[test], full))
        sides = answers.answers[prompt], answers.wrong_answers[prompt]
        expected = literal(name, reference, at, *sides)
        expected = abs(expected - literal(name, reference, reference, *sides)) if match else expected
        assert ours[test, prompt].item() == pytest.approx(expected, abs=1e-9)


def test_the_full_model_is_no_distance_from_itself() -> None:
    model, answers = random_transformer("llama", 1), random_batch(5)
    full = torch.randn(3, model.architecture.d_model, generator=torch.Generator().manual_seed(1)).double()
    for name in METRICS:
        assert (
            make_objective(name, model, answers, full, match=True)(full.unsqueeze(0)).abs().max() < 1e-12
        )


@pytest.mark.parametrize("name", METRICS)
def test_a_prompts_objective_does_not_depend_on_the_tests_beside_it(name: MetricName) -> None:
    model, answers = random_transformer("gpt2", 1, dtype=torch.float32), random_batch(5, (5, 7, 4, 6))
    finals = torch.randn(9, 4, model.architecture.d_model, generator=torch.Generator().manual_seed(1))
    objective = make_objective(name, model, answers, finals[0] + 0.5)
    together = objective(finals)
    for n in (1, 2, 5):
        assert torch.equal(objective(finals[:n]), together[:n])


@pytest.mark.parametrize(("vocab_slice", "vector"), [(2048, 32), (32, 32), (8, 4), (4, 4), (1, 1)])
def test_however_few_tokens_are_unembedded_at_a_time_the_partition_is_the_same(
    vocab_slice: int, vector: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = replace(random_transformer("gpt2", 1), b_U=torch.linspace(-1, 1, 29, dtype=torch.float64))
    x = final_norm(model, torch.randn(7, 3, 16, generator=torch.Generator().manual_seed(1)).double())
    expected = (x @ model.W_U + model.b_U).logsumexp(-1)
    monkeypatch.setattr(log_z, "VOCAB_SLICE", vocab_slice)
    monkeypatch.setattr(log_z, "VECTOR", vector)
    assert torch.allclose(log_partition(model, x), expected, atol=1e-12)


def test_large_logits_do_not_overflow() -> None:
    model = random_transformer("gpt2", 1, dtype=torch.float32)
    model = replace(model, W_U=model.W_U * 1000)
    full = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    for name in METRICS:
        value = make_objective(name, model, random_batch(5), full)(full.unsqueeze(0) + 1)
        assert value.isfinite().all()


# names and answers


def test_a_metric_is_found_by_name_and_an_unknown_one_is_told_the_nearest() -> None:
    assert [find_metric(name) for name in METRICS] == list(METRICS)
    with pytest.raises(UsageError, match=r"No metric named 'logit_diff'\. Did you mean 'logit-diff'\?"):
        find_metric("logit_diff")


@pytest.mark.parametrize("name", METRICS)
def test_only_differences_need_wrong_answers(name: MetricName) -> None:
    check_answers(name, batch(((0,), (1,)), ((1,), (0,))))
    lacking = batch(((0,), (1,)), ((1,), ()))
    if name not in HIGHER_IS_BETTER:
        check_answers(name, lacking)
        return
    with pytest.raises(
        UsageError, match=rf"{name} compares with wrong answers; prompt 2 has none\. Use --metric kl"
    ):
        check_answers(name, lacking)
