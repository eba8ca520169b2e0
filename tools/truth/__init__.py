"""Compiles the models whose circuit is known (``circuitfind/truth/models``)."""
