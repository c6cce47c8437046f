"""DICOM CT, SEG and RTSTRUCT. The names below are imported when first asked for, since pydicom takes its time."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transforms.dicom.series import Series, Volume, find_volumes, read_series, scan_series

__all__ = ["Series", "Volume", "find_volumes", "read_series", "scan_series"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'transforms.dicom' has no attribute '{name}'")
    value = getattr(import_module("transforms.dicom.series"), name)
    globals()[name] = value
    return value
