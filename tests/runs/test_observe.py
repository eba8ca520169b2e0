"""What a model's runs show: attention as Hugging Face computes it, and writes that sum to the logits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from random_models import FAMILIES, random_batch, random_model, random_transformer

from circuitfind.circuits.graph import Node
from circuitfind.models.forward import at_end, trace
from circuitfind.models.transformer import unembed
from circuitfind.runs.logit_effect import read_writes
from circuitfind.runs.observe import read_patterns, to_bytes


@pytest.mark.parametrize("family", FAMILIES)
def test_what_senders_write_and_the_rest_sum_to_the_logits_above_their_mean(family: str) -> None:
    model, batch = random_transformer(family, 3), random_batch(5)
    runs = trace(model, batch.clean), trace(model, batch.corrupted)
    rest, writes, total = read_writes(model, batch, runs)
    assert list(writes) == list(model.architecture.graph.senders)
    logits = unembed(model, at_end(runs[0].final, batch.end))
    for prompt in range(batch.n_prompts):
        above = logits[prompt] - logits[prompt].mean()
        answer, wrong = (
            above[list(group[prompt])].mean() for group in (batch.answers, batch.wrong_answers)
        )
        parts = [rest[prompt], *(written[prompt] for written in writes.values())]
        assert sum(part.answer[0] for part in parts) == pytest.approx(float(answer), abs=1e-9)
        assert sum(part.wrong[0] for part in parts if part.wrong) == pytest.approx(float(wrong), abs=1e-9)
        assert total[prompt].answer[0] == pytest.approx(float(answer), abs=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_node_writes_what_the_logits_change_by_without_it_at_the_clean_scale(family: str) -> None:
    """By hand, in float64: the stream minus the node's output, through a norm whose scale is held."""
    model, batch = random_transformer(family, 4), random_batch(6)
    runs = trace(model, batch.clean), trace(model, batch.corrupted)
    _, writes, _ = read_writes(model, batch, runs)
    x, out = (at_end(run, batch.end) for run in (runs[0].final, runs[1].mlp_out[1]))
    is_layer = model.architecture.readout.norm.kind == "layer"
    centre = (lambda v: v - v.mean(-1, keepdim=True)) if is_layer else (lambda v: v)
    scale = (centre(x).square().mean(-1, keepdim=True) + model.architecture.readout.norm.eps).sqrt()
    change = (centre(out) / scale * model.final_gain) @ model.W_U
    change = change - change.mean(-1, keepdim=True)
    for prompt, written in enumerate(writes[Node("mlp", 1)]):
        assert written.answer[1] == pytest.approx(
            float(change[prompt, list(batch.answers[prompt])].mean()), abs=1e-9
        )


def test_without_wrong_answers_there_is_the_answer_alone() -> None:
    model, batch = random_transformer("gpt2", 3), random_batch(5)
    batch = replace(batch, wrong_answers=((),) * batch.n_prompts)
    run = trace(model, batch.clean)
    _, _, total = read_writes(model, batch, (run, run))
    assert all(written.wrong is None for written in total)


@pytest.mark.parametrize("family", FAMILIES)
def test_patterns_are_hugging_faces_to_half_a_step(family: str) -> None:
    model, batch = random_transformer(family, 3), random_batch(5)
    runs = trace(model, batch.clean), trace(model, batch.corrupted)
    heads = [Node("head", 1, 0), Node("head", 0, 1)]
    patterns = read_patterns(model, batch, runs, heads)
    reference = random_model(family, 3)
    reference.set_attn_implementation("eager")
    said = reference(batch.corrupted, output_attentions=True).attentions
    for node in heads:
        for prompt, end in enumerate(batch.end.tolist()):
            expected = said[node.layer][prompt, node.head, : end + 1, : end + 1].tril()
            found = iter(patterns[node][prompt].corrupted)
            rows = [[next(found) / 255 for _ in range(query + 1)] for query in range(end + 1)]
            assert next(found, None) is None
            for row, values in zip(rows, expected.tolist(), strict=True):
                assert row == pytest.approx(values[: len(row)], abs=0.5 / 255 + 1e-6)


def test_a_pattern_is_its_lower_triangle_row_by_row() -> None:
    pattern = torch.tensor([[1.0, 0.0, 0.0], [0.2, 0.8, 0.0], [0.0, 0.4, 0.6]])
    assert list(to_bytes(pattern, 3)) == [255, 51, 204, 0, 102, 153]
    assert list(to_bytes(pattern, 2)) == [255, 51, 204]
