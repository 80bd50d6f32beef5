"""Tensors of few values: found in the exported graph, and written as comparisons and planes."""
