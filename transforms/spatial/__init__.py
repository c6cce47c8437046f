"""Orientation, resampling, and the inverse."""
