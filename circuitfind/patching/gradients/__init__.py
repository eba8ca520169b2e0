"""Gradients of a metric with respect to what receivers read, and the scores of edges from them."""
