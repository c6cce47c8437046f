"""Overlap, surfaces, volumes, statistics and tables."""
