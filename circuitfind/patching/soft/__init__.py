"""Runs under masks whose values lie between 0 and 1."""
