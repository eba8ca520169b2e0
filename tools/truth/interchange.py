"""Trains models to have a given circuit: ``python -m tools.truth.interchange [FOLDER]``.

Strict interchange training as InterpBench does it (SIIT, arXiv:2407.14494), with edges in place of
nodes. A program's variables are aligned with nodes of a small GPT-2, and at every step random edges
are ablated: they carry what they carry in the run on another prompt. If edges of the program are
among them, the right answer is the one that the program gives when it reads the same variables from
the other prompt. All other edges are strictly none: whichever of them are ablated, the answer
stays. So the nodes that no variable is aligned with are active, noisy, and without effect; unlike
compiled models these have ordinary weights, norms and soft attention.

A model that is less exact than ``Bars`` asks for is not saved. The same seed gives the same bytes
on one machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from random import Random
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import cross_entropy

from circuitfind.circuits.graph import Edge, Node, Receiver, Slot
from circuitfind.circuits.masks import readable
from circuitfind.metrics.measures import kl
from circuitfind.models.components import Attention, BlockSpec, Layer, Mlp, Norm, Readout
from circuitfind.models.transformer import Architecture, Transformer, unembed
from circuitfind.patching.reference import Baseline, prepare, run_patched
from circuitfind.prompts.batch import Batch
from circuitfind.prompts.pairs import PromptPair, draw_distinct
from circuitfind.truth.files import N_PROMPTS, SEED, UNKNOWN, Words, write_files
from circuitfind.truth.known import MODELS

Tokens = Int[Tensor, "prompt pos"]
Values = Int[Tensor, "prompt *pos"]
Removed = Bool[Tensor, "receiver sender"]
INPUT = Node("input")


@dataclass(frozen=True)
class Variable:
    """What one node computes from what it reads: for each slot and sender, in order, a value of
    every prompt.
    """

    node: Node
    reads: tuple[tuple[Slot | None, Node], ...]
    compute: Callable[..., Values]

    @property
    def edges(self) -> list[Edge]:
        return [Edge(sender, Receiver(self.node, slot)) for slot, sender in self.reads]


@dataclass(frozen=True)
class Aligned:
    """A program whose variables are nodes, in forward order, the logits last: they say the answer's token.

    ``draw`` makes one prompt's words; ``n_steps`` is how long a model is trained for it.
    """

    name: str
    about: str
    words: Words
    variables: tuple[Variable, ...]
    draw: Callable[[Random], Words]
    n_steps: int

    @property
    def edges(self) -> list[Edge]:
        """The true ones."""
        return [edge for variable in self.variables for edge in variable.edges]

    def tokens(self, prompts: Sequence[Words]) -> Tokens:
        return torch.tensor([[self.words.index(word) for word in words] for words in prompts])

    def answers(
        self, clean: Tokens, corrupted: Tokens, removed: frozenset[Edge] = frozenset()
    ) -> Int[Tensor, " prompt"]:
        """The right tokens where the edges ``removed`` carry what they carry in the run on the
        corrupted prompts.
        """
        now: dict[Node, Values] = {INPUT: clean}
        other: dict[Node, Values] = {INPUT: corrupted}
        for variable in self.variables:
            reads = [
                other[edge.sender] if edge in removed else now[edge.sender] for edge in variable.edges
            ]
            now[variable.node] = variable.compute(*reads)
            other[variable.node] = variable.compute(*(other[edge.sender] for edge in variable.edges))
        return now[Node("logits")]


# two programs

KEYS, DIGITS = ("a", "b", "c"), ("0", "1", "2", "3", "4")
LOOKUP_WORDS = (UNKNOWN, *KEYS, *DIGITS)
SUM_WORDS = (UNKNOWN, *DIGITS, "+", "-")


def draw_lookup(rng: Random) -> Words:
    """Keys in any order, each before its digit; then one of them again."""
    pairs = [(key, rng.choice(DIGITS)) for key in rng.sample(KEYS, len(KEYS))]
    return (*(word for pair in pairs for word in pair), rng.choice(KEYS))


def word_before(tokens: Tokens) -> Tokens:
    return tokens.roll(1, dims=1)


def look_up(query: Tokens, before: Tokens, value: Tokens) -> Int[Tensor, " prompt"]:
    """The value that stands behind the last word's earlier occurrence."""
    place = (before[:, 1:] == query[:, -1:]).int().argmax(1, keepdim=True) + 1
    return value.gather(1, place).squeeze(1)


