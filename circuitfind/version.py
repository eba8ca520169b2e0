"""The version of circuitfind, as pyproject.toml has it and as every file that it writes says."""

__version__ = "0.1.0"
