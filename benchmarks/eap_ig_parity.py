"""Attribution scores, time and memory beside EAP-IG's own code (github.com/hannamw/EAP-IG), on the same weights.

    python -m benchmarks.eap_ig_parity --python VENV/bin/python --repository EAP-IG [--shape small] [--prompts 8]
        [--cases eap eap-ig:kl ...] [--batch-sizes 8 3] [--steps 5] [--variants shipped mended processed]

VENV is an environment of its own with ``transformer_lens==2.18.0 "pyarrow<22"`` and the torch of constraints.txt;
EAP-IG a checkout. Its package is copied to a temporary folder, where ``device='cuda'`` becomes the CPU; nothing else of
it is changed, and nothing is written to the checkout. Each side is a process of its own, one after the other, on a
GPT-2 with seeded random weights (``small``: 4 layers of 4 heads; ``gpt2``: the shape of GPT-2 small) and prompts of
random tokens behind BOS, of several lengths. Exits with 1 where scores differ by more than 1e-4 of the largest.

Variants of its side: ``shipped``; ``mended``, with an einsum in place of the line of TransformerLens that builds a
[batch, pos, head, d_head, d_model] tensor; ``processed``, with TransformerLens's default folding and centring.

What its code divides by. Its metrics are means over a batch, so that the gradient of a prompt's loss carries one over
the size of its batch; the sum over batches is then divided by the number of prompts. So its score is

    1/N sum over prompts of score / size of the prompt's batch,

the mean score over the batch size where that divides N. Where it doesn't, prompts of the last batch count for more and
no factor undoes it: ``difference`` compares with that formula of our scores of each prompt, and ``as one factor`` is
how far its score times its batch size is from the mean score.

Seconds are those of the attribution alone, the model loaded, and in brackets those of all processors together, which
other work on the machine moves less; memory is the most that the process held meanwhile.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.gpt2_shape import N_CHANGED, SPREAD
from benchmarks.machine import machine
from benchmarks.peers.job import MODEL, Case, Cost, Job, Side
from circuitfind.models.loading.quiet import quiet
from circuitfind.runs.memory import gigabytes

ROOT = Path(__file__).parents[1]
TOLERANCE = 1e-4
N_TOP = 200
SHAPES = {
    "small": GPT2Config(
        n_layer=4,
        n_head=4,
        n_embd=64,
        n_positions=64,
        vocab_size=101,
        bos_token_id=100,
        eos_token_id=100,
        initializer_range=0.07,
        tie_word_embeddings=False,
    ),
    "gpt2": GPT2Config(tie_word_embeddings=False),
}
VARIANTS = {"shipped": (), "mended": ("--mend",), "processed": ("--process",)}
CASES = ("eap", "clean-corrupted", "eap-ig", "eap-ig:kl", "eap-ig-activations")

Scores = npt.NDArray[np.float64]


def main() -> None:
    options = parse()
    job = make_job(options)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job.write(folder)
        write_model(SHAPES[options.shape], folder / MODEL)
        ours = run_ours(folder)
        copy = copy_for_cpu(options.repository, folder)
        peers = {variant: run_peer(options.python, copy, folder, variant) for variant in options.variants}
    print(machine())
    print(
        f"{options.shape}, {len(job.clean)} prompts of up to {max(map(len, job.clean))} tokens, {job.steps} steps"
    )
    print(f"losses   ours   {losses(ours)} ({ours.versions})")
    for variant, peer in peers.items():
        print(f"losses   {variant:<9} {losses(peer)} ({peer.versions})")
    agreements = list(compare_all(job, ours, peers))
    print_agreements(agreements)
    print_costs(job, ours, peers)
    if any(agreement.difference > TOLERANCE for agreement in agreements):
        sys.exit(f"Scores differ by more than {TOLERANCE:g} of the largest.")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument(
        "--python", type=Path, required=True, help="the interpreter with transformer_lens 2.18"
    )
    parser.add_argument("--repository", type=Path, required=True, help="a checkout of EAP-IG")
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument(
        "--cases", nargs="+", default=CASES, help="methods, each with :kl for that metric"
    )
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 3], help="EAP-IG's")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["shipped"])
    return parser.parse_args()


def make_job(options: argparse.Namespace, n_pos: int = 16) -> Job:
    """Prompts of 12 to 16 random tokens behind BOS, the last id; in the corrupted ones three tokens are others."""
    n_words = SHAPES[options.shape].vocab_size - 1
    generator = torch.Generator().manual_seed(0)
    clean, corrupted, answers = [], [], []
    for number in range(options.prompts):
        length = n_pos - 1 - number % 5
        words = torch.randint(n_words, (length,), generator=generator)
        changed = words.clone()
        places = torch.randperm(length - 1, generator=generator)[:N_CHANGED]
        changed[places] = torch.randint(n_words, (N_CHANGED,), generator=generator)
        clean.append([n_words, *words.tolist()])
        corrupted.append([n_words, *changed.tolist()])
        right, wrong = torch.randperm(n_words, generator=generator)[:2].tolist()
        answers.append((right, wrong))
    cases = [Case.parse(text) for text in options.cases]
    return Job(cases, options.batch_sizes, options.steps, clean, corrupted, answers)


@torch.no_grad()
def write_model(config: GPT2Config, folder: Path) -> None:
    """Random weights with biases, gains and attention patterns that are not all alike, and a word for each token."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)
    for name, weights in model.named_parameters():
        if weights.ndim == 1:
            weights += 0.1 * torch.randn_like(weights)
        elif name.endswith("attn.c_attn.weight"):
            weights[:, : 2 * config.n_embd] *= 3
    model.lm_head.weight *= SPREAD
    with quiet():
        model.save_pretrained(folder)
    words = {f"t{token}": token for token in range(config.vocab_size - 1)} | {
        "<|endoftext|>": config.vocab_size - 1
    }
    tokenizer = Tokenizer(WordLevel(words, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(folder / "words.json"))


def run_ours(folder: Path) -> Side:
    """Our side, in a process of its own."""
    subprocess.run([sys.executable, "-m", "benchmarks.peers.ours", str(folder)], cwd=ROOT, check=True)
    return Side.read(folder, "ours")


def copy_for_cpu(repository: Path, folder: Path) -> Path:
    """A folder with a copy of its package that computes on the CPU."""
    copy = folder / "source"
    shutil.copytree(repository / "src" / "eap", copy / "eap")
    for path in (copy / "eap").glob("*.py"):
        path.write_text(path.read_text().replace("device='cuda'", "device='cpu'"))
    return copy


def run_peer(python: Path, copy: Path, folder: Path, variant: str) -> Side:
    """EAP-IG's side, in its own interpreter."""
    environment = {**os.environ, "PYTHONPATH": f"{copy}{os.pathsep}{ROOT}", "HF_HUB_OFFLINE": "1"}
    module = [str(python), "-W", "ignore", "-m", "benchmarks.peers.eap_ig"]
    subprocess.run([*module, str(folder), variant, *VARIANTS[variant]], env=environment, check=True)
    return Side.read(folder, variant)


def losses(side: Side) -> str:
    clean, corrupted = side.losses
    return f"clean {clean:.6f}, corrupted {corrupted:.6f}"


@dataclass(frozen=True)
class Agreement:
    """How one run of its code agrees with ours; ``difference``: of scores as its code divides them."""

    case: Case
    variant: str
    batch_size: int
    difference: float
    as_one_factor: float
    spearman: float
    jaccard: float


def compare_all(job: Job, ours: Side, peers: dict[str, Side]) -> Iterator[Agreement]:
    """Every case at every batch size of every variant."""
    for variant, peer in peers.items():
        order = in_order(ours.edges, peer.edges)
        for case in job.cases:
            for size in job.batch_sizes:
                its = peer.scores[f"{case}:{size}"][order]
                yield compare(case, variant, size, ours.scores[str(case)], its)


def in_order(ours: Sequence[str], its: Sequence[str]) -> npt.NDArray[np.intp]:
    """Where each of our edges stands among its; both must have the same ones."""
    if set(ours) != set(its):
        sys.exit(f"The graphs differ: {sorted(set(ours) ^ set(its))[:5]}")
    place = {edge: number for number, edge in enumerate(its)}
    return np.array([place[edge] for edge in ours])


def compare(case: Case, variant: str, batch_size: int, ours: Scores, its: Scores) -> Agreement:
    """``ours``: prompt by edge; ``its``: edge by edge, as its code divides them."""
    mean = ours.mean(0)
    return Agreement(
        case,
        variant,
        batch_size,
        difference=relative_difference(as_divided(ours, batch_size), its),
        as_one_factor=relative_difference(its * min(batch_size, len(ours)), mean),
        spearman=spearman(mean, its),
        jaccard=top_jaccard(mean, its, N_TOP),
    )


def as_divided(ours: Scores, batch_size: int) -> Scores:
    """What its code makes of each prompt's scores: 1/N sum of score / size of the prompt's batch."""
    n_prompts = len(ours)
    firsts = range(0, n_prompts, batch_size)
    sizes = np.concatenate(
        [np.full(len(part), len(part)) for part in (ours[f : f + batch_size] for f in firsts)]
    )
    divided: Scores = (ours / sizes[:, None]).sum(0) / n_prompts
    return divided


def relative_difference(a: Scores, b: Scores) -> float:
    """The largest difference, over the largest of b."""
    return float(np.abs(a - b).max() / np.abs(b).max())


def spearman(a: Scores, b: Scores) -> float:
    """The correlation of ranks, ties in the order they stand in."""
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def ranks(a: Scores) -> Scores:
    return np.argsort(np.argsort(a, kind="stable"), kind="stable").astype(np.float64)


def top_jaccard(a: Scores, b: Scores, n_top: int) -> float:
    """Overlap over union of the edges with the highest |score|."""
    one, other = (set(np.argsort(-np.abs(x), kind="stable")[:n_top].tolist()) for x in (a, b))
    return len(one & other) / len(one | other)


def print_agreements(agreements: Sequence[Agreement]) -> None:
    print(
        f"\n| method | its side | its batches | difference | as one factor | Spearman | Jaccard of {N_TOP} |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for a in agreements:
        figures = f"{a.difference:.1e} | {a.as_one_factor:.1e} | {a.spearman:.7f} | {a.jaccard:.3f}"
        print(f"| {a.case} | {a.variant} | {a.batch_size} | {figures} |")


def print_costs(job: Job, ours: Side, peers: dict[str, Side]) -> None:
    variants = " | ".join(f"{variant} | ratio" for variant in peers)
    print(f"\n| method | its batches | ours | {variants} |")
    print(f"| --- | --- | --- |{' --- |' * 2 * len(peers)}")
    for case in job.cases:
        mine = ours.costs[str(case)]
        for size in job.batch_sizes:
            theirs = [peer.costs[f"{case}:{size}"] for peer in peers.values()]
            cells = " | ".join(f"{told(cost)} | {ratio(cost, mine)}" for cost in theirs)
            print(f"| {case} | {size} | {told(mine)} | {cells} |")


def told(cost: Cost) -> str:
    return f"{cost.seconds:.2f} s ({cost.cpu_seconds:.2f} s), {gigabytes(cost.peak_bytes)}"


def ratio(its: Cost, ours: Cost) -> str:
    times = f"{its.seconds / ours.seconds:.1f} x ({its.cpu_seconds / ours.cpu_seconds:.1f} x)"
    return f"{times}, memory {its.peak_bytes / ours.peak_bytes:.1f} x"


if __name__ == "__main__":
    main()
