"""How much memory a run will need, planned before it starts.

What can be chosen is how many tests are in flight and how many prompts are computed together:
neither changes an outcome. Everything is held in the dtype that the run computes in, and on its
device: less of either would not be exact.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from circuitfind.circuits.graph import Counts
from circuitfind.errors import UsageError
from circuitfind.models.sizes import (
    ITEMSIZES,
    MOST_SCORES,
    Shape,
    Stored,
    compared_together,
    keeps_mlps_twice,
)

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
CGROUP_USED = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")
CGROUP_STATS = ("/sys/fs/cgroup/memory.stat", "/sys/fs/cgroup/memory/memory.stat")
LIBRARIES = 560 << 20
"""What Python, torch, scipy and TransformerLens take themselves."""
BYTES_IN_FLIGHT = 256 << 20
"""What the tests in flight on one thread may hold where there is room (``methods/search/chain.py``)."""
LEAST_IN_FLIGHT = 8 << 20
"""Below this, less in flight would save next to nothing and take much longer."""
TESTS = 64
"""How many tests run side by side at the most (``methods/search/acdc.py``)."""
BLOCK_ROWS = 4
"""A block of prompts is made up to a multiple of this (``patching/incremental.py``)."""
RUN_STREAMS = 55
"""How many streams a layer takes in the runs of a scored block and their gradients, by measurement."""
KEPT_PATTERNS = 3
"""How many layers' attention patterns a scored block holds beside one for each layer: scores, and
their gradients.
"""
COMPARED_PATTERNS = 5
"""How often TransformerLens holds one layer's attention pattern while the model is compared with it."""
BYTES_PER_PROMPT = 24 << 10
"""What one prompt takes beside what is computed for it, by measurement: its texts, its measures, and
its place in every resample.
"""
BYTES_PER_EDGE = 500
"""What one edge of a circuit takes while its files are made, by measurement."""
OPENED_READS = 6
"""How many streams each head takes where a run is made that lacks edges: one for each input, and
their norms.
"""
VOCAB_SLICE = 2048
"""How many tokens' logits stand in memory at once (``metrics/log_z.py``)."""
ROWS_OF_LOGITS = 16
"""How many rows of logits a thread holds for a task's own metric (``metrics/objective.py``)."""
COPIES_OF_LOGITS = 6
"""How often such a metric may hold a row in float64, its gradient included."""
BLOCKS_PER_STEP = 2
"""How many blocks of BLOCK_ROWS prompts are run together while constants are learned
(``patching/learned_ablation.py``).
"""


@dataclass(frozen=True)
class Workload:
    """Everything that the memory a run needs depends on; ``itemsize`` is that of the dtype it computes in.

    ``bytes_in_flight`` is what the tests in flight on one thread may hold; ``of_scores``: there are
    no tests, edges are scored; ``tests_each``: by a test of each; ``has_candidates``: edges are
    scored, and then some of them tested; ``of_logits``: a metric of the task's own reads whole rows
    of logits; ``learns_constants``: those of optimal ablation, before the search. ``n_roles``: at
    how many roles an edge is something of its own. ``share_kept``: of all edges, at the most, the
    circuit's share.
    """

    shape: Shape
    stored: Stored
    itemsize: int
    n_prompts: int
    n_pos: int
    batch_size: int
    n_threads: int
    bytes_in_flight: int = BYTES_IN_FLIGHT
    of_scores: bool = False
    has_candidates: bool = False
    of_logits: bool = False
    tests_each: bool = False
    learns_constants: bool = False
    n_roles: int = 1
    share_kept: float = 0.0


def needed(work: Workload) -> int:
    """Bytes at the peak of a run."""
    parts = [_scoring] if work.of_scores else [_scoring, _search] if work.has_candidates else [_search]
    parts += [_learning, _comparing, _writing]
    of_prompts = BYTES_PER_PROMPT * work.n_prompts
    return LIBRARIES + of_prompts + _weights(work) + _logits(work) + max(part(work) for part in parts)


def _weights(work: Workload) -> int:
    """The weights as loaded and as read, and the file they come from while that is mapped."""
    stored, in_dtype = work.stored, work.stored.n_numbers * work.itemsize
    is_converted = stored.n_bytes // max(1, stored.n_numbers) != work.itemsize  # a file's head is short
    wider = (_head_itemsize(work) - work.itemsize) * work.shape.d_model * work.shape.d_vocab
    return 2 * in_dtype + wider + (stored.n_bytes if is_converted else 0)


def _search(work: Workload) -> int:
    """The runs of all prompts; and on each thread a block that is opened, or, later, its tests."""
    n_together = min(work.n_threads, len(_blocks(work)))
    opening = n_together * _opening(work) + _yardstick(work)
    tests = n_together * _tests(work) + _packed_unembedding(work)
    return _runs(work) + _packed_mlps(work) + max(opening, tests) + n_together * _scores_at_once(work)


