"""A run's life on disk: which files are whose, and how new ones take the place of old ones."""
