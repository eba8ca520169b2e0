"""Scripts that made files that are checked in; not part of the package."""
