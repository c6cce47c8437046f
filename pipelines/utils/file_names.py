"""What files can be called on every system: what is written on one must be copied to any other."""

from __future__ import annotations

import re

_FORBIDDEN = re.compile(r'[\x00-\x1f<>:"/\\|?*]')
_DEVICE = re.compile(r"(con|prn|aux|nul|(com|lpt)[1-9¹²³]) *(\..*)?", re.IGNORECASE | re.DOTALL)
# Halves of characters, which Windows lets file names have; the rest of their kind stands for single bytes.
_UNPAIRED = re.compile("[\ud800-\udc7f\udd00-\udfff]")
_LONGEST, _MOST_BYTES = 120, 200


def is_portable(name: str) -> bool:
    """Whether a text can begin the names of files on Linux, macOS and Windows, with room for what is added to it."""
    return (
        _FORBIDDEN.search(name) is None
        and name == name.strip(" .") != ""
        and not is_device(name)
        and len(name) <= _LONGEST
        and name == readable(name)
        and len(name.encode()) <= _MOST_BYTES
    )


def is_device(name: str) -> bool:
    """Whether Windows takes a name for that of a device, as con, NUL and com1.txt, so that no file can have it."""
    return _DEVICE.fullmatch(name) is not None


def readable(name: str) -> str:
    """A file's name as text; what is none (bytes that are no UTF-8, as on disks from other times) is U+FFFD.

    Python keeps such bytes as lone surrogates, which no table, page or database takes.
    """
    return _UNPAIRED.sub("\ufffd", name).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
