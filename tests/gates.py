"""Small GPT-2s with hand-set weights whose last MLP answers a truth table of bits that heads bring to it.

Edges into that MLP can undo each other: where the table holds XOR or equality, taking away one bit changes the answer
and taking away the next changes it back. Between its corners the MLP is flat, so a gradient tells nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from random import Random
from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from circuitfind.circuits.graph import Edge, Node, Receiver
from circuitfind.models.architectures.table import read_transformer
from circuitfind.models.transformer import Transformer
from circuitfind.prompts.batch import Batch
from circuitfind.truth.files import COMMON
from tests.random_models import bridge
from tools.truth.compiler import Blueprint, Part, config, state, with_distractors
from tools.truth.programs import ASK, GATE_WORDS, matching_head, one_hots, positions, said

FILLERS = ("p", "q", "r", ASK)
Bits = tuple[int, ...]


@dataclass(frozen=True)
class Gate:
    """``heads``: which head brings each bit, ``(layer, head)``; ``table``: the answer for each setting of the bits.

    ``flips``: which bits each prompt's corrupted twin has otherwise. ``seed``: of the other parts, and the prompts.
    """

    heads: tuple[tuple[int, int], ...]
    table: tuple[int, ...]
    flips: tuple[Bits, ...]
    n_layers: int = 1
    n_heads: int = 4
    seed: int = 0
    is_crowded: bool = True

    @property
    def n_bits(self) -> int:
        return len(self.heads)

    def answer(self, bits: Sequence[int]) -> int:
        return self.table[int("".join(map(str, bits)), 2)]

    @property
    def edges(self) -> set[Edge]:
        """Those that carry the gate."""
        mlp, ends = (
            Node("mlp", self.n_layers - 1),
            {Edge(Node("mlp", self.n_layers - 1), Receiver(Node("logits")))},
        )
        nodes = [Node("head", *place) for place in self.heads]
        return ends | {
            edge
            for head in nodes
            for edge in (Edge(head, Receiver(mlp)), Edge(Node("input"), Receiver(head, "v")))
        }


def table_of(n_bits: int, answer: Callable[..., bool]) -> tuple[int, ...]:
    """The truth table of a function of so many bits."""
    return tuple(int(answer(*bits)) for bits in product((0, 1), repeat=n_bits))


def blueprint(gate: Gate) -> Blueprint:
    """One hidden unit for each setting of the bits: it is 1 there and 0 at all others."""
    one, n_ctx = np.ones((1, 1)), gate.n_bits + 1
    is_one = {"bit": np.array([[0.0], [1.0]])}
    corners = np.array(list(product((0, 1), repeat=gate.n_bits)), dtype=float)
    reads = {f"bit{i}": (2 * corners[:, i] - 1).reshape(1, -1) for i in range(gate.n_bits)}
    answers = np.array([[1.0 - x, float(x)] for x in gate.table])

    def read_bit(i: int, place: tuple[int, int]) -> Part:
        key = {"position": np.eye(n_ctx)[:, [i]]}
        return matching_head(*place, {}, key, is_one, {f"bit{i}": one}, always=np.ones(1))

    mlp = Part(
        Node("mlp", gate.n_layers - 1), {None: reads}, {"answer": answers}, {None: 1 - corners.sum(1)}
    )
    heads = [read_bit(i, place) for i, place in enumerate(gate.heads)]
    tokens = {"bit": one_hots(GATE_WORDS, ("0", "1")), "filler": one_hots(GATE_WORDS, FILLERS)}
    made = Blueprint(
        gate.n_layers, gate.n_heads, tokens, positions(n_ctx), (*heads, mlp), said(GATE_WORDS, ("0", "1"))
    )
    return with_distractors(made, gate.seed) if gate.is_crowded else _with_nothing_else(made)


def _with_nothing_else(made: Blueprint) -> Blueprint:
    """The same with parts that write nothing in the place of all others."""
    used, nothing = {part.node for part in made.parts}, {"bit": np.zeros((2, 1))}
    free = [node for node in made.graph.senders[1:] if node not in used]
    silent = [
        Part(
            node,
            dict.fromkeys(("q", "k", "v"), nothing) if node.kind == "head" else {None: nothing},
            {},
            {},
            True,
        )
        for node in free
    ]
    return Blueprint(
        made.n_layers, made.n_heads, made.tokens, made.positions, (*made.parts, *silent), made.answers
    )


def gate_model(gate: Gate) -> Any:
    """The Hugging Face model, float64."""
    made = blueprint(gate)
    model = GPT2LMHeadModel(GPT2Config(**{**COMMON, **config(made)}))
    tensors = {name: torch.from_numpy(tensor) for name, tensor in state(made).items()}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected and not [
        name for name in missing if not name.endswith(("attn.bias", "masked_bias"))
    ]
    return model.double().eval()


@cache
def gate_transformer(gate: Gate, dtype: torch.dtype = torch.float64) -> Transformer:
    """The same model as circuitfind computes it."""
    return read_transformer(bridge(gate_model(gate), dtype), gate.n_bits + 1)


def gate_batch(gate: Gate) -> Batch:
    """A prompt for each of ``flips``, with random bits."""
    rng = Random(f"gate {gate.seed}")
    clean = [tuple(rng.choice((0, 1)) for _ in gate.heads) for _ in gate.flips]
    corrupted = [
        tuple(bit ^ flip for bit, flip in zip(bits, flips, strict=True))
        for bits, flips in zip(clean, gate.flips, strict=True)
    ]
    words = {word: i for i, word in enumerate(GATE_WORDS)}

    def tokens(prompts: Sequence[Bits]) -> torch.Tensor:
        return torch.tensor([[*(words[str(bit)] for bit in bits), words[ASK]] for bits in prompts])

    answers = [gate.answer(bits) for bits in clean]
    return Batch(
        tokens(clean),
        tokens(corrupted),
        torch.full((len(clean),), gate.n_bits),
        tuple((words[str(answer)],) for answer in answers),
        tuple((words[str(1 - answer)],) for answer in answers),
    )
