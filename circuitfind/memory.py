"""How much memory a run will need, told before it starts."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuitfind.errors import UsageError

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
CGROUP_USED = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")
CGROUP_STATS = ("/sys/fs/cgroup/memory.stat", "/sys/fs/cgroup/memory/memory.stat")
LIBRARIES = 600 << 20
"""What Python, torch and TransformerLens take themselves."""
TESTS = 1 << 30
"""What tests in flight may take: their size is held to it (``search.py``)."""


@dataclass(frozen=True)
class Size:
    """What decides how much memory a run needs. ``weight_bytes`` as the weights lie on disk."""

    n_layers: int
    n_heads: int
    d_model: int
    d_vocab: int
    weight_bytes: int

    @staticmethod
    def of(config: dict[str, Any], weight_bytes: int) -> Size:
        """From a model's config.json, whatever its family calls things."""

        def find(*names: str) -> int:
            return next((int(config[name]) for name in names if isinstance(config.get(name), int)), 1)

        return Size(
            find("num_hidden_layers", "n_layer"),
            find("num_attention_heads", "n_head"),
            find("hidden_size", "n_embd"),
            find("vocab_size"),
            weight_bytes,
        )


def needed(size: Size, n_prompts: int, n_pos: int, itemsize: int, stored_itemsize: int) -> int:
    """Bytes at the peak of a run: the weights twice (as loaded and as read), and the runs of all prompts.

    A stream is one [prompt, pos, d_model] tensor. Each sender has one (its change), each layer ten more (its inputs, q,
    k, v, z and outputs of the clean run), each receiver one in the present run at the most.
    """
    stream = n_prompts * n_pos * size.d_model * itemsize
    n_senders = 1 + size.n_layers * (size.n_heads + 1)
    n_streams = n_senders + 10 * size.n_layers + size.n_layers * (3 * size.n_heads + 1)
    logits = 3 * n_prompts * size.d_vocab * 8
    return 2 * size.weight_bytes * itemsize // stored_itemsize + n_streams * stream + logits + LIBRARIES + TESTS


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


def check_memory(size: Size, n_prompts: int, n_pos: int, itemsize: int, stored_itemsize: int, device: str) -> int:
    """Bytes the run will need. Raises UsageError, with what to lower, if that is more than there is."""
    need, have = needed(size, n_prompts, n_pos, itemsize, stored_itemsize), available(device)
    if need > have:
        raise UsageError(
            f"This run needs about {gigabytes(need)} of memory and {gigabytes(have)} are available.\n"
            f"Lower --prompts (now {n_prompts}), use shorter prompts (now {n_pos} tokens), or take a smaller --model."
        )
    return need


def peak() -> int:
    """The most bytes this process has held so far."""
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
