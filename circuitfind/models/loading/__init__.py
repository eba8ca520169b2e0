"""Finding, fetching, reading and checking a model."""
