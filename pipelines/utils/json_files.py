"""Reading JSON files from other sources, with an error message in one sentence if a file is invalid."""

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
"""Maximum nesting depth of objects and lists; the files of this project have fewer than ten levels."""
# Lone surrogates, except those from U+DC80 to U+DCFF, which stand for undecodable bytes of file names (PEP 383).
_HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")


class JsonError(UserError, ValueError):
    """The content of a file is not valid JSON; the message states what is wrong."""


def read_json(
    path: str | os.PathLike,
    pairs: Callable[[list[tuple[str, Any]]], dict[str, Any]] | None = None,
    largest: int | None = None,
) -> Any:
    """The content of a JSON file.

    Args:
        path: path of the file.
        pairs: makes an object from its pairs, the `object_pairs_hook` of `json.loads`.
        largest: maximum size in bytes; None for no limit.

    Raises:
        JsonError: the file is too large, is not valid JSON, is nested deeper than `DEEPEST`, or has a lone surrogate,
            which cannot be written to files. The message does not name the file; the caller adds it.
        OSError: the file cannot be opened.
    """
    with Path(path).open("rb") as stream:
        raw = stream.read() if largest is None else stream.read(largest + 1)
    if largest is not None and len(raw) > largest:
        raise JsonError(f"of more than {largest >> 20} MB")
    try:
        content = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=pairs)
    except RecursionError:
        raise JsonError(f"nested deeper than {DEEPEST} levels") from None
    except UserError:  # raised by `pairs`
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
                raise JsonError(f"invalid character (lone surrogate) \\u{ord(half[0]):04x} in {value[:80]!a}")
        if not below:
            return
        level = below
    raise JsonError(f"nested deeper than {DEEPEST} levels")
