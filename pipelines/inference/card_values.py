"""Values of a model's description, perhaps a stranger's: each is of its kind and bounded, or refused by its name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from transforms.errors import UserError

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class CardError(UserError, ValueError):
    """A description is none, or beyond the bounds; the message is the end of a sentence that names the file."""


def mapping(value: Any, where: str) -> Mapping[str, Any]:
    """A JSON object.

    Raises:
        CardError: it is none.
    """
    if not isinstance(value, Mapping):
        raise CardError(f"{where} is {shown(value)}, not a JSON object")
    return value


def entries(value: Any, where: str, most: int) -> Mapping[str, Any]:
    """A JSON object of a limited number of entries.

    Raises:
        CardError: it is none, or has more.
    """
    found = mapping(value, where)
    if len(found) > most:
        raise CardError(f"{where} has {len(found)} entries; {most} are the most")
    return found


def number(value: Any, where: str, low: float, high: float) -> Any:
    """A number within bounds.

    Raises:
        CardError: it is none.
    """
    # NaN lies between no two numbers.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise CardError(f"{where} is {shown(value)}; it must be a number from {low:g} to {high:g}")
    return value


def whole(value: Any, where: str, low: int, high: int) -> int:
    """A whole number within bounds.

    Raises:
        CardError: it is none.
    """
    found = number(value, where, low, high)
    if found != int(found):
        raise CardError(f"{where} is {shown(value)}; it must be a whole number")
    return int(found)


def text(value: Any, where: str, longest: int) -> str:
    """A text of some length without control characters.

    Raises:
        CardError: it is none.
    """
    if not isinstance(value, str) or not 0 < len(value) <= longest:
        raise CardError(f"{where} is {shown(value)}; it must be a text of 1 to {longest} characters")
    if _CONTROL.search(value):
        raise CardError(f"{where} is {shown(value)}, which holds control characters")
    return value


def matching(value: Any, where: str, pattern: str) -> str:
    """A text that a pattern describes.

    Raises:
        CardError: it is none.
    """
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        raise CardError(f"{where} is {shown(value)}, which is not a valid value")
    return value


def shown(value: Any, limit: int = 60) -> str:
    """A value in a message: short, whatever it is, and without characters that a terminal obeys."""
    if isinstance(value, (list, Mapping)) and len(value) > 16:
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)} items"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**20:
        return f"a number of {int(value.bit_length() * 0.30103)} digits"
    short = ascii(value)
    return short if len(short) <= limit else f"{short[:limit]}..."
