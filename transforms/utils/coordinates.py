"""The two spaces in which medical files give positions."""

from __future__ import annotations

import numpy as np

__all__ = ["LPS_RAS"]

LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Homogeneous (4, 4): from LPS+ (DICOM PS3.3 C.7.6.2.1.1, ITK) to RAS+ (NIfTI, this project), and back, as x and y are turned round."""
LPS_RAS.setflags(write=False)
