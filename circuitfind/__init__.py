"""circuitfind finds the circuit of a behaviour in a language model."""

__version__ = "0.1.0"
