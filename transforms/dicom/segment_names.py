"""Mapping of the names of segments and ROIs to the class ids of a dataset."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transforms.errors import ImageError
from transforms.utils.sentences import few_of

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["match_names", "numbered_names", "plain_name"]

_SHOWN = 30
_log = logging.getLogger(__name__)


def plain_name(name: str) -> str:
    """Return a name without differences in spelling: case, surrounding blanks, and ``_``, ``-`` or space."""
    return re.sub(r"[\s_\-]+", " ", str(name)).strip().casefold()


def numbered_names(
    path: Path, items: Sequence[Dataset], number: str, name: str, what: str, way_out: str
) -> dict[int, str]:
    """Number and name of every item of a DICOM sequence.

    Args:
        path: for messages.
        items: of the sequence.
        number, name: keywords of the two.
        what: name of the items in the plural, for messages.
        way_out: advice for messages, a sentence.

    Raises:
        ImageError: there are none, or two of the same number.
    """
    names = {int(getattr(item, number)): str(item.get(name, "")) for item in items}
    if not names or len(names) != len(items):
        raise ImageError(f"{path}: its {what} have no numbers, or the same one twice. {way_out}")
    return names


def match_names(
    path: Path, found: Mapping[int, str], labels: Mapping[int, str], what: str, quiet: bool = False
) -> dict[int, int]:
    """Match the names in a file with those of a dataset.

    Args:
        path: for messages.
        found: number of the segment or ROI in the file to its name.
        labels: class id to name, 0 the background.
        what: "segment" or "ROI", for messages.
        quiet: log nothing.

    Returns:
        Number to class id (1 or more) of the items that the dataset names. The others are left out, with a
        message in the log.

    Raises:
        ImageError: no name matches, or two match one class.
    """
    ids = {plain_name(name): index for index, name in labels.items()}
    matched = {
        number: ids[plain_name(name)] for number, name in found.items() if ids.get(plain_name(name), 0) > 0
    }
    wanted = ", ".join(name for index, name in labels.items() if index > 0)
    if not matched:
        held = few_of(map(repr, found.values()), _SHOWN) or "nothing"
        raise ImageError(
            f"{path}: none of its {what}s has the name of a class; it holds {held}, and dataset.json"
            f" names {wanted}: give the classes the names of the {what}s."
        )
    by_class: dict[int, list[int]] = {}
    for number, index in matched.items():
        by_class.setdefault(index, []).append(number)
    for index, numbers in by_class.items():
        if len(numbers) > 1:
            raise ImageError(
                f"{path}: {what}s {', '.join(f'{n} ({found[n]!r})' for n in numbers)} are all named like the class"
                f" {labels[index]!r}; keep one, or rename the others."
            )
    ignored = [
        name for number, name in found.items() if number not in matched and ids.get(plain_name(name)) != 0
    ]
    absent = [name for index, name in labels.items() if index > 0 and index not in by_class]
    if ignored and not quiet:
        # A missing class beside left-over names may be a different spelling, which the user should notice.
        _log.log(
            logging.WARNING if absent else logging.INFO,
            "%s: %s(s) %s not named in dataset.json and left out%s.",
            path,
            what,
            few_of(map(repr, ignored), _SHOWN),
            f"; no {what} is named {', '.join(absent)}" if absent else "",
        )
    return matched
