"""CT series, SEG, RTSTRUCT: read, checked, written.

The names in `__init__.pyi` are imported when first asked for, since pydicom takes its time.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
