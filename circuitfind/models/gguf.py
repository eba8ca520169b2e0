"""GGUF files, llama.cpp's format: dequantised once to float32, kept as an ordinary model folder.

The folder is kept under the file's own sha256, so a file that was moved or renamed is not converted again, and one that
was changed is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from circuitfind.errors import ModelError
from circuitfind.models.cache import cache_dir, make_once
from circuitfind.models.folder import file_sha256
from circuitfind.progress import Progress


def fetch_gguf(gguf: Path, progress: Progress) -> Path:
    """The folder of a .gguf file's model, converted now if it was not before. Raises ModelError if it can't be read."""
    check_magic(gguf)
    progress.stage(f"reading {gguf.name}")
    folder = cache_dir() / "gguf" / file_sha256(gguf)[:32]
    return make_once(folder, lambda part: gguf_to_folder(gguf, part, progress), progress)


def check_magic(gguf: Path) -> None:
    """Raises ModelError for a file that does not begin as every GGUF file does."""
    try:
        with gguf.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise ModelError(f"Can't read {gguf}: {error.strerror}.") from error
    if start != b"GGUF":
        raise ModelError(
            f"{gguf} is no GGUF file: it begins with {start!r}, not b'GGUF'. Download or convert it again."
        )


def gguf_to_folder(gguf: Path, folder: Path, progress: Progress) -> None:
    """Writes the file's model and tokenizer into ``folder``: float32 safetensors in the hub's layout."""
    progress.stage(f"dequantising {gguf.name}")
    from circuitfind.models.quiet import quiet

    with quiet():
        model, tokenizer = _read(gguf)
        _save(model, folder)
        tokenizer.save_pretrained(folder)
    _forget_version(folder / "config.json")


def _read(gguf: Path) -> tuple[Any, Any]:
    """The file's model, dequantised, and its tokenizer. Raises ModelError if the file is damaged or lacks tensors."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            gguf.parent, dtype=torch.float32, output_loading_info=True, **source
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
    except Exception as error:  # a damaged file makes its readers raise anything
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelError(
            f"Can't read {gguf}: {reason[:200]}\nThe file is truncated or damaged, or of a kind that can't be read."
        ) from error
    missing = sorted(info["missing_keys"])
    if missing:  # transformers has made them up
        raise ModelError(
            f"{gguf} lacks {len(missing)} of its model's tensors: {', '.join(missing[:3])}. Download it again."
        )
    return model, tokenizer


def _save(model: Any, folder: Path) -> None:
    from safetensors import SafetensorError

    if hasattr(model.config, "quantization_config"):  # else save_pretrained takes the weights as quantised still
        del model.config.quantization_config
    model.is_quantized, model.hf_quantizer = False, None
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:  # its name for a full disk
        raise OSError(str(error)) from error


def _forget_version(config: Path) -> None:
    """Drops the converter's version from config.json, so that the model's sha256 does not change with it."""
    fields = json.loads(config.read_text(encoding="utf-8"))
    fields.pop("transformers_version", None)
    config.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
