"""What happens to one image: readers, geometry, intensity, augmentation, writers.

The names that bundles use are imported when first asked for, since augmentation needs MONAI's transforms,
which take seconds to import.
"""

from importlib import import_module
from typing import Any

_HOME_OF = {
    "DicomSeriesReader": "transforms.dicom.image_reader",
    "PatchAugmentation": "transforms.augmentation.patch_augmentation",
}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'transforms' has no attribute '{name}'")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value
