"""Processing of a single image: readers, geometry, intensity, augmentation, writers.

The names that bundles use are listed in `__init__.pyi` and imported on first use, because augmentation needs
MONAI's transforms, which take seconds to import.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
