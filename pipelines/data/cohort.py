"""What the cases of a training say together that none of them says alone: nothing to learn, or another kind of image."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from pipelines.data.cases import Dataset

_SHOWN = 10


def may_be_ct(dataset: Dataset) -> bool:
    """Whether the images may be CT: dataset.json says so under "modality" or "channel_names", or says nothing."""
    names = dataset.channel_names
    return not names or any(re.search(r"\bct\b", name, re.IGNORECASE) for name in names)


def missing_foreground(present: Mapping[str, Iterable[int]], labels: Mapping[int, str]) -> list[str]:
    """Which training cases have no foreground, and which classes no training case has.

    Args:
        present: case id to the foreground classes in its label map.
        labels: class id to name, background included.

    Returns:
        A sentence each, none where nothing is missing.
    """
    found = []
    empty = [case for case, classes in present.items() if not set(classes)]
    if empty:
        found.append(
            f"{len(empty)} of {len(present)} training cases have no foreground: {_some(empty)}; nothing but background is"
            " learned from them. Look whether their label maps are the right ones."
        )
    seen = {value for classes in present.values() for value in classes}
    unseen = [name for value, name in sorted(labels.items()) if value != 0 and value not in seen]
    if unseen and present:
        found.append(
            f"no training case has the class{'es' if len(unseen) > 1 else ''} {_some(unseen)}, which the network"
            " therefore cannot learn. Take it out of the labels, or add cases that have it."
        )
    return found


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