def _scoring(work: Workload) -> int:
    """The scores of all prompts three times over (as they come, together, and in float64 one after
    another); and on each thread a block: every sender's change, and of each layer RUN_STREAMS
    streams of runs and their gradients."""
    shape, n_together = work.shape, min(work.n_threads, len(_blocks(work)))
    n_scores = work.n_prompts * work.n_roles * _n_receivers(shape) * _n_senders(shape)
    block = max(_blocks(work)) * (
        _stream(work) * (_n_senders(shape) + RUN_STREAMS * shape.n_layers) + _patterns(work)
    )
    packed = _packed_unembedding(work) + _packed_mlps(work) if work.tests_each else 0
    return 3 * n_scores * work.itemsize + n_together * block + packed


def _blocks(work: Workload) -> list[int]:
    """How many prompts each block has, made up."""
    sizes = [min(work.batch_size, work.n_prompts - i) for i in range(0, work.n_prompts, work.batch_size)]
    return [size + -size % BLOCK_ROWS for size in sizes]


def _stream(work: Workload) -> int:
    """One [pos, d_model] tensor."""
    return work.n_pos * work.shape.d_model * work.itemsize


def _pattern(work: Workload) -> int:
    """One layer's attention pattern in one prompt, [head, pos, pos]."""
    return work.shape.n_heads * work.n_pos**2 * work.itemsize


def _patterns(work: Workload) -> int:
    """What a prompt's attention takes in a run that is gone back through: every layer's pattern,
    and KEPT_PATTERNS.
    """
    return (work.shape.n_layers + KEPT_PATTERNS) * _pattern(work)


def _scores_at_once(work: Workload) -> int:
    """What a thread's attention takes in any other run: scores, and the pattern that is made of them."""
    rows = max(_blocks(work))
    at_once = min(rows * _pattern(work), max(MOST_SCORES, rows * work.n_pos**2) * work.itemsize)
    return 2 * at_once


def _comparing(work: Workload) -> int:
    """What the comparison with TransformerLens at load takes: the streams that are compared, and a
    few patterns.
    """
    n_prompts = min(work.n_prompts, compared_together(work.n_pos))
    return _rounding(work) + n_prompts * (
        2 * 10 * work.shape.n_layers * _stream(work) + COMPARED_PATTERNS * _pattern(work)
    )


def _rounding(work: Workload) -> int:
    """What a model that is compared in float32 and then rounded (``models/loading/model.py``) takes
    beyond its two copies.
    """
    wide = _head_itemsize(work)
    return (2 * wide - work.itemsize) * work.stored.n_numbers if wide > work.itemsize else 0


def _head_itemsize(work: Workload) -> int:
    """That of what lies behind the last block, which is float32 at least (``models/transformer.py``)."""
    return max(work.itemsize, ITEMSIZES["float32"])


def _writing(work: Workload) -> int:
    """What a circuit takes while its files are made, beside the scores of all prompts."""
    shape, n_roles = work.shape, work.n_roles
    n_scores = work.n_prompts * n_roles * _n_receivers(shape) * _n_senders(shape) if work.of_scores else 0
    return int(n_roles * n_edges(shape) * work.share_kept) * BYTES_PER_EDGE + n_scores * work.itemsize


def n_edges(shape: Shape) -> int:
    """The edges of a model of this shape, at one role; where attention and MLP are parallel it has
    a few less.
    """
    return Counts.of(shape.n_layers, shape.n_heads).edges


def _runs(work: Workload) -> int:
    """What is held of every prompt from the beginning to the end.

    Each sender has a stream (its change), each layer ten more (its inputs, q, k, v, z and outputs
    of the clean run), each receiver half a one in the present run: many hold the answer position
    alone.
    """
    shape = work.shape
    each = _n_senders(shape) + 10 * shape.n_layers + _n_receivers(shape) // 2
    return sum(_blocks(work)) * _stream(work) * each


def _n_receivers(shape: Shape) -> int:
    return Counts.of(shape.n_layers, shape.n_heads).receivers


def _n_senders(shape: Shape) -> int:
    return Counts.of(shape.n_layers, shape.n_heads).senders


def _opening(work: Workload) -> int:
    """The corrupted run of a block, which is gone when its changes are there; and where a search
    starts from candidates what a layer's heads read (``patching/shortlisted.py``), with its norm.
    """
    n_reads = OPENED_READS * work.shape.n_heads if work.has_candidates else 0
    return max(_blocks(work)) * _stream(work) * (10 * work.shape.n_layers + n_reads)


def _yardstick(work: Workload) -> int:
    """The unembedding about its mean, and once more in another norm (``metrics/log_z.py``): gone
    before any test.
    """
    return 2 * work.shape.d_model * work.shape.d_vocab * _head_itemsize(work)


def _packed_unembedding(work: Workload) -> int:
    """The unembedding once more, in order for products of few rows (``patching/packing.py``)."""
    is_packed = _head_itemsize(work) == ITEMSIZES["float32"]
    return work.shape.d_model * work.shape.d_vocab * ITEMSIZES["float32"] if is_packed else 0


