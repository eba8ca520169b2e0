"""A finished circuit looked at again."""
