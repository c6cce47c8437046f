"""What "labels" of a dataset.json says: classes, regions that are unions of them, and a value for what to ignore.

The spellings are those of the Decathlon ({"0": "background"}) and of nnU-Net ({"background": 0}), the latter with
regions ({"tumor": [1, 2]}) and with an "ignore" label; docs/data.md shows each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from transforms.errors import UserError

IGNORE = "ignore"
"""Name of the value of voxels that nobody has annotated."""
EXAMPLE = 'write {"0": "background", "1": "liver"}'


class LabelsError(UserError, ValueError):
    """ "labels" does not say what the values of label maps mean; the message is a sentence without the file."""


class LabelNames(NamedTuple):
    """What the values of label maps mean.

    Attributes:
        labels: class id to name, 0 the background where it has a name.
        regions: name to the class ids that make it up, in the order of the file; empty where classes are all there is.
        ignore: value of voxels that nobody has annotated, above all class ids.
        segments: value to the name of the DICOM segment or ROI that stands for it, the background's included. A
            segment of a region that holds others stands for what the others leave of it.
    """

    labels: dict[int, str]
    regions: dict[str, tuple[int, ...]]
    ignore: int | None
    segments: dict[int, str]


def label_names(content: Mapping[str, Any]) -> LabelNames:
    """Read "labels", and look at "regions_class_order" where there are regions.

    Raises:
        LabelsError: saying what is wrong and what to do.
    """
    labels = content.get("labels")
    if not isinstance(labels, dict) or not labels:
        raise LabelsError(f'"labels" is missing or not an object; {EXAMPLE}.')
    named = _named_values(labels)
    names = [name for name, _ in named]
    if not all(isinstance(name, str) and name for name in names):
        raise LabelsError(f'"labels" needs a name for every id; {EXAMPLE}.')
    if len(set(names)) != len(names):
        raise LabelsError('"labels" gives two ids the same name; make the names unique.')
    ignore = next((values for name, values in named if name == IGNORE), None)
    stated = [(name, values) for name, values in named if name != IGNORE]
    if ignore is not None:
        _require_highest(ignore, [value for _, values in stated for value in values])
    classes: dict[int, str] = {}
    regions: dict[str, tuple[int, ...]] = {}
    for name, values in stated:
        if len(set(values)) != len(values) or not values or (len(values) > 1 and 0 in values):
            raise LabelsError(
                f'"labels" makes up the region {name!r} of {list(values)}; name each of its values once, and 0, the'
                " background, only for itself."
            )
        if values == (0,):
            if 0 in classes:
                raise LabelsError(
                    '"labels" gives the value 0 two names; it is the background and nothing else.'
                )
            classes[0] = name
        else:
            regions[name] = values
    if all(len(values) == 1 for values in regions.values()):
        for name, (value,) in regions.items():
            if value in classes:
                raise LabelsError(f'"labels" gives the value {value} two names; make it one class.')
            classes[value] = name
        regions = {}
    else:
        _require_different(regions)
        classes |= _exclusive_names(regions)
    if regions and content.get("regions_class_order") is not None:
        _check_order(content["regions_class_order"], regions)
    segments = _segments(regions) or {value: name for value, name in sorted(classes.items()) if value != 0}
    background = {0: classes[0]} if 0 in classes else {}
    marked = {ignore[0]: IGNORE} if ignore is not None else {}
    return LabelNames(
        dict(sorted(classes.items())), regions, next(iter(marked), None), background | segments | marked
    )


def _whole(value: Any) -> bool:
    return not isinstance(value, bool) and re.fullmatch(r"-?\d{1,9}", str(value)) is not None


def _named_values(labels: Mapping[str, Any]) -> list[tuple[Any, tuple[int, ...]]]:
    """Name and values of every entry, in the order of the file."""
    if all(_whole(key) for key in labels):
        return [(name, (int(key),)) for key, name in labels.items()]
    found = []
    for name, value in labels.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        if not all(_whole(each) for each in values):
            raise LabelsError(f'"labels" does not map class ids to names; {EXAMPLE}.')
        found.append((name, tuple(int(each) for each in values)))
    return found


def _require_highest(ignore: Sequence[int], others: Sequence[int]) -> None:
    if len(ignore) != 1 or any(value >= ignore[0] for value in others):
        highest = max(others, default=0)
        raise LabelsError(
            f'"labels" gives the ignore label {list(ignore) if len(ignore) != 1 else ignore[0]}; it must be one value'
            f" above all others, {highest + 1}. Renumber it in the label maps and dataset.json."
        )


def _require_different(regions: Mapping[str, tuple[int, ...]]) -> None:
    seen: dict[frozenset[int], str] = {}
    for name, values in regions.items():
        other = seen.setdefault(frozenset(values), name)
        if other != name:
            raise LabelsError(
                f'"labels" makes up {other!r} and {name!r} of the same values; keep one of them.'
            )


def _exclusive_names(regions: Mapping[str, tuple[int, ...]]) -> dict[int, str]:
    """A name for each value: its region's, else that of a region without another, where that is exactly the value."""
    found: dict[int, str] = {}
    members = {name: set(values) for name, values in regions.items()}
    for value in sorted({value for values in members.values() for value in values}):
        candidates = [name for name, values in members.items() if values == {value}]
        candidates += [
            f"{name} without {other}"
            for name, values in members.items()
            for other, part in members.items()
            if part < values and values - part == {value}
        ]
        taken = [name for name, values in members.items() if values != {value}]
        plain = f"label {value}"
        while plain in taken:
            plain = f"only {plain}"
        found[value] = next((name for name in candidates if name not in taken), plain)
    return found


def _check_order(order: Any, regions: Mapping[str, tuple[int, ...]]) -> None:
    """Raise LabelsError unless it is what nnU-Net needs. Here argmax over the classes needs no order."""
    values = {value for region in regions.values() for value in region}
    fits = isinstance(order, list) and len(order) == len(regions) and all(map(_whole, order))
    if not fits or len({int(value) for value in order}) != len(order) or {int(v) for v in order} - values:
        raise LabelsError(
            f'"regions_class_order" is {order}; it must name a different value of the label maps for each of the'
            f" {len(regions)} regions {', '.join(regions)}."
        )


def _segments(regions: Mapping[str, tuple[int, ...]]) -> dict[int, str]:
    """For each value a region that holds none below it: painted by rising values they give the label map back.

    Empty where a value has no such region.
    """
    lowest: dict[int, str] = {}
    for name, values in regions.items():
        lowest.setdefault(min(values), name)
    every = {value for values in regions.values() for value in values}
    return dict(sorted(lowest.items())) if set(lowest) == every else {}
