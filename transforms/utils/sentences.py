"""Lists of names within a sentence."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["few_of"]


def few_of(names: Iterable[object], most: int, last: str = ", ") -> str:
    """Names in a sentence, which stays short however many there are; empty for none.

    Args:
        names: of which the first `most` are named and the rest is counted.
        most: names to be named.
        last: what stands before the last name where all are named, such as " and ".

    Examples:
        >>> few_of(["liver", "spleen"], 3), few_of(["T1", "T2", "FLAIR"], 3, last=" and ")
        ('liver, spleen', 'T1, T2 and FLAIR')
        >>> few_of(range(2000), 3)
        '0, 1, 2 and 1,997 more'
    """
    words = [str(name) for name in names]
    if len(words) > most:
        return f"{', '.join(words[:most])} and {len(words) - most:,} more"
    return last.join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
