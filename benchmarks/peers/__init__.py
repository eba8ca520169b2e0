"""The two sides of a comparison with another tool: each a process of its own, that tool's in its own interpreter."""
