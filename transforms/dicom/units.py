"""Check by the header whether the values of a CT image are Hounsfield units."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from transforms.dicom.attributes import UNITS
from transforms.dicom.frame import Frame
from transforms.errors import ImageError

__all__ = ["other_unit", "require_air"]

_HOUNSFIELD = frozenset(["HU", "HOUNSFIELD", "HOUNSFIELD UNIT", "HOUNSFIELD UNITS", "[HNSF'U]"])
_UNSPECIFIED = "US"
# Terms of PS3.3 C.8.2.1.1.1 and C.8.16.1.4 for images that are calculated from others, and terms that scanners use for maps
_CALCULATED = """
    EFF_ATOMIC_NUM ELECTRON_DENSITY MAT_SPECIFIC MAT_REMOVED MAT_FRACTIONAL MAT_VALUE_BASED MAT_MODIFIED STD_DEVIATION
    SUBTRACTION PERFUSION CBF CBV MTT TTP TTD TMAX TTS PBV PBF PERMEABILITY Z_EFF RHO_Z IODINE
"""
_OTHER_IMAGES = frozenset(_CALCULATED.split())
_AIR_HU = -500


def other_unit(frame: Frame) -> str:
    """Return what the values are if they are not Hounsfield units or not stated to be; "" if they are.

    They are without RescaleType, and with that of an original CT (PS3.3 C.8.2.1: RescaleType is required for other
    units; the output of an original image that is not a localizer is in Hounsfield units). ``US`` means unspecified: a derived
    image with it may hold anything, such as blood flow.
    """
    kind = frame.text("RescaleType").upper()
    if kind in _HOUNSFIELD:
        return ""
    if kind not in ("", _UNSPECIFIED):
        return f"in {frame.text('RescaleType')!r} (RescaleType)"
    units = [str(code) for code in frame.values.get(UNITS, ())]
    if units and not any(unit.upper() in _HOUNSFIELD for unit in units):
        return f"in {units[0]!r} (RealWorldValueMappingSequence)"
    image_type = [str(v).upper() for key in ("ImageType", "FrameType") for v in frame.values.get(key, ())]
    if "DERIVED" in image_type:
        found = [value for value in image_type if value in _OTHER_IMAGES]
        if found:
            return f"those of an image of the type {frame.text('ImageType') or frame.text('FrameType')}"
    if kind == _UNSPECIFIED and "ORIGINAL" not in image_type:
        return "in units that are not specified (RescaleType US) in an image that is not ORIGINAL"
    return ""


def require_air(frames: Sequence[Frame], volume: np.ndarray) -> None:
    """Raise if RescaleType is unspecified and no value is as low as air, which a CT contains and a map does not.

    Args:
        frames: the slices.
        volume: ``(slices, rows, columns)``.
    """
    unknown = [frame for frame in frames if frame.text("RescaleType").upper() == _UNSPECIFIED]
    if unknown and not (volume < _AIR_HU).any():
        raise ImageError(
            f"{unknown[0].place}: values are in units that are not specified (RescaleType US), and none is that of air, so"
            f" they are probably not Hounsfield units (lowest: {volume.min():.4g}); use the CT series."
        )
