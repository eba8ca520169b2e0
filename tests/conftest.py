"""Tests run with every annotated shape checked (jaxtyping, beartype)."""

import os

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: threads that wait for each other take four times as long
install_import_hook("circuitfind", "typechecker.check")
settings.register_profile("circuitfind", deadline=None, derandomize=True)  # a busy machine is no failure
settings.load_profile("circuitfind")

IN_TWO_OTHERS = "pythia-sequential"
"""A family that is two others in one: its norms, biases and rotation are pythia's, its blocks gpt2's."""
LONG = ("test_screened", "test_candidates", "test_nodes", "test_grouped_kv", "test_neurons", "test_positions")
"""Modules that take so long that of the other families, too, the fast tier leaves out pythia."""


@pytest.hookimpl(tryfirst=True)  # before what is slow is left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if IN_TWO_OTHERS in item.name or ("pythia" in item.name and item.path.stem in LONG):
            item.add_marker(pytest.mark.slow)