def draw_sum(rng: Random) -> Words:
    return (rng.choice(DIGITS), rng.choice(DIGITS), rng.choice("+-"))


def add(
    first: Int[Tensor, " prompt"], second: Int[Tensor, " prompt"], tokens: Tokens
) -> Int[Tensor, " prompt"]:
    """The sum or the difference, as the last word says, modulo the number of digits; digits are the
    tokens from 1.
    """
    sign = torch.where(tokens[:, -1] == SUM_WORDS.index("+"), 1, -1)
    return (first - 1 + sign * (second - 1)) % len(DIGITS) + 1


PREVIOUS, FETCH = Node("head", 0, 1), Node("head", 1, 2)
FIRST, SECOND, ADD = Node("head", 0, 1), Node("head", 1, 3), Node("mlp", 1)
PROGRAMS = (
    Aligned(
        "lookup",
        "the digit that stood behind the last word before",
        LOOKUP_WORDS,
        (
            Variable(PREVIOUS, (("v", INPUT),), word_before),
            Variable(FETCH, (("q", INPUT), ("k", PREVIOUS), ("v", INPUT)), look_up),
            Variable(Node("logits"), ((None, FETCH),), lambda value: value),
        ),
        draw_lookup,
        n_steps=1500,
    ),
    Aligned(
        "sum",
        "the sum or difference of two digits, modulo 5",
        SUM_WORDS,
        (
            Variable(FIRST, (("v", INPUT),), lambda tokens: tokens[:, 0]),
            Variable(SECOND, (("v", INPUT),), lambda tokens: tokens[:, 1]),
            Variable(ADD, ((None, FIRST), (None, SECOND), (None, INPUT)), add),
            Variable(Node("logits"), ((None, ADD),), lambda value: value),
        ),
        draw_sum,
        n_steps=3500,
    ),
)


# training


@dataclass(frozen=True)
class Recipe:
    """How the models are shaped and trained."""

    n_layers: int = 2
    n_heads: int = 4
    d_head: int = 12
    d_mlp: int = 96
    n_ctx: int = 8
    n_prompts: int = 64
    learning_rate: float = 4e-3
    program_share: float = 0.5  # of the steps ablate edges of the program too
    seed: int = 0


@dataclass(frozen=True)
class Bars:
    """What a model must reach to be saved: how often it is right, and the most that an edge of no
    program may cost.
    """

    accuracy: float = 0.99
    kl: float = 0.02


def architecture_of(recipe: Recipe) -> Architecture:
    norm = Norm("layer", 1e-5)
    block = BlockSpec(norm, Attention(recipe.d_head**-0.5), Mlp("gelu_tanh"))
    return Architecture(
        name="GPT2LMHeadModel",
        n_heads=recipe.n_heads,
        n_kv_heads=recipe.n_heads,
        d_model=recipe.n_heads * recipe.d_head,
        d_head=recipe.d_head,
        n_ctx=recipe.n_ctx,
        blocks=(block,) * recipe.n_layers,
        readout=Readout(norm),
    )


def new_model(recipe: Recipe, d_vocab: int, generator: torch.Generator) -> Transformer:
    """Random weights that are ready to be trained."""
    architecture = architecture_of(recipe)
    d_model, heads, d_head = architecture.d_model, recipe.n_heads, recipe.d_head

    def weight(*shape: int) -> Tensor:
        drawn: Tensor = torch.randn(*shape, generator=generator) * shape[-2] ** -0.5
        return drawn.requires_grad_()

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(*shape, requires_grad=True)

    def layer() -> Layer:
        return Layer(
            W_Q=weight(heads, d_model, d_head),
            W_K=weight(heads, d_model, d_head),
            W_V=weight(heads, d_model, d_head),
            W_O=weight(heads, d_head, d_model),
            b_Q=zeros(heads, d_head),
            b_K=zeros(heads, d_head),
            b_V=zeros(heads, d_head),
            b_O=zeros(d_model),
            W_in=weight(d_model, recipe.d_mlp),
            b_in=zeros(recipe.d_mlp),
            W_gate=None,
            b_gate=None,
            W_out=weight(recipe.d_mlp, d_model),
            b_out=zeros(d_model),
        )

    return Transformer(
        architecture,
        W_E=weight(d_vocab, d_model),
        W_pos=weight(recipe.n_ctx, d_model),
        rotary_cos=None,
        rotary_sin=None,
        layers=tuple(layer() for _ in range(recipe.n_layers)),
        final_gain=torch.ones(d_model),
        final_bias=torch.zeros(d_model),
        W_U=weight(d_model, d_vocab),
        b_U=None,
    )


