"""What tells machines apart on which the same computation ends in other bits, and versions that write other bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib.metadata import version

LIBRARIES = ("torch", "numpy", "scipy", "transformers", "transformer_lens", "safetensors", "networkx")
DRAWING = ("pygraphviz", "matplotlib", "fonttools")


def take() -> dict[str, str]:
    """The hash of fixed computations, and the version of each library that has a say in a file's bytes."""
    import torch

    digest = hashlib.sha256()
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            for result in compute(dtype):
                digest.update(result.double().numpy().tobytes())
    return {"arithmetic": digest.hexdigest()} | {name: version(name) for name in (*LIBRARIES, *DRAWING)}


def compute(dtype: object) -> Iterator[object]:
    """Matrix products of many shapes and what else a model computes, of the same numbers everywhere."""
    import torch
    from torch.nn import functional as F

    def numbers(*shape: int) -> torch.Tensor:
        n = torch.Size(shape).numel()
        return (
            ((torch.arange(n, dtype=torch.int64) * 7919 + 13) % 1009 / 504.5 - 1).reshape(shape).to(dtype)
        )

    for n, k, m in (
        (1, 24, 125),
        (7, 16, 16),
        (16, 64, 64),
        (33, 40, 32),
        (96, 64, 192),
        (300, 257, 130),
    ):
        yield numbers(n, k) @ numbers(k, m)
        yield F.linear(numbers(3, n, k), numbers(m, k), numbers(m))
        yield torch.bmm(numbers(5, n, k), numbers(5, k, m))
        yield torch.einsum("pnk,hkm->phnm", numbers(2, n, k), numbers(3, k, m))
    x = numbers(19, 23, 64) * 4
    yield from (
        x.softmax(-1),
        x.log_softmax(-1),
        x.logsumexp(-1),
        F.layer_norm(x, (64,)),
        x.square().mean(-1).rsqrt(),
    )
    yield from (
        F.gelu(x),
        F.gelu(x, approximate="tanh"),
        F.silu(x),
        x.sigmoid(),
        x.tanh(),
        x.exp(),
        x.abs().log(),
    )
    yield from (
        x.cos(),
        x.sin(),
        x.sum(),
        x.sum(0),
        x.mean(1),
        x.cumsum(1),
        x.square().sum().sqrt(),
        x.std(-1),
    )
