"""Excluding the objects of imported packages from garbage collection, which saves time.

Importing torch, MONAI, ignite and MLflow creates about 800,000 objects. The collector would examine all of them
several times during the imports, at each full collection, and twice when the interpreter ends. They are never garbage,
because modules, classes and functions exist until the process ends.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator

COMMANDS = ("monai.bundle.__main__", "pipelines.__main__")
_SCRIPTS: list[str] = []


def this_is_a_command() -> None:
    """Tell that this process is a command of this project, which the script that pip makes of it cannot show."""
    _SCRIPTS.append(sys.argv[0])


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Pause garbage collection during imports; in a command of this project, exclude their objects permanently."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        keep_what_is_there()
        if collecting:
            gc.enable()


def keep_what_is_there() -> None:
    """In a command of this project, exclude all existing objects from garbage collection (`gc.freeze`).

    To be called before the work begins, because reference cycles among these objects are never freed and their
    modules are not cleared when the interpreter ends. Does nothing in programs that use this project as a library,
    as their modules may hold open files.
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if _SCRIPTS or (spec is not None and spec.name in COMMANDS):
        gc.freeze()
