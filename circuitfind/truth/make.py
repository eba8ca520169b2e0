"""Writes the models whose circuit is known: ``python -m circuitfind.truth.make [FOLDER]``.

A model's folder is one in the hub's layout, as any run takes it, with its prompts (NAME.jsonl) and the true circuit
(circuit.json, each edge with the score 1) beside the weights:

    circuitfind run FOLDER/reverse/reverse.jsonl --model FOLDER/reverse --out run
    circuitfind diff FOLDER/reverse run
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
from safetensors.numpy import save
from tokenizers import Tokenizer, models, pre_tokenizers

from circuitfind.circuit import Circuit
from circuitfind.models.folder import weights_sha256
from circuitfind.prompts import PromptPair, draw_distinct
from circuitfind.taskfiles.prompts_file import write_prompts
from circuitfind.truth.compiler import Blueprint, config, constant_variables, state, true_edges, with_distractors
from circuitfind.truth.programs import PROGRAMS, UNKNOWN, Program, Words

MODELS = Path(__file__).parent / "models"
N_PROMPTS = 32
SEED = 0


def draw_pairs(program: Program, n_prompts: int, seed: int) -> list[PromptPair]:
    """Pairs of prompts of one length with different answers; the corrupted prompt's is the wrong one."""

    def draw(rng: Random, index: int) -> PromptPair | None:
        clean, corrupted = program.draw(rng), program.draw(rng)
        right, wrong = program.answer(clean), program.answer(corrupted)
        if len(clean) != len(corrupted) or right == wrong:
            return None
        return PromptPair(" ".join(clean), " ".join(corrupted), (f" {right}",), (f" {wrong}",))

    return draw_distinct(draw, n_prompts, f"{program.name} {seed}")


def blueprint_of(program: Program) -> Blueprint:
    """The model's parts, distractors included."""
    return with_distractors(program.build(), seed=SEED)


def constants_of(program: Program, blueprint: Blueprint, pairs: Sequence[PromptPair]) -> set[str]:
    """The variables that no pair changes."""
    ids = {word: index for index, word in enumerate(program.words)}
    constants = [
        constant_variables(blueprint, *(np.array([[ids[word] for word in text.split()]]) for text in texts))
        for texts in ((pair.clean, pair.corrupted) for pair in pairs)
    ]
    return set.intersection(*constants)


def write_tokenizer(words: Words, folder: Path) -> None:
    """One token a word; nothing is added before or after a text."""
    ids = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": UNKNOWN}
    write_json(settings, folder / "tokenizer_config.json")


def write_json(data: object, path: Path) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def write_model(program: Program, folder: Path) -> None:
    """All files of one model."""
    folder.mkdir(parents=True, exist_ok=True)
    blueprint, pairs = blueprint_of(program), draw_pairs(program, N_PROMPTS, SEED)
    (folder / "model.safetensors").write_bytes(save(state(blueprint), {"format": "pt"}))
    write_json(config(blueprint), folder / "config.json")
    write_tokenizer(program.words, folder)
    prompts = write_prompts(pairs)
    (folder / f"{program.name}.jsonl").write_text(prompts, encoding="utf-8")
    edges = true_edges(blueprint, constants_of(program, blueprint, pairs))
    circuit = Circuit(
        blueprint.graph,
        dict.fromkeys(edges, 1.0),
        {
            "name": program.name,
            "architecture": "GPT2LMHeadModel",
            "n_layers": blueprint.n_layers,
            "n_heads": blueprint.n_heads,
            "d_model": blueprint.d_model,
            "parallel_attn_mlp": False,
            "sha256": weights_sha256(folder),
        },
        {
            "name": program.name,
            "title": program.about,
            "n_prompts": len(pairs),
            "seed": SEED,
            "prompts_sha256": hashlib.sha256(prompts.encode()).hexdigest(),
        },
        {"name": "construction"},
    )
    (folder / "circuit.json").write_text(circuit.to_json(), encoding="utf-8")


def main(folder: Path = MODELS) -> None:
    for program in PROGRAMS:
        write_model(program, folder / program.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else MODELS)
