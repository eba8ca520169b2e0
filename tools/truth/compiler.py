"""A transformer written down part by part, and the edges that carry its program: tracr's idea
(arXiv:2301.05062).

The residual stream is divided into named **variables**, a few coordinates each. The tokens and the
positions write some of them, a ``Part`` (a head or an MLP) reads some and writes some, the logits
read some. From this alone follow the weights (``state``) and the true edges (``true_edges``): what
nobody types in, nobody can type wrong.

The model is an ordinary GPT-2. Its LayerNorms do nothing: they divide by sqrt(variance + E) with E
= 2^30, beside which the variance is rounded away, and their gain is 2^15; and a last coordinate,
which nobody reads, makes every vector's mean zero. All weights that are not exact in float32 are
rounded once, so that the same program gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import networkx as nx
import numpy as np
from jaxtyping import Float, Int

from circuitfind.circuits.graph import SLOTS, Edge, Graph, Node, Receiver, Slot

Matrix = Float[np.ndarray, "_ _"]
"""[what is read, what is written]; every one has its own sizes."""
Vector = Float[np.ndarray, " _"]
NORM_EPSILON = 2.0**30
NORM_GAIN = 2.0**15
NOISE = "noise"
"""The variable that only distractors read."""
NOISE_WIDTH = 6
LEAK = 2.0**-6
"""How much of what a distractor computes reaches the program's variables."""


@dataclass(frozen=True)
class Part:
    """A head or an MLP: for each slot (an MLP has the one, None) the variables read as [width,
    hidden], the bias that is added, and for each variable that is written [hidden, width].
    ``is_distractor``: no part of the program."""

    node: Node
    reads: Mapping[Slot | None, Mapping[str, Matrix]]
    writes: Mapping[str, Matrix]
    bias: Mapping[Slot | None, Vector] = field(default_factory=dict)
    is_distractor: bool = False


