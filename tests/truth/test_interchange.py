"""The trained models: their programs with edges read from another prompt, and how exactly they compute them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random

import pytest
import torch

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge
from circuitfind.circuits.masks import readable
from circuitfind.models.forward import trace
from circuitfind.patching.reference import prepare, run_patched
from circuitfind.truth.bench import Question, load_question
from circuitfind.truth.known import known_models
from tools.truth.interchange import (
    PROGRAMS,
    Aligned,
    Bars,
    Recipe,
    batch_of,
    draw_removed,
    is_exact,
    judge,
    main,
    new_model,
    places,
    state,
    train,
)

BY_NAME = {program.name: program for program in PROGRAMS}
SMALL = Recipe(n_layers=2, n_heads=4, d_head=4, d_mlp=8, n_prompts=4)


@cache
def question(name: str) -> Question:
    return load_question(known_models()[name])


def answer(name: str, clean: str, corrupted: str, *removed: str) -> str:
    """The program's answer, as a word, where these edges carry the corrupted prompt's."""
    program = BY_NAME[name]
    tokens = program.tokens([tuple(clean.split()), tuple(corrupted.split())])
    found = program.answers(tokens[:1], tokens[1:], frozenset(map(Edge.parse, removed)))
    return program.words[int(found)]


@pytest.mark.parametrize(
    ("removed", "right"),
    [
        ((), "2"),  # b's digit
        (("input->a1.h2<q>",), "3"),  # c's
        (("a0.h1->a1.h2<k>",), "1"),  # the digit where b stands in the other prompt
        (("input->a0.h1<v>",), "1"),
        (("input->a1.h2<v>",), "4"),  # the other digit where b stands here
        (("a1.h2->logits",), "0"),  # the other prompt's answer
        (("input->a1.h2<q>", "a0.h1->a1.h2<k>"), "3"),  # c stands third there too
    ],
)
def test_lookup_reads_what_was_ablated_from_the_other_prompt(
    removed: tuple[str, ...], right: str
) -> None:
    assert answer("lookup", "a 1 b 2 c 3 b", "b 3 a 4 c 0 c", *removed) == right


@pytest.mark.parametrize(
    ("removed", "right"),
    [
        ((), "0"),  # 2 + 3 mod 5
        (("a0.h1->m1",), "2"),  # 4 + 3
        (("input->a1.h3<v>",), "3"),  # 2 + 1
        (("input->m1",), "4"),  # 2 - 3
        (("a0.h1->m1", "input->m1"), "1"),  # 4 - 3
        (("m1->logits",), "3"),  # 4 - 1
    ],
)
def test_sum_reads_what_was_ablated_from_the_other_prompt(removed: tuple[str, ...], right: str) -> None:
    assert answer("sum", "2 3 +", "4 1 -", *removed) == right


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_the_true_edges_are_the_programs(program: Aligned) -> None:
    graph = question(program.name).model.transformer.architecture.graph
    assert set(known_models()[program.name].circuit.edges) == set(program.edges) and graph.n_edges == 110


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_the_shipped_model_is_as_exact_as_the_script_asks(program: Aligned) -> None:
    assert is_exact(judge(program, question(program.name).model.transformer), Bars())


def test_a_model_that_was_never_trained_falls_short_of_every_bar() -> None:
    program = PROGRAMS[0]
    model = new_model(SMALL, len(program.words), torch.Generator().manual_seed(0))
    judged = judge(program, model)
    assert not is_exact(judged, Bars(kl=100)) and not is_exact(judged, Bars(accuracy=0))
    assert is_exact(judged, Bars(accuracy=0, kl=100))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_other_nodes_are_active(program: Aligned) -> None:
    asked = question(program.name)
    change = prepare(asked.model.transformer, asked.batch, "corrupted").change
    assert change.abs().amax((1, 2, 3)).min() > 0.01


def test_steps_ablate_the_programs_edges_only_where_the_answer_knows_of_it() -> None:
    program, rng = PROGRAMS[0], Random(0)
    model = new_model(SMALL, len(program.words), torch.Generator().manual_seed(0))
    own = places(model, program.edges)
    seen = [draw_removed(program, model, SMALL, rng) for _ in range(100)]
    for removed, edges in seen:
        assert torch.equal(removed & own, places(model, sorted(edges, key=str)))
    assert any(edges for _, edges in seen) and any(not edges for _, edges in seen)
    others = readable(model.architecture.graph) & ~own
    assert any(bool((removed & others).eq(others).all()) for removed, _ in seen)


def test_training_is_the_same_again_and_moves_every_weight() -> None:
    program = replace(PROGRAMS[1], n_steps=20)
    first, again = state(train(program, SMALL)), state(train(program, SMALL))
    start = state(new_model(SMALL, len(program.words), torch.Generator().manual_seed(0)))
    assert all(torch.equal(first[name], again[name]) for name in first)
    unmoved = {name for name in first if torch.equal(first[name], start[name])}
    assert {name for name in unmoved if "ln_" not in name} == set()


def test_the_patched_run_that_is_trained_on_is_the_clean_one_where_nothing_is_ablated() -> None:
    program = PROGRAMS[0]
    model = new_model(SMALL, len(program.words), torch.Generator().manual_seed(0))
    batch = batch_of(program, Random(1), 4)
    ran = run_patched(prepare(model, batch, "corrupted"), readable(model.architecture.graph))
    assert torch.equal(ran, trace(model, batch.clean).final[:, -1])


@pytest.mark.slow
def test_what_is_not_exact_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.truth.interchange.PROGRAMS", (replace(PROGRAMS[1], n_steps=20),))
    with pytest.raises(SystemExit, match="Not saved: sum is not exact enough"):
        main(tmp_path, SMALL)
    assert list(tmp_path.iterdir()) == []
    main(tmp_path, SMALL, Bars(accuracy=0, kl=100))
    assert set(Circuit.load(tmp_path / "sum").edges) == set(PROGRAMS[1].edges)
