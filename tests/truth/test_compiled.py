"""The compiled models: each computes its program, with its true edges, with all of them, and with nothing else."""

from __future__ import annotations

import filecmp
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from itertools import accumulate
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from torch import Tensor

from circuitfind.circuits.graph import Edge, Node
from circuitfind.circuits.masks import readable
from circuitfind.metrics.measures import kl
from circuitfind.models.forward import trace
from circuitfind.models.transformer import unembed
from circuitfind.patching.reference import Baseline, prepare, run_patched
from circuitfind.truth.bench import Question, load_question
from circuitfind.truth.known import MODELS, known_models
from tools.truth.compiler import Blueprint, Part, constant_variables, true_edges
from tools.truth.make import blueprint_of, constants_of, draw_pairs, main
from tools.truth.programs import PROGRAMS, Program

LEAST_EFFECT, MOST_LEAK = 0.1, 0.02
"""In nats: what a true edge costs at least on some prompt, and all others together at most on any."""


def reverse(words: list[str]) -> str:
    letters = [word for word in words[:-1] if word != "_"]
    return letters[-int(words[-1].strip("?"))]


def sort(words: list[str]) -> str:
    return "".join(letter * count for letter, count in sorted(Counter(words[:-1]).items()))[
        int(words[-1][1]) - 1
    ]


def dyck(words: list[str]) -> str:
    heights = list(accumulate({"(": 1, ")": -1}[word] for word in words))
    return "F" if min(heights) < 0 else "PT"[heights[-1] == 0]


ORACLES: dict[str, Callable[[list[str]], str]] = {
    "reverse": reverse,
    "frac-prevs": lambda words: str(Fraction(sum(word == "x" for word in words), len(words))),
    "sort": sort,
    "histogram": lambda words: str(Counter(words)[words[-1]]),
    "dyck-1": dyck,
    "or": lambda words: str(int(words[0]) | int(words[1])),
    "and": lambda words: str(int(words[0]) & int(words[1])),
}
NAMES = tuple(ORACLES)


@cache
def question(name: str) -> Question:
    return load_question(known_models()[name])


@cache
def baseline(name: str) -> Baseline:
    return prepare(question(name).model.transformer, question(name).batch, "corrupted")


def program_of(name: str) -> Program:
    return next(program for program in PROGRAMS if program.name == name)


def cost(name: str, kept: Tensor) -> Tensor:
    """KL(full || circuit) of each prompt."""
    run = baseline(name)
    full = unembed(run.model, run.final).double().log_softmax(-1)
    return kl(full, unembed(run.model, run_patched(run, kept)).double())


def test_every_program_has_an_oracle() -> None:
    assert {program.name for program in PROGRAMS} == set(ORACLES)


@pytest.mark.parametrize("name", NAMES)
def test_the_model_computes_its_program_on_random_prompts(name: str) -> None:
    program, model, rng = program_of(name), question(name).model.transformer, Random(99)
    drawn = [program.draw(rng) for _ in range(200)]
    for length in {len(words) for words in drawn}:
        alike = [words for words in drawn if len(words) == length]
        tokens = torch.tensor([[program.words.index(word) for word in words] for words in alike])
        likeliest = unembed(model, trace(model, tokens).final)[:, -1].argmax(-1)
        for words, token in zip(alike, likeliest.tolist(), strict=True):
            assert program.words[token] == ORACLES[name](list(words)) == program.answer(words), words


@pytest.mark.parametrize("name", NAMES)
def test_the_true_edges_alone_give_the_full_models_distribution(name: str) -> None:
    assert cost(name, question(name).truth).max() < MOST_LEAK


@pytest.mark.parametrize("name", NAMES)
def test_every_true_edge_is_necessary_beside_all_others_and_alone(name: str) -> None:
    truth = question(name).truth
    for place in truth.nonzero().tolist():
        for kept in (truth, readable(baseline(name).graph)):
            without = kept.clone()
            without[tuple(place)] = False
            assert cost(name, without).max() > LEAST_EFFECT, place


