"""How much memory a run will need, told before it starts."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from circuitfind.errors import UsageError
from circuitfind.models.folder import read_config, weight_files

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
CGROUP_USED = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")
CGROUP_STATS = ("/sys/fs/cgroup/memory.stat", "/sys/fs/cgroup/memory/memory.stat")
LIBRARIES = 600 << 20
"""What Python, torch and TransformerLens take themselves."""
IN_FLIGHT = 512 << 20
"""What the tests in flight on one thread may take with all they compute: their size is held to it (``search.py``)."""
TESTS = 32
"""How many tests run side by side at the most (``methods/acdc.py``)."""
BLOCK_ROWS = 4
"""A block of prompts is made up to a multiple of this (``rerun.py``)."""
LOGITS = 64 << 20
"""The slice of the logits that stands in memory on one thread (``metrics.py``)."""
ITEMSIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Shape:
    """What of a model's shape decides how much memory a run needs."""

    n_layers: int
    n_heads: int
    d_model: int
    d_vocab: int

    @staticmethod
    def of(config: dict[str, Any]) -> Shape:
        """From a model's config.json, whatever its family calls things."""

        def find(*names: str) -> int:
            return next((int(config[name]) for name in names if isinstance(config.get(name), int)), 1)

        return Shape(
            find("num_hidden_layers", "n_layer"),
            find("num_attention_heads", "n_head"),
            find("hidden_size", "n_embd"),
            find("vocab_size"),
        )


@dataclass(frozen=True)
class Stored:
    """A model's weights as they lie on disk."""

    n_bytes: int
    n_numbers: int


@dataclass(frozen=True)
class Workload:
    """Everything that the memory a run needs depends on; ``itemsize`` is that of the dtype it computes in."""

    shape: Shape
    stored: Stored
    itemsize: int
    n_prompts: int
    n_pos: int
    batch_size: int
    n_threads: int


def stored_weights(folder: Path) -> Stored:
    """How many weights a model's folder holds, from the files' heads: no weight is read."""
    files = weight_files(folder)
    n_bytes = sum(path.stat().st_size for path in files)
    counts = [_count(path) for path in files if path.suffix == ".safetensors"]
    if counts:
        return Stored(n_bytes, sum(counts))
    config = read_config(folder)
    spelled = str(config.get("dtype") or config.get("torch_dtype"))
    return Stored(n_bytes, n_bytes // ITEMSIZES.get(spelled, 4))


def _count(path: Path) -> int:
    """The numbers in a .safetensors file: its head is JSON behind its length. 0 where that can't be read."""
    try:
        with path.open("rb") as file:
            head = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), path.stat().st_size)))
        return sum(prod(entry["shape"]) for name, entry in head.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return 0  # a damaged file; loading it says so


def needed(work: Workload) -> int:
    """Bytes at the peak of a run."""
    return LIBRARIES + _weights(work) + _search(work)


def _weights(work: Workload) -> int:
    """The weights as loaded and as read, and the file they come from while that is mapped."""
    stored, in_dtype = work.stored, work.stored.n_numbers * work.itemsize
    is_converted = stored.n_bytes // max(1, stored.n_numbers) != work.itemsize  # a file's head is short
    return 2 * in_dtype + (stored.n_bytes if is_converted else 0)


def _search(work: Workload) -> int:
    """The runs of all prompts, and the tests on each thread.

    A stream is one [prompt, pos, d_model] tensor. Each sender has one (its change), each layer ten more (its inputs, q,
    k, v, z and outputs of the clean run), each receiver half a one in the present run: many hold the answer position
    alone.
    """
    shape = work.shape
    blocks = [min(work.batch_size, work.n_prompts - i) for i in range(0, work.n_prompts, work.batch_size)]
    rows = [block + -block % BLOCK_ROWS for block in blocks]
    row = work.n_pos * shape.d_model * work.itemsize
    n_senders = 1 + shape.n_layers * (shape.n_heads + 1)
    n_receivers = 1 + shape.n_layers * (3 * shape.n_heads + 1)
    runs = sum(rows) * row * (n_senders + 10 * shape.n_layers + n_receivers // 2)
    test = min(IN_FLIGHT, TESTS * max(rows) * row * n_senders)
    logits = min(LOGITS, 3 * TESTS * max(rows) * shape.d_vocab * 8)
    return runs + min(work.n_threads, len(blocks)) * (test + logits)


def available(device: str) -> int:
    """Bytes that can still be had on the device; a container's limit counts."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info()[0])
    import psutil

    free = int(psutil.virtual_memory().available)
    limits = [int(text) for text in map(_read, CGROUP_LIMITS) if text.isdigit()]
    used = [int(text) for text in map(_read, CGROUP_USED) if text.isdigit()]
    return min(free, max(0, limits[0] - used[0] + _reclaimable())) if limits and used else free


def check_memory(work: Workload, device: str) -> int:
    """Bytes the run will need. Raises UsageError, with what to lower, if that is more than there is."""
    need, have = needed(work), available(device)
    if need > have:
        raise UsageError(
            f"This run needs about {gigabytes(need)} of memory and {gigabytes(have)} are available.\n"
            f"Lower {_what_to_lower(work)}."
        )
    return need


def _what_to_lower(work: Workload) -> str:
    """The largest part decides: the model, or its prompts."""
    if _weights(work) > _search(work):
        return "the memory that other programs use, or take a smaller --model (or --dtype bfloat16)"
    return f"--prompts (now {work.n_prompts}), use shorter prompts (now {work.n_pos} tokens), or take a smaller --model"


def peak() -> int:
    """The most bytes this process has held so far."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    high = next((line.split()[1] for line in _read("/proc/self/status").splitlines() if line.startswith("VmHWM")), "")
    if high:
        return int(high) * 1024  # getrusage's would count what the process that started this one held
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def gigabytes(n_bytes: int) -> str:
    """For people.

    >>> gigabytes(2_500_000_000)
    '2.5 GB'
    """
    return f"{n_bytes / 1e9:.1f} GB"


def _reclaimable() -> int:
    """Bytes of files that a container holds in its cache, which counts as used though it goes when room is needed."""
    lines = [line.split() for path in CGROUP_STATS for line in _read(path).splitlines()]
    return next((int(line[1]) for line in lines if line[0] in ("inactive_file", "total_inactive_file")), 0)


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
