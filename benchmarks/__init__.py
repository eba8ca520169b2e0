"""Each module prints its figure: ``python -m benchmarks.NAME``."""
