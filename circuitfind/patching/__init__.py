"""Runs of a transformer with chosen edges ablated."""
