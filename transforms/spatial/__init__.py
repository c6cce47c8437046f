"""Orientation, resampling, and the conversion of predictions back to the grid of the file."""
