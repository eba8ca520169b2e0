"""Prompt pairs, their roles, and the batch of tokens that they become."""
