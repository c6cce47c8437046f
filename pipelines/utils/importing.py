"""Python's garbage collector kept away from what stays until the process ends anyway.

torch, MONAI, ignite and MLflow leave some 800,000 objects. The collector walks through them again and again while
they are imported, whenever it looks at everything during the work, and twice more when the interpreter ends. None
of them is ever garbage: modules, classes and functions live as long as the process.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator

COMMANDS = ("monai.bundle.__main__", "pipelines.__main__")


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """For imports of large packages: no collection meanwhile, and in a command of ours none ever looks at them."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        keep_what_is_there()
        if collecting:
            gc.enable()


def keep_what_is_there() -> None:
    """In a command of ours the collector leaves all objects of this moment alone (`gc.freeze`).

    To be called before the work begins: a cycle among them is never freed, and modules among them are not taken
    apart when the interpreter ends. A program that uses us as a library may hold files open in its modules, so
    there nothing happens.
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None and spec.name in COMMANDS:
        gc.freeze()
