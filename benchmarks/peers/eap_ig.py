"""EAP-IG's side of a comparison: its own ``attribute`` on its own model of the same weights, in its own interpreter.

    PYTHONPATH=COPY:. python -m benchmarks.peers.eap_ig FOLDER NAME [--mend] [--process]

COPY holds the package ``eap`` with its device set to the CPU. Reads ``job.json`` and the model in FOLDER and writes
NAME.npz (edge by edge, a key a case and batch size) and NAME.json. Needs transformer_lens 2.18 and no circuitfind.

The weights are loaded as they are, without folding norms or centring, with the three options that its ``attribute``
asks for. The metric is a mean over the prompts of a batch, as in its notebooks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from eap.attribute import attribute  # type: ignore[import-not-found]
from eap.graph import Graph  # type: ignore[import-not-found]
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.components import abstract_attention
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from benchmarks.peers.job import MODEL, Job, Side, measured

METHODS = {
    "eap": "EAP",
    "clean-corrupted": "clean-corrupted",
    "eap-ig": "EAP-IG-inputs",
    "eap-ig-activations": "EAP-IG-activations",
}
SLOW = "(z * w).sum(-2)"
"""A tensor of [batch, pos, head, d_head, d_model], to be summed over d_head."""
QUICK = 'torch.einsum("bphd,hdm->bphm", z.squeeze(-1), self.W_O)'


def main() -> None:
    options = parse()
    job = Job.read(options.folder)
    if options.mend:
        mend()
    model = load(options.folder / MODEL, options.process)
    check_tokens(model, job)
    graph = Graph.from_model(model)
    rows, columns = (
        np.array(index) for index in zip(*(e.matrix_index for e in graph.edges.values()), strict=True)
    )
    scores, costs = {}, {}
    for case in job.cases:
        for size in job.batch_sizes:
            name, method, metric = f"{case}:{size}", METHODS[case.method], METRICS[case.metric]
            work = partial(
                attribute,
                model,
                graph,
                batches(job, size),
                metric,
                method,
                ig_steps=job.steps,
                quiet=True,
            )
            _, costs[name] = measured(work)
            scores[name] = graph.scores.numpy()[rows, columns].astype(np.float64)
            print(f"{options.name} {name}: {costs[name].seconds:.1f} s", file=sys.stderr, flush=True)
            model.zero_grad(set_to_none=True)
    losses = (loss(model, job, job.clean), loss(model, job, job.corrupted))
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("torch", "transformer_lens", "transformers")
    )
    Side(list(graph.edges), scores, costs, losses, versions).write(options.folder, options.name)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    parser.add_argument(
        "--mend", action="store_true", help="put an einsum in place of TransformerLens's slow line"
    )
    parser.add_argument(
        "--process", action="store_true", help="fold norms and centre weights, as by default there"
    )
    return parser.parse_args()


def mend() -> None:
    """Gives attention a forward pass whose one slow line is mended; the file on disk stays as it is."""
    source = Path(abstract_attention.__file__).read_text()
    if SLOW not in source:
        raise SystemExit(f"{abstract_attention.__file__} has no {SLOW}: is this transformer_lens 2.18?")
    mended = {"__name__": abstract_attention.__name__, "__package__": abstract_attention.__package__}
    exec(compile(source.replace(SLOW, QUICK), abstract_attention.__file__, "exec"), mended)
    abstract_attention.AbstractAttention.forward = mended["AbstractAttention"].forward


def load(folder: Path, process: bool) -> Any:
    """The model as its attribution wants it."""
    source = GPT2LMHeadModel.from_pretrained(folder)
    own = source.config
    config = HookedTransformerConfig(
        n_layers=own.n_layer,
        d_model=own.n_embd,
        n_heads=own.n_head,
        d_head=own.n_embd // own.n_head,
        d_mlp=4 * own.n_embd,
        d_vocab=own.vocab_size,
        n_ctx=own.n_positions,
        eps=own.layer_norm_epsilon,
        act_fn=own.activation_function,
        normalization_type="LN",
        use_attn_scale=True,
        device="cpu",
    )
    words = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "words.json"),
        **dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "<|endoftext|>"),
        add_bos_token=True,
        name_or_path="words",
    )
    model = HookedTransformer(config, tokenizer=words)
    model.load_and_process_state_dict(
        convert_gpt2_weights(source, config),
        fold_ln=process,
        center_writing_weights=process,
        center_unembed=process,
        fold_value_biases=process,
    )
    for option in ("use_attn_result", "use_split_qkv_input", "use_hook_mlp_in"):
        setattr(model.cfg, option, True)
    return model


def check_tokens(model: Any, job: Job) -> None:
    """Its own tokenisation of the prompts' texts must be the job's."""
    tokens = model.to_tokens(texts(job.clean), prepend_bos=True, padding_side="right", truncate=False)
    for row, wanted in zip(tokens.tolist(), job.clean, strict=True):
        if row[: len(wanted)] != list(wanted):
            raise SystemExit(f"tokens {row}, not {wanted}")


def batches(job: Job, size: int) -> list[tuple[list[str], list[str], Tensor]]:
    """Clean and corrupted texts and the two answers, as its data loader gives them."""
    clean, corrupted, answers = texts(job.clean), texts(job.corrupted), torch.tensor(job.answers)
    groups: Iterator[slice] = (slice(first, first + size) for first in range(0, len(clean), size))
    return [(clean[group], corrupted[group], answers[group]) for group in groups]


def texts(rows: Any) -> list[str]:
    """Words that spell the tokens; BOS, which comes first, it puts there itself."""
    return [" ".join(f"t{token}" for token in row[1:]) for row in rows]


def logit_diff(logits: Tensor, clean_logits: Tensor, lengths: Tensor, answers: Tensor) -> Tensor:
    """Minus the logit difference, mean over the batch."""
    chosen = at_end(logits, lengths).gather(1, answers)
    return (chosen[:, 1] - chosen[:, 0]).mean()


def kl(logits: Tensor, clean_logits: Tensor, lengths: Tensor, answers: Tensor) -> Tensor:
    """KL(full || circuit) in nats, mean over the batch."""
    full, circuit = (at_end(x, lengths).log_softmax(-1) for x in (clean_logits.detach(), logits))
    return (full.exp() * (full - circuit)).sum(-1).mean()


METRICS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "logit-diff": logit_diff,
    "kl": kl,
}


def at_end(logits: Tensor, lengths: Tensor) -> Tensor:
    """The logits of the answer positions."""
    return logits[torch.arange(len(logits)), lengths - 1]


@torch.no_grad()
def loss(model: Any, job: Job, rows: Any) -> float:
    """- logit difference of the unpatched model on these prompts, mean over prompts."""
    logits = model(texts(rows), prepend_bos=True, padding_side="right")
    lengths = torch.tensor([len(row) for row in rows])
    return float(logit_diff(logits, logits, lengths, torch.tensor(job.answers)))


if __name__ == "__main__":
    main()
