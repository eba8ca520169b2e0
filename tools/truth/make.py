"""Writes the compiled models: ``python -m tools.truth.make [FOLDER]``. The same bytes on every machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
from safetensors.numpy import save

from circuitfind.prompts.pairs import PromptPair, draw_distinct
from circuitfind.truth.files import N_PROMPTS, SEED, write_files
from circuitfind.truth.known import MODELS
from tools.truth.compiler import (
    Blueprint,
    config,
    constant_variables,
    state,
    true_edges,
    with_distractors,
)
from tools.truth.programs import PROGRAMS, Program


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
        constant_variables(
            blueprint, *(np.array([[ids[word] for word in text.split()]]) for text in texts)
        )
        for texts in ((pair.clean, pair.corrupted) for pair in pairs)
    ]
    return set.intersection(*constants)


def write_model(program: Program, folder: Path) -> None:
    """All files of one model."""
    blueprint, pairs = blueprint_of(program), draw_pairs(program, N_PROMPTS, SEED)
    edges = true_edges(blueprint, constants_of(program, blueprint, pairs))
    weights = save(state(blueprint), {"format": "pt"})
    write_files(
        folder,
        program.about,
        program.words,
        weights,
        config(blueprint),
        pairs,
        blueprint.graph,
        edges,
        "construction",
    )


def main(folder: Path = MODELS) -> None:
    for program in PROGRAMS:
        write_model(program, folder / program.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else MODELS)