def parameters(model: Transformer) -> list[Tensor]:
    """Every tensor that is trained."""
    of_layers = [getattr(layer, field.name) for layer in model.layers for field in fields(Layer)]
    everything = [model.W_E, model.W_pos, model.W_U, *of_layers]
    return [tensor for tensor in everything if tensor is not None and tensor.requires_grad]


def batch_of(program: Aligned, rng: Random, n_prompts: int) -> Batch:
    """Random prompts beside other random prompts; a batch's answers are not looked at here."""
    clean, corrupted = (program.tokens([program.draw(rng) for _ in range(n_prompts)]) for _ in range(2))
    end = torch.full((n_prompts,), clean.shape[1] - 1)
    return Batch(clean, corrupted, end, ((0,),) * n_prompts, ((),) * n_prompts)


def places(model: Transformer, edges: Sequence[Edge]) -> Removed:
    """The edges as a mask."""
    graph = model.architecture.graph
    mask = torch.zeros_like(readable(graph))
    for edge in edges:
        mask[graph.receiver_index[edge.receiver], graph.sender_index[edge.sender]] = True
    return mask


def logits_without(baseline: Baseline, removed: Removed) -> Float[Tensor, "prompt d_vocab"]:
    """The logits where these edges are ablated."""
    return unembed(baseline.model, run_patched(baseline, readable(baseline.graph) & ~removed))


