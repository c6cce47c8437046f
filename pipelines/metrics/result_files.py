"""Names in tables that people open in a spreadsheet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def guarded(row: Iterable[Any]) -> list[Any]:
    """The cells of a CSV line; text that a spreadsheet would run as a formula gets an apostrophe before it.

    Names of cases are names of files, which others have given. Numbers stay as they are. OWASP, CSV injection.
    """
    return [f"'{cell}" if isinstance(cell, str) and _is_formula(cell) else cell for cell in row]


def _is_formula(text: str) -> bool:
    if not text.startswith(_FORMULA):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False
