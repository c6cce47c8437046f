"""Names of metrics, parameters and classes that MLflow accepts, such that different names stay different.

The name of a metric or parameter in MLflow may have at most 250 characters: letters of any script, digits, spaces and
`_-.:/`. Names of classes may contain others: `GTV (1)`, `<10 mm`.
"""

from __future__ import annotations

import functools
import hashlib
import posixpath
from collections import Counter
from collections.abc import Sequence
from html.entities import html5

LONGEST = 250
# Leaves room for the parts of a metric's name before and after the class.
_LONGEST_CLASS = 200


def allowed(name: str, longest: int = LONGEST) -> str:
    """A name with `_` in place of each character that MLflow does not accept, cut to a length.

    Examples:
        >>> allowed("GTV (1)")
        'GTV _1_'
    """
    return "".join(c if _is_allowed(c) else "_" for c in name)[:longest]


def metric_names(classes: Sequence[str]) -> dict[str, str]:
    """The name of each class in the names of metrics; it depends only on the set of classes.

    Characters that MLflow does not accept become `_`. If two classes would then have the same name, these characters
    are replaced by their names in HTML instead: `GTV (1)` and `GTV [1]` become `GTV _lpar_1_rpar_` and
    `GTV _lsqb_1_rsqb_`, `<10 mm` becomes `_lt_10 mm`.

    Args:
        classes: names of the classes, without duplicates.

    Examples:
        >>> metric_names(["left lung", "lesion (old)"])
        {'left lung': 'left lung', 'lesion (old)': 'lesion _old_'}
    """
    plain = {name: _as_path(allowed(name, _LONGEST_CLASS)) for name in classes}
    counted = Counter(plain.values())
    names = {name: key if counted[key] == 1 else spelled(name) for name, key in plain.items()}
    counted = Counter(names.values())
    return {name: key if counted[key] == 1 else f"{key} {_digest(name)}" for name, key in names.items()}


def spelled(name: str, longest: int = _LONGEST_CLASS) -> str:
    """A name in which each character that MLflow does not accept is replaced by its name in HTML, or its number.

    Examples:
        >>> spelled("GTV (1)")
        'GTV _lpar_1_rpar_'
    """
    text = _as_path("".join(c if _is_allowed(c) else f"_{_entities().get(c, f'x{ord(c):x}')}_" for c in name))
    return text if len(text) <= longest else f"{text[: longest - 9]} {_digest(name)}"


class Keys:
    """The MLflow keys of the names in one run; different names have different keys.

    Examples:
        >>> keys = Keys()
        >>> keys.of("GTV (1)"), keys.of("GTV [1]")
        ('GTV _1_', 'GTV _lsqb_1_rsqb_')
    """

    def __init__(self) -> None:
        self._keys: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def of(self, name: str) -> str:
        """The key of a name; always the same for the same name."""
        if name not in self._keys:
            key = allowed(name)
            if self._names.setdefault(key, name) != name:
                key = spelled(name, LONGEST)
            if self._names.setdefault(key, name) != name:
                key = f"{key[: LONGEST - 9]} {_digest(name)}"
            self._names[key] = name
            self._keys[name] = key
        return self._keys[name]


def _is_allowed(character: str) -> bool:
    return character.isalnum() or character in "_-. :/"


def _as_path(key: str) -> str:
    # MLflow refuses names that change when normalised as a path, such as "a//b" or "../a".
    return key if posixpath.normpath(f"x{key}") == f"x{key}" else key.replace("/", "_")


@functools.cache
def _entities() -> dict[str, str]:
    found: dict[str, str] = {}
    for name, character in sorted(html5.items(), key=lambda entry: (len(entry[0]), entry[0].swapcase())):
        if name.endswith(";") and len(character) == 1:
            found.setdefault(character, name[:-1])
    return found


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