def _packed_mlps(work: Workload) -> int:
    """The MLPs once more, where they are kept twice; as if each had a gate."""
    smallest = work.shape.d_model * work.shape.d_mlp
    total = 3 * work.shape.n_layers * smallest
    return total * work.itemsize if _is_packed(work) and keeps_mlps_twice(smallest, 2 * total // 3) else 0


def _is_packed(work: Workload) -> bool:
    return work.itemsize == ITEMSIZES["float32"]


def _tests(work: Workload) -> int:
    """The tests in flight in a block: what their nodes write, an MLP's hidden layer twice, a slice
    of their logits.
    """
    rows = max(_blocks(work))
    one = rows * _stream(work) * _n_senders(work.shape)
    hidden = 2 * TESTS * rows * work.n_pos * work.shape.d_mlp * work.itemsize
    logits = 2 * TESTS * rows * min(VOCAB_SLICE, work.shape.d_vocab) * work.itemsize
    return max(one, min(work.bytes_in_flight, TESTS * one)) + hidden + logits


def _logits(work: Workload) -> int:
    """The full model's logits of every prompt, and on each thread a few rows with what is computed
    from them.
    """
    if not work.of_logits:
        return 0
    in_flight = work.n_threads * ROWS_OF_LOGITS * (work.itemsize + COPIES_OF_LOGITS * ITEMSIZES["F64"])
    return (work.n_prompts * work.itemsize + in_flight) * work.shape.d_vocab


def _learning(work: Workload) -> int:
    """On two threads at most a block: every sender's excess and its gradient, what every receiver
    reads, and of each layer RUN_STREAMS streams; and once the weights of q, k and v side by side
    (``patching/learned_ablation.py``)."""
    if not work.learns_constants:
        return 0
    shape, n_blocks = work.shape, min(work.n_threads, BLOCKS_PER_STEP)
    streams = 2 * _n_senders(shape) + _n_receivers(shape) + RUN_STREAMS * shape.n_layers
    side_by_side = 3 * shape.n_layers * shape.d_model**2 * work.itemsize
    return n_blocks * BLOCK_ROWS * (_stream(work) * streams + _patterns(work)) + side_by_side


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


def plan_memory(
    work: Workload, device: str, limit: int | None = None, batch_sizes: Sequence[int] = ()
) -> Workload:
    """The workload with as much in flight, and of ``batch_sizes`` the first, as fit in ``limit``
    and what there is.

    Its own batch size is tried before those. Raises UsageError, with what to lower, where nothing
    fits.
    """
    have = available(device)
    least = LEAST_IN_FLIGHT.bit_length()
    shares = [1 << bits for bits in reversed(range(least - 1, work.bytes_in_flight.bit_length()))]
    choices = [
        replace(work, batch_size=size, bytes_in_flight=share)
        for size in (work.batch_size, *batch_sizes)
        for share in shares
    ]
    room = have if limit is None else min(limit, have)
    fitting = next((choice for choice in choices if needed(choice) <= room), None)
    if fitting is None:
        smallest = min(choices, key=needed)
        allowed = (
            f"--memory allows {gigabytes(room)}" if room == limit else f"{gigabytes(have)} are available"
        )
        raise UsageError(
            f"This run needs about {gigabytes(_rounded_up(needed(smallest)))} of memory and {allowed}.\n"
            f"{'Raise it, or lower' if room == limit else 'Lower'} {_what_to_lower(smallest)}."
        )
    return fitting


def _rounded_up(n_bytes: int) -> int:
    """To what ``gigabytes`` shows, so that no one is told that 2.5 GB are needed and 2.5 GB allowed."""
    return -(-n_bytes // 10**8) * 10**8


def _what_to_lower(work: Workload) -> str:
    """The largest part decides: the model, the circuit's files, or the prompts."""
    main = max(_search(work), _scoring(work) if work.of_scores else 0)
    if _weights(work) > max(main, _writing(work)):
        return "the memory that other programs use, or take a smaller --model"
    if _writing(work) > main:
        n_kept = int(work.n_roles * n_edges(work.shape) * work.share_kept)
        return f"--edges or --fraction (the circuit may have {n_kept:,} edges), or take a smaller --model"
    return (
        f"--prompts (now {work.n_prompts}), use shorter prompts (now {work.n_pos} tokens), or take a smaller"
        " --model"
    )


def peak() -> int:
    """The most bytes this process has held so far."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    high = next(
        (line.split()[1] for line in _read("/proc/self/status").splitlines() if line.startswith("VmHWM")),
        "",
    )
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
    """Bytes of files that a container holds in its cache, which counts as used though it goes when
    room is needed.
    """
    lines = [line.split() for path in CGROUP_STATS for line in _read(path).splitlines()]
    return next(
        (int(line[1]) for line in lines if line[0] in ("inactive_file", "total_inactive_file")), 0
    )


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