def draw_removed(
    program: Aligned, model: Transformer, recipe: Recipe, rng: Random
) -> tuple[Removed, frozenset[Edge]]:
    """Which edges a step ablates: a random share of those that are none of the program's, and at
    times of its own.
    """
    share = rng.choice((0.0, 0.1, 0.5, 1.0))
    generator = torch.Generator().manual_seed(rng.getrandbits(32))
    others = readable(model.architecture.graph) & ~places(model, program.edges)
    removed = others & (torch.rand(others.shape, generator=generator) < share)
    own: frozenset[Edge] = frozenset()
    if rng.random() < recipe.program_share:
        own = frozenset(rng.sample(program.edges, rng.randint(1, len(program.edges) // 2)))
    return removed | places(model, sorted(own, key=str)), own


def train(program: Aligned, recipe: Recipe) -> Transformer:
    """The model after all steps; a line of progress a tenth of the way."""
    rng = Random(f"{program.name} {recipe.seed}")
    model = new_model(recipe, len(program.words), torch.Generator().manual_seed(recipe.seed))
    optimiser = torch.optim.AdamW(parameters(model), recipe.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, program.n_steps, pct_start=0.1, cycle_momentum=False
    )
    for step in range(1, program.n_steps + 1):
        batch = batch_of(program, rng, recipe.n_prompts)
        removed, own = draw_removed(program, model, recipe, rng)
        logits = logits_without(prepare(model, batch, "corrupted"), removed)
        loss = cross_entropy(logits, program.answers(batch.clean, batch.corrupted, own))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters(model), 1.0)
        optimiser.step()
        schedule.step()
        if step % (program.n_steps // 10) == 0:
            print(f"{program.name}, step {step} of {program.n_steps}: loss {loss.item():.4f}", flush=True)
    for tensor in parameters(model):
        tensor.requires_grad_(False)
    return model


@torch.no_grad()
def judge(program: Aligned, model: Transformer) -> dict[str, float]:
    """How exact the model is on prompts drawn afresh: the least accuracy of any edge of the program
    ablated alone, that of all others ablated at once, and the most in nats that one of them costs
    on average."""
    batch = batch_of(program, Random(f"{program.name} judge"), 1000)
    baseline = prepare(model, batch, "corrupted")
    others = readable(baseline.graph) & ~places(model, program.edges)
    full = logits_without(baseline, torch.zeros_like(others)).log_softmax(-1)

    def accuracy(removed: Removed, own: frozenset[Edge] = frozenset()) -> float:
        right = program.answers(batch.clean, batch.corrupted, own)
        return float((logits_without(baseline, removed).argmax(-1) == right).double().mean())

    def cost(place: Sequence[int]) -> float:
        alone = torch.zeros_like(others)
        alone[tuple(place)] = True
        return float(kl(full, logits_without(baseline, alone)).mean())

    return {
        "accuracy of the model": accuracy(torch.zeros_like(others)),
        "accuracy of the circuit": accuracy(others),
        "least accuracy with an edge of it ablated": min(
            accuracy(places(model, [edge]), frozenset([edge])) for edge in program.edges
        ),
        "most KL of another edge": max(cost(place) for place in others.nonzero().tolist()),
    }


def is_exact(judged: Mapping[str, float], bars: Bars) -> bool:
    accuracies = [value for name, value in judged.items() if "accuracy" in name]
    return min(accuracies) >= bars.accuracy and judged["most KL of another edge"] <= bars.kl


# files


def state(model: Transformer) -> dict[str, Float[Tensor, ...]]:
    """The weights under the names of Hugging Face's GPT2LMHeadModel."""
    assert model.W_pos is not None
    tensors = {
        "transformer.wte.weight": model.W_E,
        "transformer.wpe.weight": model.W_pos,
        "lm_head.weight": model.W_U.T,
    }
    norms = {"transformer.ln_f": model.final_gain}
    for index, layer in enumerate(model.layers):
        block = f"transformer.h.{index}"
        norms |= {f"{block}.ln_1": model.final_gain, f"{block}.ln_2": model.final_gain}
        reads = [W.transpose(0, 1).flatten(1) for W in (layer.W_Q, layer.W_K, layer.W_V)]
        biases = [bias.flatten() for bias in (layer.b_Q, layer.b_K, layer.b_V) if bias is not None]
        assert layer.b_in is not None
        tensors |= {
            f"{block}.attn.c_attn.weight": torch.cat(reads, 1),
            f"{block}.attn.c_attn.bias": torch.cat(biases),
            f"{block}.attn.c_proj.weight": layer.W_O.flatten(0, 1),
            f"{block}.attn.c_proj.bias": layer.b_O,
            f"{block}.mlp.c_fc.weight": layer.W_in,
            f"{block}.mlp.c_fc.bias": layer.b_in,
            f"{block}.mlp.c_proj.weight": layer.W_out,
            f"{block}.mlp.c_proj.bias": layer.b_out,
        }
    tensors |= {f"{name}.weight": gain for name, gain in norms.items()}
    tensors |= {f"{name}.bias": torch.zeros_like(gain) for name, gain in norms.items()}
    return {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}


def config(model: Transformer) -> dict[str, Any]:
    """What config.json says of it."""
    shape = model.architecture
    return {
        "activation_function": "gelu_new",
        "layer_norm_epsilon": shape.readout.norm.eps,
        "vocab_size": model.W_E.shape[0],
        "n_positions": shape.n_ctx,
        "n_layer": shape.n_layers,
        "n_head": shape.n_heads,
        "n_embd": shape.d_model,
        "n_inner": model.layers[0].W_in.shape[1],
    }


def draw_pairs(program: Aligned, n_prompts: int, seed: int) -> list[PromptPair]:
    """Pairs of prompts with different answers."""

    def draw(rng: Random, index: int) -> PromptPair | None:
        clean, corrupted = program.draw(rng), program.draw(rng)
        tokens = program.tokens([clean, corrupted])
        right, wrong = (program.words[token] for token in program.answers(tokens, tokens).tolist())
        if right == wrong:
            return None
        return PromptPair(" ".join(clean), " ".join(corrupted), (f" {right}",), (f" {wrong}",))

    return draw_distinct(draw, n_prompts, f"{program.name} {seed}")


def main(folder: Path = MODELS, recipe: Recipe = Recipe(), bars: Bars = Bars()) -> None:
    """Train, report, and save what is exact enough; exits 1 at the first that is not."""
    torch.set_num_threads(1)  # models this small gain nothing from a second
    for program in PROGRAMS:
        model = train(program, recipe)
        judged = judge(program, model)
        print(
            "\n".join(f"{program.name}, {name}: {value:.4f}" for name, value in judged.items()),
            flush=True,
        )
        if not is_exact(judged, bars):
            sys.exit(f"Not saved: {program.name} is not exact enough ({bars}). Change the recipe.")
        write_files(
            folder / program.name,
            program.about,
            program.words,
            save(state(model), {"format": "pt"}),
            config(model),
            draw_pairs(program, N_PROMPTS, SEED),
            model.architecture.graph,
            program.edges,
            "strict interchange training",
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else MODELS)
