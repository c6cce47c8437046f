"""File names that are valid on Linux, macOS and Windows, so that results can be copied between systems."""

from __future__ import annotations

import re

_FORBIDDEN = re.compile(r'[\x00-\x1f<>:"/\\|?*]')
_DEVICE = re.compile(r"(con|prn|aux|nul|(com|lpt)[1-9¹²³]) *(\..*)?", re.IGNORECASE | re.DOTALL)
# Lone surrogates, which Windows allows in file names. Those from U+DC80 to U+DCFF are Python's code for single bytes.
_UNPAIRED = re.compile("[\ud800-\udc7f\udd00-\udfff]")
_LONGEST, _MOST_BYTES = 120, 200


def is_portable(name: str) -> bool:
    """Whether file names on Linux, macOS and Windows may start with a text, with room for a suffix."""
    return (
        _FORBIDDEN.search(name) is None
        and name == name.strip(" .") != ""
        and not is_device(name)
        and len(name) <= _LONGEST
        and name == readable(name)
        and len(name.encode()) <= _MOST_BYTES
    )


def is_device(name: str) -> bool:
    """Whether a name, such as con, NUL or com1.txt, is reserved for a device on Windows."""
    return _DEVICE.fullmatch(name) is not None


def readable(name: str) -> str:
    """The name of a file as valid text, with U+FFFD in place of bytes that are not UTF-8.

    Python represents such bytes as lone surrogates, which cannot be written to tables, pages or databases.
    """
    return _UNPAIRED.sub("\ufffd", name).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
