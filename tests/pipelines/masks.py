"""Masks and label maps that look like structures: smooth, of any place, sometimes in pieces."""

import numpy as np
from scipy import ndimage


def blob(seed, shape):
    """A smooth structure of about a third of the volume, bool; never empty."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2.0)
    return smooth > np.quantile(smooth, 0.65)


def label_map(seed, shape, classes):
    """Classes 0..classes-1, uint8, all present, side by side."""
    random = np.random.default_rng(seed)
    levels = [ndimage.gaussian_filter(random.normal(size=shape), 1.5) for _ in range(classes)]
    return np.argmax(levels, axis=0).astype(np.uint8)
