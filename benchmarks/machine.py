"""The machine's size, for the head of every figure."""

from __future__ import annotations

import platform

import psutil
import torch


def machine() -> str:
    """Cores, memory, versions: what a reader needs to judge a figure by."""
    cores, memory = psutil.cpu_count(logical=True), psutil.virtual_memory().total / 1e9
    threads = f"{torch.get_num_threads()} threads"
    return f"{cores} cores, {threads}, {memory:.0f} GB, {platform.machine()}, torch {torch.__version__}"
