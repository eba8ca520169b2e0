"""The head of a GGUF file: what it says of its model, and its tensors' names and shapes. No weight is read.

A head can claim anything; nothing that it claims is believed before the file has the bytes for it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from math import prod
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from circuitfind.errors import ModelError, shown

MOST_KEYS, MOST_TENSORS, MOST_ELEMENTS, LONGEST_TEXT = 10_000, 1 << 20, 1 << 22, 1 << 24
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_FLOAT32 = 0


@dataclass(frozen=True)
class GgufTensor:
    """A tensor's shape, rows first as torch has it; ggml's number for how it is stored; its first
    byte in the file.
    """

    shape: tuple[int, ...]
    kind: int
    start: int


@dataclass(frozen=True)
class GgufHead:
    """``metadata`` by key, tensors by name."""

    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]


def read_floats(path: Path, tensor: GgufTensor) -> list[float]:
    """The numbers of a tensor in float32. Raises ModelError where it is stored otherwise, or not there."""
    n_bytes = 4 * prod(tensor.shape)
    with path.open("rb") as file:
        file.seek(tensor.start)
        content = file.read(n_bytes) if tensor.kind == _FLOAT32 and n_bytes <= LONGEST_TEXT else b""
    if len(content) != n_bytes:
        raise ModelError(
            f"Can't read a tensor of {path}: it is no float32, or cut off. Download the file again."
        )
    return list(struct.unpack(f"<{prod(tensor.shape)}f", content))


def read_gguf_head(path: Path) -> GgufHead:
    """The file's head. Raises ModelError where it is no GGUF file, or no whole one."""
    try:
        with path.open("rb") as file:
            _check_magic(path, file.read(4))
            with mmap(file.fileno(), 0, access=ACCESS_READ) as content:
                return _read(_Reader(content))
    except OSError as error:
        raise ModelError(f"Can't read {path}: {error.strerror}.") from error
    except (struct.error, UnicodeDecodeError, _ClaimError) as error:
        raise ModelError(
            f"Can't read {path}: its head {error if isinstance(error, _ClaimError) else 'ends too early'}.\n"
            "The file is truncated or damaged. Download or convert it again."
        ) from error


def _check_magic(path: Path, start: bytes) -> None:
    if start != b"GGUF":
        raise ModelError(
            f"{path} is no GGUF file: it begins with {start!r}, not b'GGUF'. Download or convert it again."
        )


class _ClaimError(Exception):
    """What a head claims that can't be."""


@dataclass
class _Reader:
    """A place in the file, moved on by what is read."""

    content: mmap
    place: int = 4

    def take(self, form: str) -> tuple[Any, ...]:
        found = struct.unpack_from(f"<{form}", self.content, self.place)
        self.place += struct.calcsize(f"<{form}")
        return found

    def count(self, what: str, most: int) -> int:
        (number,) = self.take("Q")
        if number > most:
            raise _ClaimError(f"claims {number:,} {what}")
        return int(number)

    def text(self) -> str:
        length = self.count("characters in one text", LONGEST_TEXT)
        start, self.place = self.place, self.place + length
        if self.place > len(self.content):
            raise _ClaimError("ends too early")
        return self.content[start : self.place].decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self.text()
        if kind == _ARRAY:
            return self.array()
        if kind not in _FORMATS:
            raise _ClaimError(f"holds a value of unknown kind {kind}")
        return self.take(_FORMATS[kind])[0]

    def array(self) -> list[Any]:
        (kind,), length = self.take("I"), self.count("items in one list", MOST_ELEMENTS)
        if kind == _TEXT:
            return [self.text() for _ in range(length)]
        if kind not in _FORMATS:
            raise _ClaimError(f"holds a list of unknown kind {kind}")
        return list(self.take(f"{length}{_FORMATS[kind]}"))


def _read(reader: _Reader) -> GgufHead:
    (version,) = reader.take("I")
    if version not in (2, 3):
        raise _ClaimError(f"is of version {version}; 2 and 3 can be read")
    n_tensors, n_keys = reader.count("tensors", MOST_TENSORS), reader.count("keys", MOST_KEYS)
    metadata = {}
    for _ in range(n_keys):
        key = reader.text()
        (kind,) = reader.take("I")
        if key in metadata:
            raise _ClaimError(f"holds {shown(key)} twice")
        metadata[key] = reader.value(kind)
    tensors = dict(_read_tensor(reader) for _ in range(n_tensors))
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20:
        raise _ClaimError(f"claims an alignment of {shown(alignment)}")
    start = -(-reader.place // alignment) * alignment
    return GgufHead(
        metadata, {name: replace(tensor, start=start + tensor.start) for name, tensor in tensors.items()}
    )


def _read_tensor(reader: _Reader) -> tuple[str, GgufTensor]:
    name = reader.text()
    (n_dimensions,) = reader.take("I")
    if n_dimensions > 4:
        raise _ClaimError(f"claims a tensor of {n_dimensions} dimensions")
    shape = reader.take(f"{n_dimensions}Q")
    kind, start = reader.take("IQ")
    return name, GgufTensor(tuple(reversed(shape)), kind, start)
