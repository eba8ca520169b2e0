"""A file's content, read without running anything in it: JSON, text, or tensors that PyTorch saved.

A pickle is a program that Python runs when it reads it, so none is read: of PyTorch's files only
those that hold tensors and plain values (``torch.load(weights_only=True)``). What a file unpacks to
is counted before it is unpacked.
"""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

from circuitfind.errors import CircuitError
from circuitfind.files.json_file import parse_json

MOST_BYTES = 1 << 30
"""A file that is larger, or unpacks to more, is refused: the scores of a model of 8B take some ten
million numbers.
"""
ZIP, PICKLE = b"PK\x03\x04", b"\x80"
SAFE = (
    "Save it anew in a safe format: as JSON, or with torch.save as a dict of tensors and plain values (of"
    " ACDC: experiment.save_subgraph('subgraph.pth'))."
)


def read_content(path: Path) -> Any:
    """JSON values, a text, or the dict of tensors that a file holds. Raises CircuitError for
    anything else.
    """
    data = read_bytes(path)
    if data.startswith(ZIP):
        return _load_tensors(data, path)
    if data.startswith(PICKLE):
        raise CircuitError(
            f"{path} is a pickle: reading one runs whatever program it holds, so it is not read.\n{SAFE}"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CircuitError(f"{path} is neither text nor a file that torch.save writes.") from None
    is_json = path.suffix.lower() == ".json" or text.lstrip()[:1] == "{"
    return parse_json(text, str(path)) if is_json else text


def read_bytes(path: Path) -> bytes:
    """The file's bytes. Raises CircuitError where it can't be read, or is too large."""
    try:
        if path.is_dir():
            raise CircuitError(f"{path} is a folder. Name a file in it.")
        if path.stat().st_size > MOST_BYTES:
            raise CircuitError(
                f"{path} has {path.stat().st_size:,} bytes; no file of a circuit has so many."
            )
        return path.read_bytes()
    except OSError as error:
        raise CircuitError(f"Cannot read {path}: {error.strerror}.") from None


def _load_tensors(data: bytes, path: Path) -> Any:
    """What torch.save wrote. Raises CircuitError for what only a pickle's program could read."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            n_bytes = sum(part.file_size for part in archive.infolist())
    except (zipfile.BadZipFile, ValueError, RuntimeError, OSError, EOFError, OverflowError, struct.error):
        # RuntimeError: NotImplementedError, a version of zip files that there is not
        raise CircuitError(f"{path} is damaged: it is no whole file of torch.save.") from None
    if n_bytes > MOST_BYTES:
        raise CircuitError(f"{path} unpacks to {n_bytes:,} bytes; no file of a circuit has so many.")
    import pickle

    import torch

    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CircuitError(
            f"{path} holds more than tensors and plain values: reading it would run whatever program it"
            f" holds, so it is not read.\n{SAFE}"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise CircuitError(f"{path} is damaged, or no file of torch.save.") from None
