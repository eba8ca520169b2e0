"""Tests run with every annotated shape checked (jaxtyping, beartype)."""

import os

from hypothesis import settings
from jaxtyping import install_import_hook

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: threads that wait for each other take four times as long
install_import_hook("circuitfind", "typechecker.check")
settings.register_profile("circuitfind", deadline=None, derandomize=True)  # a busy machine is no failure
settings.load_profile("circuitfind")
