"""The folder of a run: where it lies, what is in it, and that nothing is overwritten unasked."""

from __future__ import annotations

import contextlib
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from circuitfind.errors import OutputError
from circuitfind.graph import Graph

RUN_FILE = "run.json"


def default_folder(task: str, model: str, method: str, seed: int, now: datetime) -> Path:
    """results/<task>/<model>/<method>/<time>-<seed>, below the working directory."""
    return Path("results") / task / model.replace("/", "--") / method / f"{now:%Y%m%d-%H%M%S}-{seed}"


def claim(folder: Path, force: bool) -> Path:
    """The folder, made and found writable. Raises OutputError if it holds something and ``force`` is not given."""
    try:
        if folder.exists() and any(folder.iterdir()) and not force:
            raise OutputError(f"{folder} is not empty. Give another --out, or --force to write over what is there.")
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}.probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(f"Cannot write to {folder}: {error.strerror}. Give another --out.") from None
    return folder


def write(folder: Path, name: str, content: str | bytes) -> Path:
    """One file of the run, whole or not at all. Raises OutputError where that can't be done."""
    path, data = folder / name, _encode(content) if isinstance(content, str) else content
    partial = folder / f".{name}.partial"
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise OutputError(f"Cannot write {path}: {error.strerror}. Free some space or give another --out.") from None
    return path


def _encode(text: str) -> bytes:
    """UTF-8; half a character, as in the name of a folder that is no text, stays as JSON spells it."""
    return text.encode(errors="backslashreplace")


def scores_file(graph: Graph, scores: Float[Tensor, "receiver sender"], dtype: torch.dtype) -> bytes:
    """scores.safetensors: every edge's score, NaN where there is no edge; float64 in a float64 run, else float32."""
    stored = scores.to(torch.float64 if dtype == torch.float64 else torch.float32).contiguous()
    names = {"receivers": graph.receivers, "senders": graph.senders}
    return save({"scores": stored}, {key: json.dumps([str(node) for node in nodes]) for key, nodes in names.items()})


def json_file(value: Any) -> str:
    """A JSON document for people and programs."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
