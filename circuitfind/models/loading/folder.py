"""A model's folder in the hub's layout: config.json, the weights, the tokenizer. Which files count,
and are they there.

Nothing here reads a weight or imports torch, so a folder can be judged before anything heavy is
loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from circuitfind.errors import ModelError, shown
from circuitfind.files.json_file import Name, Schema, fit, parse_json, read_json
from circuitfind.models.loading.config import read_config

# Where the weights are, best first: one file, or an index that names its shards.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# Any one of these is a tokenizer: the fast one, sentencepiece's, byte-level BPE's, WordPiece's.
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
_BESIDE_TOKENIZERS = (
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_CHUNK = 1 << 24
_LONGEST_HEAD = 100_000_000  # bytes, as the format has it


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files the weights are read from, in name order. Raises ModelError where none or not all
    of them are there.
    """
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return (folder / name,)
        if (folder / f"{name}.index.json").is_file():
            return _shards(folder / f"{name}.index.json")
    raise ModelError(
        f"{folder} holds no weights. It needs model.safetensors (or its shards and their index), or"
        " pytorch_model.bin."
    )


class ShardIndex(Schema, frozen=True):
    """The index of weights in several files: which of them holds a tensor."""

    weight_map: Annotated[dict[str, Annotated[Name, Meta(min_length=1)]], Meta(min_length=1)]


class TensorHead(Schema, frozen=True):
    """What the head of a .safetensors file says of a tensor."""

    dtype: Name
    shape: Annotated[list[Annotated[int, Meta(ge=0, le=1 << 48)]], Meta(max_length=8)]

    @property
    def n_numbers(self) -> int:
        return prod(self.shape)


def _shards(index: Path) -> tuple[Path, ...]:
    names = sorted(set(read_json(index, ShardIndex, ModelError).weight_map.values()))
    outside = next((name for name in names if name != Path(name).name or "\\" in name), None)
    if outside is not None:
        raise ModelError(
            f"{index} names {shown(outside)}, which is no file beside it. Copy or pull the model again."
        )
    shards = tuple(index.parent / name for name in names)
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise ModelError(
            f"{index.parent} lacks {', '.join(missing[:3])} of {len(shards)} weight files. Copy or pull it"
            " again."
        )
    return shards


def read_head(path: Path) -> dict[str, TensorHead]:
    """The tensors of a .safetensors file by name: its head is JSON behind its length. No weight is read.

    Raises ModelError where the file is damaged.
    """
    source = f"The head of {path}"
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            text = file.read(min(length, _LONGEST_HEAD)).decode("utf-8")
    except OSError as error:
        raise ModelError(f"Can't read {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise ModelError(
            f"{path} is truncated or damaged: its head is no text. Copy or pull it again."
        ) from error
    if len(text.encode()) != length or not text:
        raise ModelError(
            f"{path} is truncated or damaged: its head is cut off. Copy or pull the model again."
        )
    head = parse_json(text, source, ModelError)
    if not isinstance(head, dict):
        raise ModelError(f"{source} is {shown(head)}; it must be an object.")
    tensors = {name: entry for name, entry in head.items() if name != "__metadata__"}
    return {name: fit(entry, TensorHead, source, ModelError, name) for name, entry in tensors.items()}


def is_adapter(name: str) -> bool:
    """Whether a file of that name is a part of an adapter, such as LoRA's."""
    return name.startswith(("adapter_config.json", "adapter_model."))


def refuse_adapter(folder: Path) -> None:
    """Raises ModelError where an adapter lies beside the weights, which nobody would add to them."""
    found = sorted(path.name for path in folder.glob("adapter_*") if is_adapter(path.name))
    if found:
        raise ModelError(
            f"{folder} holds an adapter ({found[0]}), which would be left out.\n"
            "Merge it into the weights (peft: merge_and_unload, save_pretrained), or move it elsewhere."
        )


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
    """What tells one model from another: sha256 over config.json and the weight files, names and
    bytes, in name order.

    Each file enters as its name, a zero byte, its length as eight bytes and its content.
    """
    read_config(folder)
    return _files_sha256((folder / "config.json", *weight_files(folder)))


def tokenizer_sha256(folder: Path) -> str:
    """What tells one tokenizer from another: sha256 over its files, which enter as those of the
    weights do.
    """
    files = (folder / name for name in (*_TOKENIZERS, *_BESIDE_TOKENIZERS))
    return _files_sha256(path for path in files if path.is_file())


def _files_sha256(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
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
