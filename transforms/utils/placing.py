"""Files that appear by a rename in their folder."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["placing", "put_in_place"]

_ACCESS_DENIED, _SHARING_VIOLATION = 5, 32
_PATIENCE = 5.0


@contextlib.contextmanager
def placing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that becomes it when the block ends without an error; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        put_in_place(part, path)
    finally:
        part.unlink(missing_ok=True)


def put_in_place(source: str | os.PathLike, target: str | os.PathLike) -> Path:
    """Give a file or a folder another name, in place of a file that may have it already; returns the target.

    Windows refuses that while another program (a reader, a virus scanner) has either of them open, mostly for a
    moment: then it is tried again, for 5 seconds.

    Raises:
        OSError: as `os.replace`.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return Path(source).replace(target)
        except OSError as error:
            refused = getattr(error, "winerror", None) in (_ACCESS_DENIED, _SHARING_VIOLATION)
            if not refused or time.monotonic() >= deadline:
                raise
        time.sleep(0.05)
