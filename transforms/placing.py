"""Files that appear by a rename in their folder."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

__all__ = ["placing"]


@contextlib.contextmanager
def placing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that becomes it when the block ends without an error; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
