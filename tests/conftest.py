"""Tests run with every annotated shape checked (jaxtyping, beartype)."""

import os

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # tiny models: threads that wait for each other take four times as long
install_import_hook("circuitfind", "typechecker.check")
settings.register_profile("circuitfind", deadline=None, derandomize=True)  # a busy machine is no failure
settings.load_profile("circuitfind")

IN_TWO_OTHERS = "pythia-sequential"
"""A family that is two others in one: its norms, biases and rotation are pythia's, its blocks gpt2's."""
LONG = (
    "test_acdc",
    "test_exact",
    "test_grouped",
    "test_neurons",
    "test_nodes",
    "test_ownmetric",
    "test_positions",
)
"""Modules that take so long that of the other families, too, the fast tier leaves out pythia."""
LONGEST = (
    *("test_screened", "test_candidates", "test_grouped_kv", "test_decisions"),
    *(
        "test_run_neurons",
        "test_benchmarks",
        "test_sweep",
        "test_ownmetric",
        "test_bench",
        "test_resume_scores",
    ),
)
"""Modules for the slow tier alone: whole runs of what they test are in the fast one."""


@pytest.hookimpl(tryfirst=True)  # before what is slow is left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        module = item.path.stem
        if IN_TWO_OTHERS in item.name or module in LONGEST or ("pythia" in item.name and module in LONG):
            item.add_marker(pytest.mark.slow)
