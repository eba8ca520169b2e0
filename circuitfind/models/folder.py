"""A model's folder in the hub's layout: config.json, the weights, the tokenizer. Which files count, and are they there.

Nothing here reads a weight or imports torch, so a folder can be judged before anything heavy is loaded.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from circuitfind.errors import ModelError

# Where the weights are, best first: one file, or an index that names its shards.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# Any one of these is a tokenizer: the fast one, sentencepiece's, byte-level BPE's, WordPiece's.
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
_CHUNK = 1 << 20


def read_config(folder: Path) -> dict[str, Any]:
    """What config.json says. Raises ModelError where it is missing or no JSON object."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder} holds no config.json. Give a model's folder in the hub's layout, or a .gguf file.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"Can't read {path}: {error}. Copy or pull the model again.") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds no JSON object. Copy or pull the model again.")
    return config


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files the weights are read from, in name order. Raises ModelError where none or not all of them are there."""
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return (folder / name,)
        if (folder / f"{name}.index.json").is_file():
            return _shards(folder / f"{name}.index.json")
    raise ModelError(
        f"{folder} holds no weights. It needs model.safetensors (or its shards and their index), or pytorch_model.bin."
    )


def _shards(index: Path) -> tuple[Path, ...]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"Can't read {index}: {error}. Copy or pull the model again.") from error
    shards = tuple(index.parent / name for name in names)
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise ModelError(
            f"{index.parent} lacks {', '.join(missing[:3])} of {len(shards)} weight files. Copy or pull it again."
        )
    return shards


def has_tokenizer(folder: Path) -> bool:
    """Whether any file of a tokenizer is there."""
    return any((folder / name).is_file() for name in _TOKENIZERS)


def is_complete(folder: Path) -> bool:
    """Whether config, all weights and a tokenizer are there."""
    try:
        read_config(folder)
        weight_files(folder)
    except ModelError:
        return False
    return has_tokenizer(folder)


def weights_sha256(folder: Path) -> str:
    """What tells one model from another: sha256 over config.json and the weight files, names and bytes, in name order.

    Each file enters as its name, a zero byte, its length as eight bytes and its content.
    """
    digest = hashlib.sha256()
    read_config(folder)
    for path in sorted((folder / "config.json", *weight_files(folder))):
        digest.update(path.name.encode() + b"\0" + path.stat().st_size.to_bytes(8, "big"))
        feed(digest, path)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 of a file's content."""
    digest = hashlib.sha256()
    feed(digest, path)
    return digest.hexdigest()


def feed(digest: hashlib._Hash, path: Path) -> None:
    """Adds a file's content to a digest, a piece at a time."""
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
