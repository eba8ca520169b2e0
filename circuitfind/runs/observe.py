"""What a model's runs show of a circuit on a few prompts: predictions, attention patterns, what
each sender writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Node
from circuitfind.circuits.masks import kept_neurons, kept_of
from circuitfind.evaluation.performance import Final
from circuitfind.export.html.data import Observations, Pattern, Prediction, Prompt
from circuitfind.export.html.folder import MOST_PROMPTS, to_prompt
from circuitfind.models.components import visible
from circuitfind.models.forward import Trace, at_end, trace
from circuitfind.models.loading.load import HubTokenizer
from circuitfind.models.transformer import Transformer, unembed
from circuitfind.models.workers import Threads
from circuitfind.patching.ablation import find_ablation
from circuitfind.patching.blocks import split
from circuitfind.patching.reference import prepare, run_patched
from circuitfind.patching.units import NeuronRunner
from circuitfind.prompts.batch import Batch
from circuitfind.runs.logit_effect import read_writes
from circuitfind.runs.result import Ready

N_TOP = 5
"""So many of the likeliest tokens are named."""
RUNS = ("clean", "circuit", "corrupted")


def observe(ready: Ready, circuit: Circuit, n_pairs: int) -> Observations:
    """What the model shows of the circuit: predictions on its prompts, patterns and writes on the
    first ``n_pairs``.

    Of many prompts the first MOST_PROMPTS are run (or ``n_pairs``, where those are more).
    """
    model = ready.model.transformer
    batch = ready.batch.to(model.device).rows(
        range(min(ready.batch.n_prompts, max(MOST_PROMPTS, n_pairs)))
    )
    n_pairs = min(n_pairs, batch.n_prompts)
    first = batch.rows(range(n_pairs))
    with torch.no_grad():
        runs = trace(model, first.clean), trace(model, first.corrupted)
    heads = [node for node in circuit.graph.senders if node.kind == "head"]
    rest, writes, total = read_writes(model, first, runs)
    return Observations(
        prompts=tuple(read_prompts(ready, circuit, batch)),
        n_pairs=n_pairs,
        patterns=read_patterns(model, first, runs, heads),
        writes=writes,
        rest=rest,
        logits=total,
    )


def read_prompts(ready: Ready, circuit: Circuit, batch: Batch) -> list[Prompt]:
    """Every prompt pair with what the three runs say of it."""
    model, tokenizer = ready.model.transformer, ready.tokenizer
    open_block = opener(model, circuit, ready)

    def run_block(group: tuple[Batch, int]) -> list[Float[Tensor, "prompt d_vocab"]]:
        block, n_real = group
        return [unembed(model, final).double()[:n_real] for final in open_block(block)]

    with Threads(model.device) as threads:
        blocks = threads.map(run_block, split(batch, ready.work.batch_size))
    logits = [torch.cat(run).cpu() for run in zip(*blocks, strict=True)]
    prompts = []
    for number, pair in enumerate(ready.pairs[: batch.n_prompts]):
        answers = batch.answers[number], batch.wrong_answers[number]
        said = {
            name: predict(run[number], *answers, tokenizer)
            for name, run in zip(RUNS, logits, strict=True)
        }
        clean, corrupted = (
            spell(tokenizer, tokens[number, : int(batch.end[number]) + 1].tolist())
            for tokens in (batch.clean, batch.corrupted)
        )
        prompts.append(
            replace(to_prompt(pair), clean_tokens=clean, corrupted_tokens=corrupted, predictions=said)
        )
    return prompts


def opener(
    model: Transformer, circuit: Circuit, ready: Ready
) -> Callable[[Batch], tuple[Final, Final, Final]]:
    """What the logits read of some prompts: in the clean run, in the circuit's, in the corrupted run."""
    ablation = find_ablation(ready.options.ablation)
    edges = kept_of(circuit).to(model.device)

    def run(block: Batch) -> tuple[Final, Final, Final]:
        corrupted = at_end(trace(model, block.corrupted).final, block.end)
        if circuit.neurons is None:
            baseline = prepare(model, block, ablation)
            return baseline.final, run_patched(baseline, edges), corrupted
        runner = NeuronRunner(model, block, ablation)
        return runner.final, runner.run(kept_neurons(circuit, runner.neurons).to(model.device)), corrupted

    return run


def predict(
    logits: Float[Tensor, " d_vocab"],
    answers: Sequence[int],
    wrong: Sequence[int],
    tokenizer: HubTokenizer,
) -> Prediction:
    """What a run says of one prompt."""
    shares = logits.softmax(-1)
    order = shares.sort(descending=True, stable=True).indices[:N_TOP].tolist()
    diff = float(logits[list(answers)].mean() - logits[list(wrong)].mean()) if wrong else None
    return Prediction(
        top=tuple((tokenizer.decode([token]), float(shares[token])) for token in order),
        answer=float(shares[list(answers)].sum()),
        wrong=float(shares[list(wrong)].sum()) if wrong else None,
        logit_diff=diff,
    )


def spell(tokenizer: HubTokenizer, tokens: Sequence[int]) -> tuple[str, ...]:
    """The text of each token by itself."""
    return tuple(tokenizer.decode([token]) for token in tokens)


def read_patterns(
    model: Transformer, batch: Batch, runs: tuple[Trace, Trace], heads: Sequence[Node]
) -> dict[Node, tuple[Pattern, ...]]:
    """Each head's attention on each pair."""
    every = [[attention_of(model, run, layer) for layer in range(len(model.layers))] for run in runs]
    ends = batch.end.tolist()
    return {
        node: tuple(
            Pattern(*(to_bytes(run[node.layer][node.head, number], end + 1) for run in every))
            for number, end in enumerate(ends)
        )
        for node in heads
    }


def attention_of(model: Transformer, run: Trace, layer: int) -> Float[Tensor, "head prompt query key"]:
    """The attention of all heads of a layer, float32, on the CPU."""
    q, k = run.attention[layer].q, run.attention[layer].k
    products = (q @ k.transpose(-1, -2)).float()
    attention = model.architecture.blocks[layer].attention
    return attention.pattern(products, visible(products.shape[-1], products.device)).cpu()


def to_bytes(pattern: Float[Tensor, "query key"], n_pos: int) -> bytes:
    """The lower triangle, row by row, a byte for each."""
    rounded = (pattern[:n_pos, :n_pos] * 255).round().to(torch.uint8)
    rows, columns = torch.tril_indices(n_pos, n_pos)
    return bytes(rounded[rows, columns].tolist())
