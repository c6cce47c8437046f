"""CT series, SEG and RTSTRUCT in DICOM.

The names in `__init__.pyi` are imported on first use, because importing pydicom is slow.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
