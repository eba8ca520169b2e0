"""Edges into one MLP that undo each other when they go together: the screened schedule against the published one."""

from __future__ import annotations

from itertools import permutations
from random import Random

import pytest

from circuitfind.circuits.graph import Edge
from circuitfind.methods.outcome import Found
from circuitfind.methods.search.acdc import ACDC
from circuitfind.patching.problem import Problem
from tests.gates import Bits, Gate, gate_batch, gate_model, gate_transformer, table_of
from tests.oracles.acdc import acdc
from tests.oracles.literal import Literal

SAME_AND = table_of(3, lambda a, b, c: bool(c and a == b))
BOTH_FLIPPED = tuple((1, 1, 1) if prompt % 2 else (1, 1, 0) for prompt in range(8))
WIRINGS = list(permutations(range(4), 3))
N_GATES = 150


def kept_edges(gate: Gate, found: Found) -> set[Edge]:
    graph = gate_transformer(gate).architecture.graph
    return {edge for edge in graph.edges() if found.kept[graph.order(edge)]}


def find(gate: Gate, threshold: float, schedule: str) -> Found:
    return ACDC(threshold, schedule=schedule).find(Problem(gate_transformer(gate), gate_batch(gate), 8))


def equality(wiring: tuple[int, ...]) -> Gate:
    """C and (A == B), each bit brought by one of four heads, A and B flipped together by every prompt."""
    return Gate(tuple((0, head) for head in wiring), SAME_AND, BOTH_FLIPPED, seed=1)


@pytest.mark.parametrize("wiring", [(0, 1, 3), (2, 1, 0)])
def test_edges_that_undo_each_other_are_kept_as_by_the_literal_schedule(wiring: tuple[int, ...]) -> None:
    gate = equality(wiring)
    published = acdc(Literal(gate_model(gate)), gate_batch(gate), 0.02, "kl", "corrupted")
    assert set(published.kept) == gate.edges and len(gate.edges) == 7
    assert kept_edges(gate, find(gate, 0.02, "screened")) == gate.edges


@pytest.mark.slow
@pytest.mark.parametrize("wiring", WIRINGS)
def test_every_wiring_of_the_heads_keeps_its_seven_edges(wiring: tuple[int, ...]) -> None:
    gate = equality(wiring)
    for schedule in ("sequential", "screened"):
        assert kept_edges(gate, find(gate, 0.02, schedule)) == gate.edges


def random_gate(seed: int) -> tuple[Gate, float]:
    """A gate of up to five bits, half of them with parity in it, in a model of up to 24 heads; and a threshold."""
    rng = Random(f"a gate {seed}")
    n_bits, n_layers, n_heads = rng.choice((2, 3, 3, 4, 4, 5)), rng.choice((1, 2, 3)), rng.choice((6, 8))
    places = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
    in_parity = rng.sample(range(n_bits), rng.randint(2, n_bits))
    odd = rng.choice((0, 1))

    def parity(*bits: int) -> bool:
        others = [bit for i, bit in enumerate(bits) if i not in in_parity]
        return all(others) and sum(bits[i] for i in in_parity) % 2 == odd

    drawn = tuple(rng.choice((0, 1)) for _ in range(2**n_bits - 1))
    table = table_of(n_bits, parity) if rng.random() < 0.5 else (*drawn, 1 - drawn[0])
    flip_all, together = (1,) * n_bits, rng.random() < 0.5

    def draw_flips() -> Bits:
        flips = tuple(rng.choice((0, 1)) for _ in range(n_bits))
        flips = (1, 1, *flips[2:]) if together else flips
        return flips if any(flips) else flip_all

    flips = tuple(draw_flips() for _ in range(rng.choice((1, 2, 4, 8, 16))))
    heads = tuple(rng.sample(places, n_bits))
    return Gate(heads, table, flips, n_layers, n_heads, seed, rng.random() < 0.8), rng.choice(
        (0.005, 0.02, 0.1)
    )


@pytest.mark.slow
def test_of_random_gates_one_in_a_hundred_at_most_is_not_the_published_circuit() -> None:
    n_other = n_computed = n_tests = 0
    for seed in range(N_GATES):
        gate, threshold = random_gate(seed)
        published, found = find(gate, threshold, "sequential"), find(gate, threshold, "screened")
        n_other += not published.kept.equal(found.kept)
        n_computed, n_tests = n_computed + found.n_evaluated, n_tests + published.n_tests
    assert n_other <= N_GATES // 100
    assert n_computed < 0.8 * n_tests
