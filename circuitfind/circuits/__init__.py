"""Circuits as data and as files."""
