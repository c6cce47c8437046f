"""What happens to a cohort: cases, preprocessing, patches, training, evaluation, prediction, runs.

The names that bundles use stand in `__init__.pyi` and are imported when first asked for: a process that only builds
patches should not wait for MLflow.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
