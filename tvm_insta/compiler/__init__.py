"""The compiler as a library: one model from its import to a checked artefact, and its tuning."""
