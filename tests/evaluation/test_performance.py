"""Full model, circuit and ablated model side by side, and the faithfulness between them."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from circuitfind.circuits.masks import readable
from circuitfind.evaluation.performance import NAMES, Evaluation, Performance, evaluate, task_performance
from circuitfind.models.transformer import unembed
from circuitfind.patching.ablation import AblationName
from circuitfind.patching.reference import prepare
from tests.evaluation.made import Counting
from tests.oracles.metrics import objective as literal
from tests.random_models import FAMILIES, random_batch, random_model, random_transformer

LENGTHS = (5, 7, 4, 6, 7, 3, 5)


def measured(*differences: float) -> Performance:
    """A run with these logit differences, a prompt each; the rest does not matter."""
    return Performance({name: tuple(differences) for name in NAMES})


def test_an_evaluation_tells_how_many_prompts_are_done() -> None:
    model, batch, progress = random_transformer("gpt2", seed=3), random_batch(4, LENGTHS), Counting()
    evaluate(model, batch, readable(model.architecture.graph), "corrupted", 4, progress=progress)
    assert progress.told[-1] == (7, 7) and len(progress.told) > 1
    assert [done for done, _ in progress.told] == sorted(done for done, _ in progress.told)


def evaluation(full: float, circuit: float, ablated: float) -> Evaluation:
    return Evaluation(measured(full), measured(circuit), measured(ablated))


@pytest.mark.parametrize(
    ("full", "circuit", "ablated", "expected"),
    [
        (4.0, 3.0, 0.0, 0.75),  # (3 - 0) / (4 - 0)
        (4.0, 3.0, 2.0, 0.5),  # (3 - 2) / (4 - 2)
        (4.0, 4.0, -1.0, 1.0),
        (4.0, -1.0, -1.0, 0.0),
        (4.0, 6.0, 0.0, 1.5),  # over-recovery
        (4.0, -2.0, 0.0, -0.5),
        (0.0, 0.5, 2.0, 0.75),  # KL falls towards the full model: (.5 - 2) / (0 - 2)
    ],
)
def test_faithfulness_is_the_share_of_the_difference_that_the_circuit_keeps(
    full, circuit, ablated, expected
) -> None:
    assert evaluation(full, circuit, ablated).faithfulness("logit-diff") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("full", "circuit", "ablated"),
    [(1.0, 0.5, 1.0), (1.0, 0.5, 1.0 + 1e-12), (math.nan, 0.5, 1.0), (2.0, math.nan, 1.0)],
)
def test_without_a_difference_to_keep_there_is_no_faithfulness(full, circuit, ablated) -> None:
    assert evaluation(full, circuit, ablated).faithfulness("logit-diff") is None


def test_a_mean_is_that_of_all_prompts_and_rounded_once() -> None:
    assert measured(1.0, 2.0, 6.0).mean("kl") == 3.0
    assert measured(*[0.1] * 10).mean("kl") == 0.1  # a plain sum gives 0.09999999999999999
    assert measured(1.0, math.nan).mean("kl") is None


def test_the_block_of_the_file_is_json_and_names_every_run() -> None:
    block = evaluation(4.0, 3.0, 0.0).to_dict()
    assert json.loads(json.dumps(block, allow_nan=False)) == block
    names = [
        "full",
        "circuit",
        "ablated",
        "faithfulness",
        "faithfulness_interval",
        "faithfulness_by_metric",
    ]
    assert list(block) == names
    assert block["faithfulness_interval"] is None  # of one prompt
    assert block["faithfulness"] == 0.75 and block["full"] == dict.fromkeys(NAMES, 4.0)


def test_without_wrong_answers_the_faithfulness_is_that_of_kl() -> None:
    runs = [Performance({**measured(kl).values, "logit-diff": (math.nan,)}) for kl in (0.0, 0.5, 2.0)]
    block = Evaluation(*runs).to_dict()
    assert block["faithfulness"] == 0.75
    assert block["full"]["logit-diff"] is None  # type: ignore[index]


def random_kept(model, seed: int) -> torch.Tensor:
    edges = readable(model.architecture.graph)
    return edges & (torch.rand(edges.shape, generator=torch.Generator().manual_seed(seed)) < 0.6)


@pytest.mark.parametrize("ablation", ["corrupted", "zero"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
def test_neither_batch_size_nor_threads_change_a_bit(
    family: str, dtype: torch.dtype, ablation: AblationName
) -> None:
    model, batch = random_transformer(family, 1, dtype=dtype), random_batch(1, LENGTHS)
    kept, before = random_kept(model, 1), torch.get_num_threads()
    expected = evaluate(model, batch, kept, ablation, 8)
    try:
        for n_threads, batch_size in ((1, 1), (2, 3), (2, 4), (1, 100)):
            torch.set_num_threads(n_threads)
            assert evaluate(model, batch, kept, ablation, batch_size) == expected, (n_threads, batch_size)
            assert task_performance(model, batch, batch_size) == task_performance(model, batch, 8)
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def test_the_full_and_the_ablated_run_are_the_clean_and_the_corrupted_prompts() -> None:
    model, batch = random_transformer("gpt2", 1), random_batch(1, LENGTHS)
    found = evaluate(model, batch, random_kept(model, 1), "corrupted", 3)
    hub = random_model("gpt2", 1)
    for i, end in enumerate(batch.end.tolist()):
        full, ablated = (
            hub(tokens[None, i, : end + 1]).logits[0, -1] for tokens in (batch.clean, batch.corrupted)
        )
        sides = batch.answers[i], batch.wrong_answers[i]
        for run, logits in ((found.full, full), (found.ablated, ablated)):
            assert run.values["kl"][i] == pytest.approx(literal("kl", full, logits, *sides), abs=1e-9)
            assert run.values["logit-diff"][i] == pytest.approx(
                -literal("logit-diff", full, logits, *sides), abs=1e-9
            )
            assert run.values["prob-diff"][i] == pytest.approx(
                -literal("prob-diff", full, logits, *sides), abs=1e-9
            )
            assert run.values["loss"][i] == pytest.approx(literal("loss", full, logits, *sides), abs=1e-9)


def test_the_whole_graph_is_perfectly_faithful_and_the_empty_one_not_at_all() -> None:
    model, batch = random_transformer("llama", 1), random_batch(1, LENGTHS)
    whole = readable(model.architecture.graph)
    everything, nothing = (
        evaluate(model, batch, kept, "corrupted", 4) for kept in (whole, torch.zeros_like(whole))
    )
    assert everything.circuit == everything.full and everything.faithfulness("logit-diff") == 1.0
    assert nothing.circuit == nothing.ablated and nothing.faithfulness("kl") == 0.0


def test_a_ragged_last_block_weighs_by_its_prompts() -> None:
    model, batch = random_transformer("gpt2", 1), random_batch(1, LENGTHS)
    performance = task_performance(model, batch, 4)
    assert all(len(values) == len(LENGTHS) for values in performance.values.values())
    assert performance.mean("loss") == pytest.approx(sum(performance.values["loss"]) / len(LENGTHS))


def test_prompts_without_wrong_answers_have_no_difference_but_a_loss() -> None:
    model, batch = random_transformer("gpt2", 1), random_batch(1)
    performance = task_performance(model, replace(batch, wrong_answers=((),) * 3), 4)
    assert performance.mean("logit-diff") is None
    logits = unembed(model, prepare(model, batch, "zero").final).log_softmax(-1)
    expected = [-logits[i, list(tokens)].logsumexp(-1).item() for i, tokens in enumerate(batch.answers)]
    assert list(performance.values["loss"]) == pytest.approx(expected, abs=1e-9)


def test_the_runs_that_no_circuit_changes_may_be_taken_over() -> None:
    model, batch = random_transformer("gpt2", 1, dtype=torch.float32), random_batch(2)
    kept = [random_kept(model, seed) for seed in (1, 2)]
    known = evaluate(model, batch, kept[0], "corrupted", 2)
    assert evaluate(model, batch, kept[1], "corrupted", 2, known) == evaluate(
        model, batch, kept[1], "corrupted", 2
    )


def test_the_interval_of_prompts_that_agree_is_a_point() -> None:
    found = Evaluation(measured(4.0, 2.0, 8.0), measured(3.0, 1.5, 6.0), measured(0.0, 0.0, 0.0))
    assert found.interval("logit-diff") == pytest.approx((0.75, 0.75))


def test_the_interval_holds_the_faithfulness_and_grows_with_what_prompts_disagree_on() -> None:
    def width(*circuit: float) -> float:
        found = Evaluation(measured(*[4.0] * 8), measured(*circuit), measured(*[0.0] * 8))
        faithfulness, interval = found.faithfulness("logit-diff"), found.interval("logit-diff")
        assert faithfulness is not None
        assert interval is not None
        assert interval[0] <= faithfulness <= interval[1]
        return interval[1] - interval[0]

    assert 0 < width(3, 3, 3, 3, 3, 3, 3, 2.9) < width(1, 2, 3, 4, 3, 2, 1, 0)


def test_without_a_faithfulness_there_is_no_interval() -> None:
    assert evaluation(1.0, 0.5, 1.0).interval("logit-diff") is None
