"""Tests run with every annotated shape checked (jaxtyping, beartype)."""

import os

from jaxtyping import install_import_hook

os.environ.setdefault("HF_HUB_OFFLINE", "1")
install_import_hook("circuitfind", "typechecker.check")
