"""The folder of a model whose circuit is known: one in the hub's layout, as any run takes it, with
more beside it.

    circuitfind run FOLDER/reverse/reverse.jsonl --model FOLDER/reverse --out run
    circuitfind diff FOLDER/reverse run

NAME.jsonl are its prompts; circuit.json is the true circuit, each edge with the score 1.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers

from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Graph
from circuitfind.models.loading.folder import weights_sha256
from circuitfind.prompts.files.prompts_file import write_prompts
from circuitfind.prompts.pairs import PromptPair

ARCHITECTURE = "GPT2LMHeadModel"
N_PROMPTS = 32
SEED = 0
UNKNOWN = "<unknown>"
COMMON = {
    "architectures": [ARCHITECTURE],
    "model_type": "gpt2",
    "tie_word_embeddings": False,
    "dtype": "float32",
    "bos_token_id": 0,
    "eos_token_id": 0,
    **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
}

Words = tuple[str, ...]


def write_files(
    folder: Path,
    about: str,
    words: Words,
    weights: bytes,
    config: Mapping[str, Any],
    pairs: Sequence[PromptPair],
    graph: Graph,
    edges: Sequence[Edge],
    made_by: str,
) -> None:
    """All files of the model that is named as its folder. ``config``: what its config.json has
    beside ``COMMON``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(weights)
    _write_json({**COMMON, **config}, folder / "config.json")
    _write_tokenizer(words, folder)
    prompts = write_prompts(pairs)
    (folder / f"{folder.name}.jsonl").write_text(prompts, encoding="utf-8")
    model = {
        "name": folder.name,
        "architecture": ARCHITECTURE,
        "n_layers": graph.n_layers,
        "n_heads": graph.n_heads,
        "d_model": config["n_embd"],
        "parallel_attn_mlp": graph.parallel,
        "sha256": weights_sha256(folder),
    }
    sha256 = hashlib.sha256(prompts.encode()).hexdigest()
    task = {
        "name": folder.name,
        "title": about,
        "n_prompts": len(pairs),
        "seed": SEED,
        "prompts_sha256": sha256,
    }
    circuit = Circuit(graph, dict.fromkeys(edges, 1.0), model, task, {"name": made_by})
    (folder / "circuit.json").write_text(circuit.to_json(), encoding="utf-8")


def _write_tokenizer(words: Words, folder: Path) -> None:
    """One token a word; nothing is added before or after a text."""
    ids = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": UNKNOWN}
    _write_json(settings, folder / "tokenizer_config.json")


def _write_json(data: object, path: Path) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
