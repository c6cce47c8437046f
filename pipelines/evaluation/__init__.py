"""Evaluation of a model, or of segmentations in files."""
