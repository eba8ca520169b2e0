"""Methods that score edges by gradients."""