@pytest.mark.parametrize("name", NAMES)
def test_distractors_are_active_and_their_edges_many(name: str) -> None:
    change, graph = baseline(name).change, baseline(name).graph
    assert change.abs().amax((1, 2, 3)).min() > 0.01
    assert graph.n_edges >= 60 and int(question(name).truth.sum()) < graph.n_edges / 10


@pytest.mark.parametrize("name", NAMES)
def test_prompts_ask_for_different_answers_and_no_prompt_comes_twice(name: str) -> None:
    pairs = draw_pairs(program_of(name), 32, seed=0)
    assert len({pair.clean for pair in pairs}) == 32
    for pair in pairs:
        answers = ORACLES[name](pair.clean.split()), ORACLES[name](pair.corrupted.split())
        assert (pair.answers, pair.wrong_answers) == ((f" {answers[0]}",), (f" {answers[1]}",))
        assert answers[0] != answers[1] and len(pair.clean.split()) == len(pair.corrupted.split())


def test_making_the_models_again_gives_the_same_bytes(tmp_path: Path) -> None:
    main(tmp_path)
    made = [path.relative_to(tmp_path) for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    assert len(made) == 6 * len(PROGRAMS)
    assert filecmp.cmpfiles(MODELS, tmp_path, map(str, made), shallow=False)[0] == list(map(str, made))


def test_all_models_weigh_under_two_megabytes() -> None:
    assert sum(path.stat().st_size for path in MODELS.rglob("*") if path.is_file()) < 2_000_000


# where the edges come from


def part(node: Node, reads: str, writes: str, is_distractor: bool = False) -> Part:
    one = np.ones((1, 1))
    slots = {"q": {}, "k": {}, "v": {reads: one}} if node.kind == "head" else {None: {reads: one}}
    return Part(node, slots, {writes: one}, is_distractor=is_distractor)


def blueprint(*parts: Part) -> Blueprint:
    return Blueprint(
        2, 2, {"token": np.eye(2)[:, :1]}, {"place": np.eye(3)}, parts, {"answer": np.ones((1, 2))}
    )


HEAD, OTHER, MLP = Node("head", 0, 1), Node("head", 1, 0), Node("mlp", 1)


@pytest.mark.parametrize(
    ("parts", "edges"),
    [
        ([part(HEAD, "token", "a"), part(MLP, "a", "answer")], "input->a0.h1<v> a0.h1->m1 m1->logits"),
        (
            [part(HEAD, "token", "a"), part(MLP, "token", "answer")],
            "input->m1 m1->logits",
        ),  # nobody reads a
        ([part(HEAD, "place", "a"), part(MLP, "a", "answer")], ""),  # a position is no sender
        ([part(MLP, "a", "answer"), part(OTHER, "token", "b")], ""),  # nobody writes a
        (
            [part(HEAD, "token", "answer"), part(OTHER, "token", "answer", True)],
            "input->a0.h1<v> a0.h1->logits",
        ),
    ],
)
def test_true_edges_are_those_of_shared_variables_on_a_path(parts: list[Part], edges: str) -> None:
    assert true_edges(blueprint(*parts)) == [Edge.parse(name) for name in edges.split()]


def test_an_edge_of_constant_variables_is_not_true() -> None:
    parts = part(HEAD, "token", "a"), part(MLP, "a", "answer")
    assert true_edges(blueprint(*parts), {"token"}) == []
    tokens = np.array([[0, 1]])
    assert constant_variables(blueprint(*parts), tokens, tokens) == {"token"}
    assert constant_variables(blueprint(*parts), tokens, 1 - tokens) == set()


def test_the_share_of_the_start_in_histogram_is_no_edge_because_no_prompt_changes_it() -> None:
    program = program_of("histogram")
    made = blueprint_of(program)
    assert constants_of(program, made, draw_pairs(program, 32, 0)) == {"start"}
    start = Edge.parse("input->a0.h3<v>")
    assert start in true_edges(made) and start not in known_models()["histogram"].circuit.edges