@dataclass(frozen=True)
class Blueprint:
    """All parts of a model. ``tokens`` and ``positions`` are what those write, [d_vocab, width] and
    [pos, width] for each variable; ``answers`` what the logits read, [width, d_vocab]."""

    n_layers: int
    n_heads: int
    tokens: Mapping[str, Matrix]
    positions: Mapping[str, Matrix]
    parts: tuple[Part, ...]
    answers: Mapping[str, Matrix]

    @property
    def graph(self) -> Graph:
        return Graph(self.n_layers, self.n_heads)

    @cached_property
    def widths(self) -> dict[str, int]:
        """How many coordinates each variable has, in the order of the stream."""
        written = {name: matrix for part in self.parts for name, matrix in part.writes.items()}
        return {
            name: matrix.shape[1] for name, matrix in {**self.tokens, **self.positions, **written}.items()
        }

    @cached_property
    def places(self) -> dict[str, slice]:
        """Where in the stream each variable lies."""
        ends = np.cumsum([0, *self.widths.values()]).tolist()
        return {
            name: slice(start, end) for name, start, end in zip(self.widths, ends, ends[1:], strict=False)
        }

    @property
    def d_head(self) -> int:
        """Enough for the widest head and for the stream with the coordinate that balances it, in
        steps of four.
        """
        stream = -(-(sum(self.widths.values()) + 1) // self.n_heads)
        return 4 * -(-max(stream, self._widest("head")) // 4)

    @property
    def d_model(self) -> int:
        return self.n_heads * self.d_head

    @property
    def d_mlp(self) -> int:
        """The widest MLP's hidden layer."""
        return self._widest("mlp")

    def _widest(self, kind: str) -> int:
        """The most that a part of this kind computes side by side."""
        parts = [part for part in self.parts if part.node.kind == kind]
        return max(
            int(matrix.shape[1])
            for part in parts
            for reads in part.reads.values()
            for matrix in reads.values()
        )


# weights


def reading(
    blueprint: Blueprint, reads: Mapping[str, Matrix], n_hidden: int
) -> Float[np.ndarray, "d_model hidden"]:
    """The matrix that reads these variables off the stream."""
    W = np.zeros((blueprint.d_model, n_hidden))
    for name, matrix in reads.items():
        W[blueprint.places[name], : matrix.shape[1]] = matrix
    return W


def writing(
    blueprint: Blueprint, writes: Mapping[str, Matrix], n_hidden: int
) -> Float[np.ndarray, "hidden d_model"]:
    """The matrix that writes these variables to the stream; every row's sum is zero, by its last
    coordinate.
    """
    W = np.zeros((n_hidden, blueprint.d_model))
    for name, matrix in writes.items():
        W[: matrix.shape[0], blueprint.places[name]] = matrix
    W[:, -1] = -W.sum(1)
    return W


def state(blueprint: Blueprint) -> dict[str, Float[np.ndarray, ...]]:
    """The weights under the names of Hugging Face's GPT2LMHeadModel, float32."""
    d_vocab, n_ctx = (
        next(iter(table.values())).shape[0] for table in (blueprint.tokens, blueprint.positions)
    )
    tensors = {
        "transformer.wte.weight": writing(blueprint, blueprint.tokens, d_vocab),
        "transformer.wpe.weight": writing(blueprint, blueprint.positions, n_ctx),
        **norm_state(blueprint, "transformer.ln_f"),
        "lm_head.weight": reading(blueprint, blueprint.answers, d_vocab).T,
    }
    for layer in range(blueprint.n_layers):
        block = f"transformer.h.{layer}"
        tensors |= norm_state(blueprint, f"{block}.ln_1") | norm_state(blueprint, f"{block}.ln_2")
        tensors |= {f"{block}.{name}": tensor for name, tensor in block_state(blueprint, layer).items()}
    return {name: np.ascontiguousarray(tensor, dtype=np.float32) for name, tensor in tensors.items()}


def norm_state(blueprint: Blueprint, name: str) -> dict[str, Float[np.ndarray, " d_model"]]:
    return {
        f"{name}.weight": np.full(blueprint.d_model, NORM_GAIN),
        f"{name}.bias": np.zeros(blueprint.d_model),
    }


def block_state(blueprint: Blueprint, layer: int) -> dict[str, Float[np.ndarray, ...]]:
    """A layer's attention and MLP."""
    d_model, d_head, d_mlp = blueprint.d_model, blueprint.d_head, blueprint.d_mlp
    by_node = {part.node: part for part in blueprint.parts}
    heads = [by_node[Node("head", layer, head)] for head in range(blueprint.n_heads)]
    mlp = by_node[Node("mlp", layer)]
    scales = {"q": d_head**0.5, "k": 1.0, "v": 1.0}  # scores are divided by the root again
    reads = [
        scales[slot] * reading(blueprint, head.reads[slot], d_head) for slot in SLOTS for head in heads
    ]
    biases = [scales[slot] * padded(head.bias.get(slot), d_head) for slot in SLOTS for head in heads]
    return {
        "attn.c_attn.weight": np.concatenate(reads, axis=1),
        "attn.c_attn.bias": np.concatenate(biases),
        "attn.c_proj.weight": np.concatenate([writing(blueprint, head.writes, d_head) for head in heads]),
        "attn.c_proj.bias": np.zeros(d_model),
        "mlp.c_fc.weight": reading(blueprint, mlp.reads[None], d_mlp),
        "mlp.c_fc.bias": padded(mlp.bias.get(None), d_mlp),
        "mlp.c_proj.weight": writing(blueprint, mlp.writes, d_mlp),
        "mlp.c_proj.bias": np.zeros(d_model),
    }


def padded(bias: Float[np.ndarray, " hidden"] | None, size: int) -> Float[np.ndarray, " size"]:
    out = np.zeros(size)
    if bias is not None:
        out[: len(bias)] = bias
    return out


def config(blueprint: Blueprint) -> dict[str, Any]:
    """What config.json says of it: a GPT-2 with ReLU, its norms as above."""
    d_vocab, n_ctx = (
        next(iter(table.values())).shape[0] for table in (blueprint.tokens, blueprint.positions)
    )
    return {
        "activation_function": "relu",
        "layer_norm_epsilon": NORM_EPSILON,
        "vocab_size": d_vocab,
        "n_positions": n_ctx,
        "n_layer": blueprint.n_layers,
        "n_head": blueprint.n_heads,
        "n_embd": blueprint.d_model,
        "n_inner": blueprint.d_mlp,
    }


# truth


def true_edges(blueprint: Blueprint, constant: Collection[str] = ()) -> list[Edge]:
    """The edges that carry the program, in graph order.

    u -> v is one if u writes a variable that v reads, both being of the program; if that variable
    is not ``constant``; and if it lies on a path of such edges from the input to the logits.
    Positions are no sender: what reads them alone has no edge.
    """
    written = {Node("input"): set(blueprint.tokens)}
    read = {Receiver(Node("logits")): set(blueprint.answers)}
    for part in blueprint.parts:
        if not part.is_distractor:
            written[part.node] = set(part.writes)
            read |= {Receiver(part.node, slot): set(names) for slot, names in part.reads.items()}
    carrying = [
        edge
        for edge in blueprint.graph.edges()
        if (written.get(edge.sender, set()) & read.get(edge.receiver, set())) - set(constant)
    ]
    net = nx.DiGraph((str(edge.sender), str(edge.receiver.node)) for edge in carrying)
    net.add_nodes_from(("input", "logits"))
    reached = nx.descendants(net, "input") | {"input"}
    leading = nx.ancestors(net, "logits") | {"logits"}
    return [
        edge for edge in carrying if str(edge.sender) in reached and str(edge.receiver.node) in leading
    ]


def constant_variables(
    blueprint: Blueprint, clean: Int[np.ndarray, "prompt pos"], corrupted: Int[np.ndarray, "prompt pos"]
) -> set[str]:
    """What the tokens write alike in every clean prompt and its corrupted one, such as that one of
    them begins it: patching between the two changes nothing of it, so that no method can find an
    edge that carries it alone."""
    return {name for name, table in blueprint.tokens.items() if (table[clean] == table[corrupted]).all()}


# distractors


def with_distractors(blueprint: Blueprint, seed: int) -> Blueprint:
    """The same with a random part in the place of every head and MLP that the program does not use.

    They attend and compute, on all that the tokens, the positions and other parts write, and write
    noise, which other distractors read. A little of it, ``LEAK``, falls on the variables that the
    program computes, where margins take it up: what a method finds of it is no part of the program.
    """
    rng = np.random.default_rng(seed)
    d_vocab = next(iter(blueprint.tokens.values())).shape[0]
    noisy = {**blueprint.tokens, NOISE: dyadic(rng, d_vocab, NOISE_WIDTH)}
    whole = Blueprint(
        blueprint.n_layers,
        blueprint.n_heads,
        noisy,
        blueprint.positions,
        blueprint.parts,
        blueprint.answers,
    )
    used = {part.node for part in blueprint.parts}
    free = [node for node in blueprint.graph.senders[1:] if node not in used]
    others = tuple(distractor(whole, node, rng) for node in free)
    return Blueprint(
        whole.n_layers, whole.n_heads, noisy, whole.positions, (*whole.parts, *others), whole.answers
    )


def distractor(blueprint: Blueprint, node: Node, rng: np.random.Generator) -> Part:
    """A random head or MLP."""
    n_hidden = 8 if node.kind == "head" else 16
    slots: tuple[Slot | None, ...] = SLOTS if node.kind == "head" else (None,)
    reads = {
        slot: {name: dyadic(rng, width, n_hidden) for name, width in blueprint.widths.items()}
        for slot in slots
    }
    given = {*blueprint.tokens, *blueprint.positions}
    writes = {
        name: dyadic(rng, n_hidden, width) / 2 * (1.0 if name == NOISE else LEAK)
        for name, width in blueprint.widths.items()
        if name == NOISE or name not in given
    }
    return Part(node, reads, writes, is_distractor=True)


def dyadic(rng: np.random.Generator, n_rows: int, n_columns: int) -> Matrix:
    """Random numbers between -1/2 and 1/2 that have few bits, so that sums of them are exact in any order."""
    return rng.integers(-8, 9, size=(n_rows, n_columns)) / 16
