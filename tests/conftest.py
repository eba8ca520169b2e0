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

LEFT_TO_THE_SLOW_TIER = "pythia-sequential"
"""A family that is two others in one: its norms, biases and rotation are pythia's, its blocks gpt2's."""


@pytest.hookimpl(tryfirst=True)  # before what is slow is left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if LEFT_TO_THE_SLOW_TIER in item.name:
            item.add_marker(pytest.mark.slow)
