"""The smallest type that holds an image's values exactly."""

from __future__ import annotations

import numpy as np

__all__ = ["compact"]


def compact(array: np.ndarray, slope: float = 1.0, intercept: float = 0.0) -> np.ndarray:
    """Apply ``slope * array + intercept`` and keep the smallest exact type: int16, int32, else float32."""
    whole = array.dtype.kind in "iub" and slope == 1.0 and float(intercept).is_integer()
    if whole and array.size:
        shift = int(intercept)
        low, high = int(array.min()) + shift, int(array.max()) + shift
        for dtype in (np.int16, np.int32):
            if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
                if shift == 0:
                    return array.astype(dtype, copy=False)
                out = np.empty_like(array, dtype=dtype)
                for index in range(array.shape[-1]):
                    out[..., index] = array[..., index].astype(np.int64) + shift
                return out
    if slope == 1.0 and intercept == 0.0:
        return array.astype(np.float32, copy=False)
    out = np.empty_like(array, dtype=np.float32)
    for index in range(array.shape[-1]):  # by slice, to avoid a float64 copy of the whole volume
        out[..., index] = array[..., index].astype(np.float64) * slope + intercept
    return out
