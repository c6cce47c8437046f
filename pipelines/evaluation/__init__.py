"""Metrics of a model, or of files."""
