"""JSON that others wrote, read or refused in a sentence."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transforms.errors import UserError

__all__ = ["JsonError", "read_json"]

DEEPEST = 100
"""Objects and lists within each other; what this project reads has fewer than ten."""
# Halves of characters (PEP 383 uses those from U+DC80 to U+DCFF for bytes of file names that are no text).
_HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")


class JsonError(UserError, ValueError):
    """A file is no JSON that can be used; the message names it and says what is wrong."""


def read_json(
    path: str | os.PathLike,
    pairs: Callable[[list[tuple[str, Any]]], dict[str, Any]] | None = None,
    largest: int | None = None,
) -> Any:
    """The content of a JSON file.

    Args:
        pairs: makes an object of its pairs, see `json.loads`.
        largest: bytes; of a larger file no more is read.

    Raises:
        JsonError: it is larger, no JSON, nested deeper than `DEEPEST`, or holds half a character, which no file name and no
            table takes. The message names neither the file nor a way out.
        OSError: it cannot be opened.
    """
    with Path(path).open("rb") as stream:
        raw = stream.read() if largest is None else stream.read(largest + 1)
    if largest is not None and len(raw) > largest:
        raise JsonError(f"of more than {largest >> 20} MB")
    try:
        content = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=pairs)
    except RecursionError:
        raise JsonError(f"nested deeper than {DEEPEST} levels") from None
    except UserError:  # said by `pairs`
        raise
    except ValueError as error:
        raise JsonError(f"not valid JSON ({error})") from error
    _check(content)
    return content


def _check(content: Any) -> None:
    level = [content]
    for _ in range(DEEPEST):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += [*value, *value.values()]
            elif isinstance(value, list):
                below += value
            elif isinstance(value, str) and (half := _HALF.search(value)):
                raise JsonError(f"half a character, \\u{ord(half[0]):04x}, in {value[:80]!a}")
        if not below:
            return
        level = below
    raise JsonError(f"nested deeper than {DEEPEST} levels")
