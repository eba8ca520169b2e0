"""GGUF files, llama.cpp's format: dequantised once to float32, kept as an ordinary model folder.

The folder is kept under the file's own sha256, so a file that was moved or renamed is not converted again, and one that
was changed is.
"""

from __future__ import annotations

import json
from pathlib import Path

from circuitfind.errors import ModelError
from circuitfind.models.cache import cache_dir, make_once
from circuitfind.models.folder import file_sha256
from circuitfind.progress import Progress

# What transformers and gguf raise for files that are cut, damaged or of a kind they don't know.
_UNREADABLE = (OSError, ValueError, RuntimeError, KeyError, IndexError, TypeError, AttributeError, NotImplementedError)


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
        try:
            missing = _convert(gguf, folder)
        except _UNREADABLE as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ModelError(
                f"Can't read {gguf}: {reason}\nThe file is truncated or damaged, or of a kind transformers can't read."
            ) from error
    if missing:
        raise ModelError(
            f"{gguf} lacks {len(missing)} of its model's tensors: {', '.join(missing[:3])}. Download it again."
        )
    _forget_version(folder / "config.json")


def _convert(gguf: Path, folder: Path) -> list[str]:
    """Reads, dequantises and saves. Returns the names of tensors that the model has and the file does not."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, info = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    if info["missing_keys"]:
        return sorted(info["missing_keys"])
    if hasattr(
        model.config, "quantization_config"
    ):  # else save_pretrained refuses: it takes the weights as quantised still
        del model.config.quantization_config
    model.is_quantized, model.hf_quantizer = False, None
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True).save_pretrained(folder)
    return []


def _forget_version(config: Path) -> None:
    """Drops the converter's version from config.json, so that the model's sha256 does not change with it."""
    fields = json.loads(config.read_text(encoding="utf-8"))
    fields.pop("transformers_version", None)
    config.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
