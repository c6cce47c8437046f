"""What happens to one image: readers, geometry, intensity, augmentation, writers.

The names that bundles use stand in `__init__.pyi` and are imported when first asked for, since augmentation needs
MONAI's transforms, which take seconds to import.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
